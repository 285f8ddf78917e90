"""The participant's loop on fakes: groups, offsets, lanes, outages, poison, rebalances."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from kompensate.participants.database import connect
from kompensate.participants.orders import Bury, Later, Order, Result, Settled
from kompensate.participants.ports import Place, Record
from kompensate.participants.runner import Runner
from kompensate.participants.settings import Settings
from kompensate.participants.unit import Undone, Unreachable
from tests.fixtures.loop_fakes import P0, FakeGrave, FakeSource, record
from tests.fixtures.participants import World, compensation, forward

P1 = Place("stock.commands", 1)

QUICK = Settings(
    retry_seconds_first=0.001,
    undone_seconds_first=0.0001,
    undone_seconds_max=0.001,
    outage_seconds_first=0.001,
    outage_seconds_max=0.002,
    poll_seconds=0.01,
    commit_interval_seconds=0.0,
    tries_max=3,
)


@dataclass
class FakeUnit:
    """Settles everything, unless a group holds a command that spoils it. Remembers the groups."""

    poison: frozenset[str] = frozenset()
    deadly: frozenset[str] = frozenset()
    unreachable: int = 0
    groups: list[list[str]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def handle(self, orders: Sequence[Order], bury: Bury) -> list[Result]:
        self.groups.append([order.command.id for order in orders])
        if self.unreachable:
            self.unreachable -= 1
            raise Unreachable("connection refused")
        if any(self._spoils(order) for order in orders):
            raise Undone("IntegrityError at COMMIT", contended=False)
        results = [Settled("failed" if order.doom else "done", order.doom) for order in orders]
        bury([(n, result) for n, result in enumerate(results) if result.dead])
        self.done += [order.command.id for order in orders if not order.doom]
        return list(results)

    def _spoils(self, order: Order) -> bool:
        return order.command.id in self.deadly or (order.command.id in self.poison and order.doom is None)


def several(*ids: str, place: Place = P0) -> list[Record]:
    return [record(forward(i, saga_id=f"saga-{i}"), n, place) for n, i in enumerate(ids)]


@dataclass
class Rig:
    """A runner on fakes. `turns` runs the loop until a condition holds, so many turns at most."""

    handle: Callable[[Sequence[Order], Bury], list[Result]]
    source: FakeSource
    grave: FakeGrave = field(default_factory=FakeGrave)
    settings: Settings = QUICK

    def __post_init__(self) -> None:
        self.runner = Runner(self.source, self.grave, self.handle, self.settings, clock=lambda: self.source.now)
        self.source.open(self.runner._leaving)

    def turns(self, until: Callable[[], bool], most: int = 500) -> None:
        for _ in range(most):
            self.runner.turn()
            if until():
                return
        raise AssertionError(f"not within {most} turns")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(connect(f"sqlite:///{tmp_path}/stock.db", "stock"))


def test_what_is_there_is_one_group() -> None:
    """The loop takes all there is up to the limit as one group, and commits the offsets that come next."""
    unit = FakeUnit()
    rig = Rig(unit.handle, FakeSource(several(*map(str, range(70))) + several("x", "y", place=P1)))
    rig.turns(lambda: rig.source.committed == {P0: 70, P1: 2})

    assert [len(group) for group in unit.groups] == [64, 8]


def test_groups_shrink_to_what_slow_handlers_leave_room_for() -> None:
    """A group that ran out of time makes the next ones as small as what it did; in time they grow again."""
    unit, fits = FakeUnit(), [5]

    def handle(orders: Sequence[Order], bury: Bury) -> list[Result]:
        done = unit.handle(orders, bury)[: fits[0]]
        return done + [Later("full", counts=False, full=True)] * (len(orders) - len(done))

    rig = Rig(handle, FakeSource(several(*map(str, range(300)))))
    for _ in range(6):
        rig.runner.turn()
    assert [len(group) for group in unit.groups] == [64, 5, 10, 5, 10, 5]
    assert unit.groups[1] == list("56789"), "expected what was left to come next, in order"
    fits[0] = 1_000
    rig.turns(lambda: rig.source.committed == {P0: 300})

    assert max(len(group) for group in unit.groups[6:]) == 64


def test_a_waiting_command_holds_its_offset_and_its_lane(world: World) -> None:
    """While a command is tried again the offset stays below it, its saga waits in order, others go on."""
    commands = [forward("a", "raise"), forward("b"), forward("c", saga_id="s2")]
    rig = Rig(world.unit.handle, FakeSource([record(c, n) for n, c in enumerate(commands)]))
    rig.runner.turn()
    assert rig.source.committed == {P0: 0}
    assert world.inbox() == {"c": ("answered", "done")}

    rig.turns(lambda: rig.source.committed == {P0: 3})

    assert world.effects() == {("b", "take"): 1, ("c", "take"): 1}
    assert [(c, o) for c, o, _ in world.replies()] == [("c", "done"), ("a", "failed"), ("b", "done")]
    [letter] = rig.grave.letters
    assert (letter.record.value, letter.record.offset) == (commands[0].payload, 0)
    assert "ValueError: what is this?" in letter.reason


def test_a_compensation_stays_behind_its_command(world: World) -> None:
    """A compensation read while its command is tried again comes after it, even when the group's limit parts them."""
    source = FakeSource([record(forward("a", "retry"), 0), record(compensation("a"), 1), record(compensation("a"), 2)])
    rig = Rig(world.unit.handle, source, settings=replace(QUICK, group_max=1))
    rig.turns(lambda: source.committed == {P0: 3})

    assert [(c, o) for c, o, _ in world.replies()] == [("a", "failed"), ("undo-a", "done"), ("undo-a", "done")]
    assert world.effects() == {}


def test_an_unreadable_record_is_kept_and_passed(world: World) -> None:
    """Junk becomes a dead letter with its bytes; the offset moves on and the others are handled."""
    junk = Record(P0, 0, None, b"\x00junk", [("ce_id", None)])
    rig = Rig(world.unit.handle, FakeSource([junk, record(forward("a"), 1)]))
    rig.turns(lambda: rig.source.committed == {P0: 2})

    assert world.effects() == {("a", "take"): 1}
    assert [letter.record for letter in rig.grave.letters] == [junk]


def test_a_command_without_a_key_is_a_lane_of_its_own(world: World) -> None:
    """Somebody else's producer left the key out: it is done and answered to its saga, and nobody waits behind it."""
    commands = [forward("a", "raise"), forward("b"), forward("c")]
    records = [replace(record(command, n), key=None) for n, command in enumerate(commands)]
    rig = Rig(world.unit.handle, FakeSource(records), settings=replace(QUICK, retry_seconds_first=60.0))
    rig.runner.turn()

    assert world.effects() == {("b", "take"): 1, ("c", "take"): 1}
    assert world.rows("SELECT DISTINCT aggregateid FROM outbox") == [("saga-1",)]
    assert rig.source.committed == {P0: 0}


def test_a_spoilt_header_is_answered_failed(world: World) -> None:
    """A command whose sender is still readable is answered, once, and kept."""
    spoilt = forward("a")
    headers = [(n, v) for n, v in spoilt.headers() if n != "ce_sagaattempt"]
    rig = Rig(world.unit.handle, FakeSource([Record(P0, 0, b"saga-1", b"{}", headers)]))
    rig.turns(lambda: rig.source.committed == {P0: 1})

    assert world.replies() == [("a", "failed", "stock.Failed")]
    assert len(rig.grave.letters) == 1


def test_a_dead_database_is_waited_for() -> None:
    """While the database does not answer the group is kept and nothing is committed."""
    unit = FakeUnit(unreachable=20)
    rig = Rig(unit.handle, FakeSource(several("a", "b")), settings=replace(QUICK, rest_seconds_min=0.0005))
    rig.runner.turn()

    assert unit.done == ["a", "b"]
    assert len(unit.groups) == 21
    assert rig.source.rests > 0
    assert rig.source.committed == {P0: 2}


def test_what_is_missing_for_one_command_is_asked_for_seldom() -> None:
    """A key or a blob is not there: the command waits seconds between tries that do not count; others go on."""
    unit = FakeUnit()
    back_at = 60.0

    def handle(orders: Sequence[Order], bury: Bury) -> list[Result]:
        results = unit.handle(orders, bury)
        missing = rig.source.now < back_at
        return [
            Later("no key", counts=False, outage=True) if missing and order.command.id == "a" else result
            for order, result in zip(orders, results, strict=True)
        ]

    rig = Rig(handle, FakeSource(several("a", "b")), settings=replace(QUICK, outage_seconds_max=5.0, poll_seconds=0.5))
    rig.turns(lambda: rig.source.committed == {P0: 2}, most=5_000)

    assert 60 <= rig.source.now < 67
    assert 10 <= unit.done.count("a") <= 17
    assert unit.done.count("b") == 1


def test_who_waits_is_asked_again_when_it_says() -> None:
    """A handler that waits says for how long; it may take as often as it likes, and is no dead letter."""
    unit = FakeUnit()

    def handle(orders: Sequence[Order], bury: Bury) -> list[Result]:
        results = unit.handle(orders, bury)
        waits = rig.source.now < 30
        return [
            Later("in line", counts=False, seconds=3.0) if waits and order.command.id == "a" else result
            for order, result in zip(orders, results, strict=True)
        ]

    rig = Rig(handle, FakeSource(several("a", "b")), settings=replace(QUICK, poll_seconds=0.5))
    rig.turns(lambda: rig.source.committed == {P0: 2}, most=5_000)

    assert 30 <= rig.source.now < 34
    assert 9 <= unit.done.count("a") <= 14
    assert unit.done.count("b") == 1
    assert rig.grave.letters == []


def test_a_dead_letter_comes_before_the_commit(world: World) -> None:
    """While the dead letter cannot be written, nothing of its group is committed."""
    rig = Rig(world.unit.handle, FakeSource([record(forward("a", "oversize"), 0)]), FakeGrave(refusals=3))
    seen: list[object] = []
    pause = rig.runner._pause

    def watch(seconds: float) -> None:
        seen.append(world.inbox())
        pause(seconds)

    rig.runner._pause = watch  # type: ignore[method-assign] # looks in at the moment of waiting
    rig.turns(lambda: rig.source.committed == {P0: 1})

    assert seen == [{}, {}, {}]
    assert len(rig.grave.letters) == 1
    assert world.inbox() == {"a": ("answered", "failed")}


def test_poison_is_found_and_given_up() -> None:
    """A command that spoils its whole group is parted from it: the others are done, it is answered failed."""
    unit = FakeUnit(poison=frozenset("f"))
    rig = Rig(unit.handle, FakeSource(several(*"abcdefgh")))
    rig.turns(lambda: rig.source.committed == {P0: 8})

    assert sorted(unit.done) == list("abcdeg" + "h")
    [letter] = rig.grave.letters
    assert letter.record.offset == 5
    assert letter.reason.startswith("its transaction came to nothing 10 times: IntegrityError")


def test_poison_that_cannot_even_be_answered_is_kept() -> None:
    """Where writing the failed answer fails as well, the record becomes a dead letter and the offset moves on."""
    unit = FakeUnit(deadly=frozenset("b"))
    rig = Rig(unit.handle, FakeSource(several(*"abc")))
    rig.turns(lambda: rig.source.committed == {P0: 3})

    assert sorted(unit.done) == ["a", "c"]
    assert [letter.record.offset for letter in rig.grave.letters] == [1]


def test_partitions_that_leave_are_forgotten(world: World) -> None:
    """What waits for a partition that went away is dropped uncommitted; its settled offsets are committed first."""
    source = FakeSource(
        [record(forward("a"), 0), record(forward("b", "raise", "s2"), 1), record(forward("c", saga_id="s3"), 0, P1)]
    )
    rig = Rig(world.unit.handle, source, settings=replace(QUICK, retry_seconds_first=60.0))
    rig.runner.turn()
    source.committed.clear()
    rig.runner._leaving([P0], True)

    assert source.committed == {}
    rig.turns(lambda: True)
    assert rig.runner._waiting == {}
    assert world.inbox().keys() == {"a", "c"}


def test_settled_offsets_leave_with_their_partition(world: World) -> None:
    """A partition that is revoked in order takes its committed offset along; one that was lost does not."""
    for commit, expected in ((True, {P0: 1}), (False, {})):
        source = FakeSource([record(forward(f"a{commit}"), 0)])
        slow = replace(QUICK, commit_interval_seconds=60.0)
        rig = Rig(world.unit.handle, source, settings=slow)
        rig.runner._commit_due = rig.source.now + 60
        rig.runner.turn()
        assert source.committed == {}
        rig.runner._leaving([P0], commit)

        assert source.committed == expected


def test_stopping_in_an_outage_loses_nothing() -> None:
    """A stop while the database is away ends the loop without committing what was not handled."""
    unit = FakeUnit(unreachable=10**9)
    rig = Rig(unit.handle, FakeSource(several("a")))
    rig.runner._pause = lambda seconds: rig.runner.stop()  # type: ignore[method-assign] # stops at the first wait
    rig.runner.run()

    assert rig.source.committed == {P0: 0}
    assert rig.source.closed


def test_too_many_waiting_stop_the_intake(world: World) -> None:
    """With enough commands to be tried again, no more are taken; the loop stays in its group."""
    source = FakeSource(
        [record(forward(str(n), "raise", f"s{n}"), n) for n in range(10)] + [record(forward("x", saga_id="x"), 10)]
    )
    slow = replace(QUICK, waiting_max=10, retry_seconds_first=60.0)
    rig = Rig(world.unit.handle, source, settings=slow)
    rig.turns(lambda: source.rests > 3)

    assert len(source.records) == 1
    assert world.inbox() == {}


def test_a_chore_that_is_not_done_is_due_again_soon(world: World) -> None:
    """Housekeeping says that there is more to do; done, it waits for its time."""
    now = [100.0]
    answers = [True, False]

    def chore() -> bool:
        return answers.pop(0)

    settings = replace(QUICK, chore_seconds=600.0, chore_again_seconds=1.0)
    runner = Runner(FakeSource([]), FakeGrave(), world.unit.handle, settings, chore=chore, clock=lambda: now[0])
    left = []
    for now[0] in (100.0, 100.5, 101.0, 102.0, 400.0):
        runner.turn()
        left.append(len(answers))

    assert left == [1, 1, 0, 0, 0]


def test_a_failing_chore_stops_nothing(world: World) -> None:
    """Housekeeping that fails is logged and tried again later; commands go on."""
    calls: list[int] = []

    def chore() -> bool:
        calls.append(1)
        raise RuntimeError("no right to create a table")

    source = FakeSource([record(forward("a"), 0)])
    runner = Runner(source, FakeGrave(), world.unit.handle, QUICK, chore=chore)
    runner.turn()
    runner.turn()

    assert len(calls) == 1
    assert world.effects() == {("a", "take"): 1}
