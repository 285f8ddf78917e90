"""Taking a partition over: fence who else may write to it, then read its state to the very end.

The order is the point (docs/architecture.md, "Take-over"): each step closes a way by which a former owner's
transaction could still change what was read.

1. An open transaction at the end of the state partition belongs to a dead or a paused worker. The watermark
   it begins with names its writer; that writer is fenced, which aborts the transaction.
2. The group's offsets are read, but only stable ones: where a transaction that will still commit or abort
   them is pending, we wait, then fence the writer of the last watermark (its records may not have arrived).
   From here on every batch of a former owner is refused: its group metadata is old.
3. Only now the high watermark is taken, as uncommitted readers see it. The last stable offset may lie below
   a transaction whose offsets we have just been told (KAFKA-10167): its markers arrive one by one.
4. Committed records are read up to there, and not beyond: what a later owner commits after we were told the
   offsets would look like a contradiction, while we are about to hear that the partition is lost.

The loop is never blocked: steps 1 to 3 run on a helper thread, reading yields whenever nothing is there.

Contract with its neighbours: a `StateSource` does each single thing and knows no order; the loop compares
what was read (`Sagas.loaded`).
"""

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol, TypeVar, cast

from kompensate.orchestrator.errors import Corrupted
from kompensate.orchestrator.ports import Clock, Record, Takeover
from kompensate.orchestrator.settings import Settings
from kompensate.schemas.faults import fault

STABLE_TRIES, STABLE_WAIT_SECONDS = 10, 0.03
"""How often, and how long apart, the end is asked for again before anybody is fenced. A commit's markers take
milliseconds; and a worker that was paused in mid-take-over is to hear first that it is none any more, or it
would fence the rightful owner (who would lose no more than time)."""
UNKNOWN_TRIES, UNKNOWN_WAIT_SECONDS = 10, 0.3
"""How often, and how long apart, the group is asked again that knows no offset for a partition with state:
its coordinator may be moving, and says then for a moment that there is none (KAFKA-20416)."""
WRITERS_SPAN = 1_000
"""Offsets looked through at first for the last watermark; eight times as many each time none is there."""

T = TypeVar("T")


class Spawn(Protocol):
    """Runs a blocking call where it holds nobody up."""

    def __call__(self, call: Callable[[], T], /) -> Future[T]: ...


class Ends(NamedTuple):
    """Of a state partition: its first offset, the first undecided one, and its end for uncommitted readers."""

    low: int
    stable: int
    high: int


class StateSource(Protocol):
    """One partition of the state topic, and what the group has committed for that partition's inputs.

    All but `start` and `read` may block, and are called on a helper thread.
    """

    partition: int

    def ends(self) -> Ends:
        """Ask the broker, not a cache."""

    def writers(self, start: int, end: int) -> list[str]:
        """Who wrote the watermarks between two offsets, in order, those of open transactions among them."""

    def fence(self, writers: Collection[str]) -> None:
        """End what these writers (and the others of their slots) have open; they can commit no more."""

    def committed(self, timeout: float) -> Mapping[str, int] | None:
        """The group's next offset by input topic; None where one was still pending after `timeout` seconds."""

    def beginning(self) -> Mapping[str, int]:
        """The first offset that each input topic still has."""

    def start(self, low: int, end: int) -> None:
        """Begin to read committed records from `low` on; those from `end` on are not ours to know."""

    def read(self) -> int:
        """Read what is there, without waiting; the offset up to which everything is decided and read."""

    def records(self) -> Iterator[Sequence[Record]]:
        """What was read, in portions: at least the last record of each key, each key's records in order."""

    def close(self) -> None:
        """Let go of what reading needed."""


def take_over(source: StateSource, requests: str, *, settings: Settings, clock: Clock, spawn: Spawn) -> Takeover:
    """The take-over of `source`'s partition, to be stepped by the loop; every commit covers topic `requests`."""
    takeover = Takeover(source.partition)
    restore = _Restore(source, requests, takeover, settings=settings, clock=clock, spawn=spawn)
    takeover.records = restore.records()
    return takeover


class _Restore:
    def __init__(
        self,
        source: StateSource,
        requests: str,
        takeover: Takeover,
        *,
        settings: Settings,
        clock: Clock,
        spawn: Spawn,
    ) -> None:
        self._source = source
        self._name = f"state partition {source.partition}"
        self._requests = requests
        self._takeover = takeover
        self._settings = settings
        self._clock = clock
        self._spawn = spawn
        self._aside: Future[object] | None = None

    def records(self) -> Iterator[Sequence[Record] | None]:
        try:
            ends = yield from self._wait(self._establish)
            fault("worker.after_takeover")
            yield from self._read(ends)
        finally:
            # Given up while a call is under way, the source's clients are still in that call's hands.
            if self._aside is None:
                self._source.close()
            else:
                self._aside.add_done_callback(lambda _: self._source.close())

    def _wait(self, call: Callable[[], T]) -> Generator[None, None, T]:
        """Run a blocking call aside, and yield until it has returned."""
        future = self._spawn(call)
        self._aside = cast("Future[object]", future)
        while not future.done():
            yield None
        self._aside = None
        return future.result()

    # Steps 1 to 3, on the helper thread.

    def _establish(self) -> Ends:
        ends = self._fence_open()
        committed = self._stable_offsets(ends)
        tries = 0
        while self._requests not in committed and ends.high > 0 and tries < UNKNOWN_TRIES:
            self._clock.sleep(UNKNOWN_WAIT_SECONDS)
            committed = self._stable_offsets(ends)
            tries += 1
        self._takeover.committed = committed
        self._takeover.beginning = self._source.beginning()
        return self._source.ends()

    def _fence_open(self) -> Ends:
        ends = self._source.ends()
        tries = 0
        while ends.stable < ends.high and tries < STABLE_TRIES:
            self._clock.sleep(STABLE_WAIT_SECONDS)
            ends = self._source.ends()
            tries += 1
        if ends.stable < ends.high:
            self._source.fence(set(self._source.writers(ends.stable, ends.high)))
        return ends

    def _stable_offsets(self, ends: Ends) -> Mapping[str, int]:
        committed = self._source.committed(self._settings.unstable_seconds)
        if committed is not None:
            return committed
        writer = self._last_writer(ends)
        if writer is not None:
            self._source.fence({writer})
        committed = self._source.committed(self._settings.restore_stall_seconds)
        if committed is None:
            raise self._corrupted(
                "expected the group's committed offsets, but a transaction that covers them is pending for "
                f"{self._settings.restore_stall_seconds:g} s, after writer {writer!r} was fenced; "
                "find it with kafka-transactions.sh find-hanging and abort it"
            )
        return committed

    def _last_writer(self, ends: Ends) -> str | None:
        span = WRITERS_SPAN
        while True:
            start = max(ends.low, ends.high - span)
            found = self._source.writers(start, ends.high)
            if found:
                return found[-1]
            if start == ends.low:
                return None
            span *= 8

    # Step 4, in the loop.

    def _read(self, ends: Ends) -> Iterator[Sequence[Record] | None]:
        position, end = ends.low, ends.high
        started = looked = self._clock.monotonic()
        stalled, patience, fenced = 0.0, self._settings.unstable_seconds, False
        if position < end:
            self._source.start(position, end)
        while position < end:
            before, position = position, self._source.read()
            now = self._clock.monotonic()
            # Only while we look: a worker that was paused itself has not seen the log stand still.
            stalled, looked = stalled + min(now - looked, patience), now
            if position > before:
                fault("worker.in_restore")
                stalled, fenced = 0.0, False
            self._check_time(now - started, stalled, position, end)
            if position == before and stalled > patience and not fenced:
                # A writer that was paused between produce and commit has opened a transaction since.
                fenced = True
                yield from self._wait(self._fence_open)
            else:
                yield () if position > before else None
        high = (yield from self._wait(self._source.ends)).high
        if high < end:
            raise self._corrupted(
                f"expected its end at {end} or later, got {high}: it was truncated while it was read, and "
                "acknowledged records are lost (unclean leader election?)"
            )
        yield from self._source.records()

    def _check_time(self, elapsed: float, stalled: float, position: int, end: int) -> None:
        if stalled > self._settings.restore_stall_seconds:
            raise self._corrupted(
                f"no progress for {stalled:.0f} s at offset {position}, expected to read up to {end}: a hanging "
                "transaction holds it up, or its end was truncated; see kafka-transactions.sh find-hanging"
            )
        if elapsed > self._settings.tombstone_retention_seconds:
            raise self._corrupted(
                f"its restore took {elapsed:.0f} s up to offset {position} of {end}, longer than tombstones are "
                f"kept ({self._settings.tombstone_retention_seconds:.0f} s): an ended saga could come back; "
                "restore faster, or raise the topic's delete.retention.ms"
            )

    def _corrupted(self, text: str) -> Corrupted:
        return Corrupted(f"{self._name}: {text}", self._source.partition)
