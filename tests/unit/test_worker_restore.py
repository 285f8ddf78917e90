"""The order of a take-over, on a source that only answers: each step closes a way by which a former owner writes on."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from kompensate.orchestrator.errors import Corrupted
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing import VirtualClock
from kompensate.orchestrator.worker.restore import UNKNOWN_TRIES, Ends, take_over

T = TypeVar("T")

SETTINGS = Settings(restore_stall_seconds=60.0, unstable_seconds=1.0, tombstone_retention_seconds=3_600.0)
CLOCK_STEP_SECONDS = 0.5
TEN = Ends(0, 10, 10)


def record(offset: int) -> Record:
    return Record("app.state", 3, offset, 0, b"k", b"v", None)


@dataclass
class Source:
    """Answers as it is told to, and writes down what it was asked. Fencing decides what is open."""

    end: Ends = TEN
    later: list[Ends] = field(default_factory=list)
    """What `ends` answers one after the other, before `end`."""
    names: dict[int, str] = field(default_factory=dict)
    unstable: int = 0
    """How often `committed` finds a transaction pending."""
    offsets: dict[str, int] = field(default_factory=lambda: {"app.requests": 7})
    unknown: int = 0
    """How often `committed` knows nothing."""
    steps: list[int] = field(default_factory=list)
    """How far reading has come after each `read`; then it stays where it is."""
    found: list[Record] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    partition: int = 3
    position: int = 0

    def ends(self) -> Ends:
        self.asked.append("ends")
        return self.later.pop(0) if self.later else self.end

    def writers(self, start: int, end: int) -> list[str]:
        self.asked.append(f"writers {start}-{end}")
        return [name for offset, name in sorted(self.names.items()) if start <= offset < end]

    def fence(self, writers: Collection[str]) -> None:
        self.asked.append(f"fence {' '.join(sorted(writers))}")

    def committed(self, timeout: float) -> Mapping[str, int] | None:
        self.asked.append(f"committed {timeout:g}")
        if self.unstable:
            self.unstable -= 1
            return None
        if self.unknown:
            self.unknown -= 1
            return {}
        return self.offsets

    def beginning(self) -> Mapping[str, int]:
        self.asked.append("beginning")
        return {"app.requests": 0}

    def start(self, low: int, end: int) -> None:
        self.asked.append(f"start {low}-{end}")
        self.position = low

    def read(self) -> int:
        self.position = self.steps.pop(0) if self.steps else self.position
        return self.position

    def records(self) -> Iterator[Sequence[Record]]:
        self.asked.append("records")
        yield self.found

    def close(self) -> None:
        self.asked.append("close")


def at_once(call: Callable[[], T]) -> "Future[T]":
    future: Future[T] = Future()
    try:
        future.set_result(call())
    except Exception as error:
        future.set_exception(error)
    return future


def restored(source: Source) -> tuple[list[Record], Mapping[str, int]]:
    """Step the take-over to its end; time passes whenever there is nothing to read."""
    clock = VirtualClock()
    takeover = take_over(source, "app.requests", settings=SETTINGS, clock=clock, spawn=at_once)
    records: list[Record] = []
    for batch in takeover.records:
        records += batch or ()
        if not batch:
            clock.advance(CLOCK_STEP_SECONDS)
    return records, takeover.committed


def test_offsets_are_asked_for_before_the_end_that_is_read_to() -> None:
    """The end is taken after the offsets: a transaction whose offsets we know is below it."""
    source = Source(steps=[1, 10], found=[record(0), record(9)])

    records, committed = restored(source)

    assert [one.offset for one in records] == [0, 9]
    assert committed == {"app.requests": 7}
    assert source.asked == ["ends", "committed 1", "beginning", "ends", "start 0-10", "ends", "records", "close"]


def test_writers_of_open_transactions_are_fenced_first() -> None:
    """What hangs at the end is looked through, and whoever began it is fenced before any offset is asked for."""
    source = Source(later=[Ends(0, 6, 10)] * 11, names={2: "old", 6: "dead.0", 8: "dead.1"}, steps=[10])

    restored(source)

    fence = source.asked.index("fence dead.0 dead.1")
    assert source.asked[fence - 1] == "writers 6-10"
    assert source.asked[fence + 1] == "committed 1"


def test_a_commit_that_is_just_ending_costs_nobody_its_producer() -> None:
    """Markers take milliseconds: where the end is decided when asked again, nobody is fenced."""
    source = Source(later=[Ends(0, 6, 10), Ends(0, 6, 10)], names={6: "alive.0"}, steps=[10])

    restored(source)

    assert not any(call.startswith("fence") for call in source.asked)


def test_pending_offsets_have_the_last_writer_fenced() -> None:
    """A transaction that covers the offsets and has no records here: the last watermark names the slot it came from."""
    source = Source(Ends(0, 5_000, 5_000), names={40: "first.0", 700: "last.1"}, unstable=1, steps=[5_000])

    restored(source)

    assert source.asked[1:6] == [
        "committed 1",
        "writers 4000-5000",
        "writers 0-5000",
        "fence last.1",
        "committed 60",
    ]


def test_offsets_that_stay_pending_stop_the_partition() -> None:
    """Whoever holds them is not ours to end: a named error, not a wait without end."""
    source = Source(unstable=2, names={3: "last.1"})

    with pytest.raises(Corrupted, match=r"state partition 3: .*'last.1' was fenced; .*find-hanging") as found:
        restored(source)

    assert not found.value.retry
    assert source.asked[-1] == "close"


def test_a_group_without_offsets_is_asked_again_where_there_is_state() -> None:
    """A coordinator that moves knows nothing for a moment; one that still knows nothing is believed."""
    moving = Source(unknown=3, steps=[10])
    expired = Source(unknown=100, steps=[10])
    new = Source(Ends(0, 0, 0), unknown=100)

    assert restored(moving)[1] == {"app.requests": 7}
    assert restored(expired)[1] == {}
    assert expired.asked.count("committed 1") == 1 + UNKNOWN_TRIES
    assert restored(new)[1] == {}
    assert new.asked.count("committed 1") == 1


def test_a_last_marker_is_part_of_the_way_to_the_end() -> None:
    """Where the last offsets are markers or compacted away, the end that the broker tells ends the reading."""
    source = Source(steps=[1, 8, 8, 10], found=[record(0)])

    assert [one.offset for one in restored(source)[0]] == [0]


def test_an_empty_partition_is_not_read() -> None:
    """Nothing was ever written, or all of it is gone: reading would wait for a record that does not come."""
    source = Source(Ends(25, 25, 25))

    assert restored(source)[0] == []
    assert not any(call.startswith("start") for call in source.asked)


def test_a_transaction_opened_meanwhile_is_ended() -> None:
    """Reading stands still for a second below the end: whoever is open by now is fenced, and it goes on."""
    source = Source(
        later=[Ends(0, 10, 10), Ends(0, 10, 10), *([Ends(0, 9, 10)] * 11)],
        names={9: "zombie.0"},
        steps=[9, 9, 9, 9, 10],
    )

    restored(source)

    assert "fence zombie.0" in source.asked


def test_a_hanging_transaction_stops_the_partition() -> None:
    """No progress for as long as the settings allow is an error with the offset in it."""
    source = Source(steps=[4])

    with pytest.raises(Corrupted, match="no progress for 60 s at offset 4, expected to read up to 10"):
        restored(source)


def test_a_worker_that_was_paused_reads_on() -> None:
    """A minute in which it did not look is no minute without progress: it looks again, and ends who is open by now."""
    source = Source(steps=[4, 4, *([4] * 20), 10], found=[record(0)])
    clock = VirtualClock()
    takeover = take_over(source, "app.requests", settings=SETTINGS, clock=clock, spawn=at_once)

    records: list[Record] = []
    for batch in takeover.records:
        records += batch or ()
        if not batch:
            clock.advance(CLOCK_STEP_SECONDS if len(source.steps) < 20 else 300.0)

    assert [one.offset for one in records] == [0]


def test_an_end_that_moves_back_stops_the_partition() -> None:
    """Truncation while it is read: acknowledged records are lost, and nothing is guessed."""
    source = Source(Ends(0, 6, 6), later=[Ends(0, 10, 10)] * 2, steps=[10])

    with pytest.raises(Corrupted, match="expected its end at 10 or later, got 6"):
        restored(source)


def test_a_restore_slower_than_tombstones_live_stops() -> None:
    """Past that it could read what a tombstone, gone by now, had ended."""
    source = Source(Ends(0, 10_000, 10_000), steps=list(range(1, 9_000)))
    clock = VirtualClock()
    takeover = take_over(source, "app.requests", settings=SETTINGS, clock=clock, spawn=at_once)

    def read() -> None:
        for _ in takeover.records:
            clock.advance(1)

    with pytest.raises(Corrupted, match=r"longer than tombstones are kept \(3600 s\)"):
        read()


def test_a_take_over_that_is_given_up_lets_go() -> None:
    """A partition that is lost while it is read closes its source."""
    source = Source(steps=[1])
    takeover = take_over(source, "app.requests", settings=SETTINGS, clock=VirtualClock(), spawn=at_once)
    records = takeover.records
    next(records)

    records.close()  # type: ignore[attr-defined]  # a generator

    assert source.asked[-1] == "close"


def test_a_source_is_not_closed_under_a_call() -> None:
    """Given up while a blocking call is under way, the source is closed when that call has returned."""
    source = Source()
    pending: list[Future[object]] = []

    def later(call: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        pending.append(future)  # type: ignore[arg-type]  # whatever it will hold
        return future

    takeover = take_over(source, "app.requests", settings=SETTINGS, clock=VirtualClock(), spawn=later)
    assert next(takeover.records) is None

    takeover.records.close()  # type: ignore[attr-defined]  # a generator
    before = list(source.asked)
    pending[0].set_result(None)

    assert before == []
    assert source.asked == ["close"]
