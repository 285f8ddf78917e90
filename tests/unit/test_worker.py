"""The worker's loop on a log in memory: every input takes effect once, whatever goes wrong around it."""

import random
from collections.abc import Callable, Mapping, Sequence

import pytest

from kompensate.orchestrator.errors import Aborted, Corrupted, Fatal, Fenced
from kompensate.orchestrator.ports import OutRecord, Record
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing import MemoryLog
from tests.fixtures.loops import GROUP, INPUTS, QUARANTINE, REPLIES, REQUESTS, World

Commit = Callable[[Sequence[OutRecord], Mapping[tuple[str, int], int]], None]


def commits(around: Callable[[int, Callable[[], None]], None]) -> Callable[[MemoryLog], MemoryLog]:
    """Wraps a log so that `around` is called with each commit's number and the commit itself."""
    count = 0

    def wrap(log: MemoryLog) -> MemoryLog:
        commit: Commit = log.commit

        def wrapped(records: Sequence[OutRecord], offsets: Mapping[tuple[str, int], int]) -> None:
            nonlocal count
            count += 1
            around(count, lambda: commit(records, offsets))

        log.commit = wrapped  # type: ignore[method-assign]  # the point of it
        return log

    return wrap


def test_every_input_is_committed_once() -> None:
    """Requests and replies of all partitions are handled in order, and their offsets are committed with the outcome."""
    world = World(partitions=3)
    for partition in range(3):
        world.ask(*(f"r{i}" for i in range(20)), partition=partition)
        world.ask(*(f"a{i}" for i in range(10)), partition=partition, topic=REPLIES)

    world.settle(world.worker())

    for partition in range(3):
        written = world.written(partition)
        assert sorted(written) == world.expected(partition)
        requests = [key for key in written if key.startswith(REQUESTS)]
        assert requests == [f"{REQUESTS}@{i}" for i in range(20)]


def test_a_batch_grows_and_is_limited() -> None:
    """What is there is committed at once, up to the limits on records and bytes."""
    world = World(settings=Settings(batch_records_max=50, batch_bytes_max=1_000))
    world.ask(*(["small"] * 100))
    worker = world.worker()
    world.settle(worker)

    assert worker.commits == 2

    world.ask(*(["x" * 400] * 10))
    world.settle(worker)

    # 400, 800, 1,200 bytes: past the limit at every third.
    assert worker.commits == 2 + 4


def test_aborted_batches_are_handled_again() -> None:
    """Every seventh commit is aborted: nothing of it stands, nothing is left out, nothing is twice."""
    world = World(partitions=2, settings=Settings(batch_records_max=3))
    worker = world.worker(wrap=commits(lambda n, commit: _abort() if n % 7 == 0 else commit()))
    for partition in (0, 1):
        world.ask(*(f"r{i}" for i in range(60)), partition=partition)

    world.settle(worker)

    for partition in (0, 1):
        assert sorted(world.written(partition)) == world.expected(partition)
        assert world.diaries[partition].entries == world.written(partition)


def _abort() -> None:
    raise Aborted("by order")


@pytest.mark.parametrize("stands", [True, False])
def test_an_unknown_outcome_is_read_from_the_log(stands: bool) -> None:
    """Where a commit's outcome is not known, the partition is restored: what stood is not repeated, the rest is."""

    def around(number: int, commit: Callable[[], None]) -> None:
        if number % 5 == 0:
            if stands:
                commit()
            raise Corrupted("the answer was lost", retry=True)
        commit()

    world = World(settings=Settings(batch_records_max=2))
    world.ask(*(f"r{i}" for i in range(40)))

    world.settle(world.worker(wrap=commits(around)))

    assert sorted(world.written()) == world.expected()


@pytest.mark.parametrize("stands", [True, False])
def test_a_fenced_worker_rejoins(stands: bool) -> None:
    """A fenced worker drops its memory, takes its partitions over again and goes on where the log stands."""

    def around(number: int, commit: Callable[[], None]) -> None:
        if number == 3:
            if stands:
                commit()
            raise Fenced("by another")
        commit()

    world = World(settings=Settings(batch_records_max=5))
    world.ask(*(f"r{i}" for i in range(30)))

    world.settle(world.worker(wrap=commits(around)))

    assert sorted(world.written()) == world.expected()
    assert len(world.logs) == 2


def test_two_workers_with_one_slot_end() -> None:
    """Workers that fence each other for ever stop, and say that they share a slot."""
    world = World(partitions=2)
    one, two = world.worker("same"), world.worker("same")

    def steps() -> None:
        for turn in range(10_000):
            for partition in (0, 1):
                world.ask(f"r{turn}", partition=partition)
            one.step()
            two.step()

    with pytest.raises(Fatal, match="same slot"):
        steps()


def test_an_input_that_cannot_be_written_is_quarantined() -> None:
    """One input whose outcome the log refuses is put aside with the reason; its neighbours in the batch commit."""
    world = World(partitions=2)
    world.ask(*(f"r{i}" for i in range(37)), "poison", *(f"s{i}" for i in range(30)))
    world.ask(*(f"r{i}" for i in range(50)), partition=1)
    worker = world.worker()

    world.settle(worker)

    assert sorted([*world.written(), f"{REQUESTS}@37"]) == world.expected()
    assert sorted(world.written(1)) == world.expected(1)
    (quarantined,) = world.broker.read(QUARANTINE, 0)
    assert quarantined.value == b"poison"
    assert b"expected at most" in (dict(quarantined.headers or ())["q_reason"] or b"")

    world.ask(*(f"t{i}" for i in range(300)))
    before = worker.commits
    world.settle(worker)
    assert worker.commits - before < 12  # the batch has grown again


def test_a_timer_that_cannot_be_written_stops_its_partition() -> None:
    """There is no input to put aside: that partition stops and says why, the others go on."""
    world = World(partitions=2)
    due = world.clock.now() + 1_000
    world.poisoned_timers.add(due)
    world.ask(f"due {due}")
    worker = world.worker()
    world.settle(worker)
    world.clock.advance(2)

    world.run(worker, until=lambda: bool(worker.status.stopped))
    world.ask("after", partition=1)
    world.run(worker, until=lambda: world.done(1))

    ((number, reason),) = worker.status.stopped
    assert number == 0
    assert "expected at most" in reason


def test_a_defect_stops_only_its_partition() -> None:
    """Sagas that raise are restored some times, then their partition stops; nothing of the others is lost."""
    world = World(partitions=2)

    def fail(record: Record) -> None:
        if record.value == b"bug":
            raise ZeroDivisionError("by order")

    world.on_input = fail
    world.ask("r0", "bug", "r2")
    world.ask("r0", "r1", partition=1)
    worker = world.worker()

    world.run(worker, until=lambda: bool(worker.status.stopped))
    world.ask("r2", partition=1)
    world.run(worker, until=lambda: world.done(1))

    ((number, reason),) = worker.status.stopped
    assert number == 0
    assert f"{REQUESTS}/0@1: unexpected ZeroDivisionError" in reason
    assert sorted(world.written(1)) == world.expected(1)


def test_a_passing_defect_is_survived() -> None:
    """An error that does not come again costs a restore and nothing else."""
    world = World()
    left = 2

    def fail(record: Record) -> None:
        nonlocal left
        if record.offset == 5 and left:
            left -= 1
            raise ZeroDivisionError("by order")

    world.on_input = fail
    world.ask(*(f"r{i}" for i in range(10)))

    world.settle(world.worker())

    assert sorted(world.written()) == world.expected()


def test_a_contradiction_must_be_seen_twice() -> None:
    """What a restore finds once may come of a rebalance; what it finds again stops the partition."""
    world = World()
    world.contradictions = 1
    world.ask("r0")
    world.settle(world.worker())
    assert world.written() == world.expected()

    world = World()
    world.contradictions = 2
    worker = world.worker()
    world.run(worker, until=lambda: bool(worker.status.stopped))
    assert worker.status.running == ()


def test_timers_need_no_traffic() -> None:
    """A timer fires when it is due with no input at all, also in a worker that has found it in the log."""
    world = World()
    due = world.clock.now() + 60_000
    world.ask(f"due {due}")
    first = world.worker("one")
    world.settle(first)
    first.close()
    second = world.worker("two")

    world.run(second, until=lambda: f"fired/{due}" in world.written())

    assert world.clock.now() >= due
    assert world.clock.now() < due + 100
    assert world.written().count(f"fired/{due}") == 1


def test_an_idle_partition_commits_its_offsets_again() -> None:
    """Offsets of topics that nobody subscribes to expire: an idle partition commits them every hour."""
    world = World(settings=Settings(idle_poll_seconds=60.0))
    world.ask("r0")
    worker = world.worker()
    world.settle(worker)
    world.broker.set_committed(GROUP, REPLIES, 0, None)

    world.run(worker, until=lambda: REPLIES in (world.broker.committed(GROUP, INPUTS, 0) or {}))

    assert 3_600 <= world.clock.monotonic() < 3_800


def test_a_second_worker_takes_over_half() -> None:
    """Partitions move to a worker that joins and back when it leaves, under load; every input takes effect once."""
    world = World(partitions=4, settings=Settings(batch_records_max=3))
    one = world.worker("one")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    def ask() -> None:
        for partition in range(4):
            world.ask(*(["r"] * rng.randrange(3)), partition=partition)

    def steps(count: int, *loops: object) -> None:
        for _ in range(count):
            ask()
            for loop in loops:
                loop.step()  # type: ignore[attr-defined]  # Loops

    steps(30, one)
    two = world.worker("two")
    steps(50, one, two)
    shared = (len(one.status.running), len(two.status.running))
    two.close()
    steps(30, one)
    world.settle(one)

    assert shared == (2, 2)
    for partition in range(4):
        assert sorted(world.written(partition)) == world.expected(partition)


def test_a_worker_that_was_silent_too_long_does_no_harm() -> None:
    """A zombie's batch is refused, its partitions are another's, and it takes part again."""
    world = World(partitions=2, settings=Settings(batch_records_max=1))
    one, two = world.worker("one"), world.worker("two")
    world.run(one, two, until=lambda: len(one.status.running) == len(two.status.running) == 1)
    for turn in range(50):
        for partition in (0, 1):
            world.ask(f"r{turn}", partition=partition)
        if turn % 10 == 5:
            world.broker.expire_member(GROUP, world.logs[0].member)
            for _ in range(5):
                two.step()
        one.step()
        two.step()

    world.settle(one, two)

    for partition in (0, 1):
        assert sorted(world.written(partition)) == world.expected(partition)
    assert len(one.status.running) == len(two.status.running) == 1


def test_a_worker_that_dies_in_a_commit_leaves_nothing_half_done() -> None:
    """Killed between produce and the end of the transaction: the next owner ends it and handles the inputs."""

    class Killed(BaseException):
        pass

    def die(number: int, commit: Callable[[], None]) -> None:
        if number == 3:
            raise Killed
        commit()

    world = World(settings=Settings(batch_records_max=2))
    world.ask(*(f"r{i}" for i in range(12)))
    one = world.worker("one", wrap=commits(die))
    with pytest.raises(Killed):
        world.settle(one)
    # The dead worker's third transaction, as far as it had come.
    writer = world.logs[0].writer
    epoch = world.broker.init_producer(writer)
    world.broker.begin(writer, epoch)
    world.broker.produce_in(writer, epoch, "app.state", 0, b"__wm/0", writer.encode(), None)
    world.broker.produce_in(writer, epoch, "app.state", 0, b"never", b"", None)
    world.broker.send_offsets(
        writer, epoch, GROUP, (world.broker.group(GROUP).generation, world.logs[0].member), {(REQUESTS, 0): 6}
    )
    world.broker.expire_member(GROUP, world.logs[0].member)
    two = world.worker("two")

    world.settle(two)

    assert sorted(world.written()) == world.expected()
    assert two.status.running == (0,)


def test_a_join_that_fails_is_tried_again() -> None:
    """A log that cannot be reached yet does not end the worker."""
    world = World()
    world.ask("r0")
    failures = 3

    def wrap(log: MemoryLog) -> MemoryLog:
        nonlocal failures
        if failures:
            failures -= 1
            log.close()
            raise Aborted("no broker")
        return log

    world.settle(world.worker(wrap=wrap))

    assert world.written() == world.expected()
