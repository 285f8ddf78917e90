"""One partition of an application in memory: the partition that workers run, over a log in memory.

Input by input as an idle worker does it: handle, one transaction, next. The modes are made here, of what a
partition goes through in production: programs dropped, sagas put back to bytes, memory lost before and after
a commit.
"""

from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from typing import NamedTuple

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.ports import HeaderList, Job, OutRecord, Ran, Record
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing.broker import MemoryBroker
from kompensate.orchestrator.testing.clock import VirtualClock
from kompensate.orchestrator.testing.modes import Mode
from kompensate.orchestrator.testing.steps import InlineSteps
from kompensate.schemas.topics import Topics

WRITER = "kompensate-test"
AT_ONCE = 10_000
"""What is due, or has ended, is handled all at once where a worker takes over."""
FOREVER_SECONDS = 1_000 * 366 * 86_400.0
"""How long ended sagas are remembered: no test waits for that."""
RECORD_BYTES_MAX = 16 * 1024 * 1024
"""More than any of our records: limits of topics are not what a saga's test is about."""


class Batch(NamedTuple):
    """One transaction that stands: what was handled in it (records, a local step's end, a timer), what came of it.

    `lost`: it was the first of a worker that took over from one that died while local steps ran. `admitted` are the
    calls that were given room: saga and number.
    """

    records: list[Record]
    ran: Ran | None
    fired_at: int | None
    written: list[OutRecord]
    jobs: list[Job]
    lost: bool = False
    admitted: Sequence[tuple[str, int]] = ()


class Engine:
    """Partition 0 of `application`, which has no other here."""

    def __init__(self, application: Application, mode: Mode, clock: VirtualClock) -> None:
        self.application = copy(application)
        self.application.partitions = 1
        self.topics = Topics(application.name)
        self.settings = Settings(dedup_window_seconds=FOREVER_SECONDS, live_sagas_max=0 if mode.evicts else 10_000)
        self.batches: list[Batch] = []
        self._mode = mode
        self._clock = clock
        self._broker = MemoryBroker(clock)
        self._inputs = self.topics.inputs(application.services)
        self._jobs: deque[Job] = deque()
        self._lost: set[str] = set()
        self._created: set[str] = set()
        self._create(*self._inputs, self.topics.state)
        self._restore()

    @property
    def behind(self) -> bool:
        """Is there anything to do at once: calls that there is room for, local steps to run, or inputs that sagas have
        written for each other?"""
        return bool(self._room() or self._jobs or self._unread())

    @property
    def room_at(self) -> int | None:
        """When there may be room for a queued call, ms since the epoch; None: not before something changes."""
        return self._partition.room_at

    def _room(self) -> bool:
        at = self.room_at
        return at is not None and at <= self._clock.now()

    def give(self, topic: str, saga_id: str, value: bytes | None, headers: HeaderList) -> list[OutRecord]:
        """One record arrives: what the worker wrote for it."""
        self._broker.produce(topic, 0, saga_id.encode(), value, headers)
        return self.take()

    def take(self) -> list[OutRecord]:
        """Calls that there is room for, else a local step that waits, else whatever stands in the input topics: what
        the worker wrote for it."""
        if self._room():
            return self._admit()
        if self._jobs:
            return self._lose() if self._may_die() else self._run(self._jobs.popleft())
        records = self._unread()

        def handle(partition: Partition) -> None:
            for record in records:
                partition.handle(record)

        return self._transaction(handle, records, None, [])

    def fire(self) -> list[OutRecord]:
        """One timer that is due now."""
        now = self._clock.now()

        def fire(partition: Partition) -> None:
            partition.fire(now, 1)

        return self._transaction(fire, [], now, [])

    def _run(self, job: Job) -> list[OutRecord]:
        """Run a local step, here and now, and handle its end."""
        now, ends = self._clock.now(), list[Ran]()
        InlineSteps().start(job, ends.append)

        def end(partition: Partition) -> None:
            partition.answer(ends[-1])
            partition.fire(now, 1)

        return self._transaction(end, [], now, ends)

    def _admit(self) -> list[OutRecord]:
        now, admitted = self._clock.now(), list[tuple[str, int]]()

        def admit(partition: Partition) -> None:
            admitted[:] = partition.admit(now, AT_ONCE)

        return self._transaction(admit, [], now, [], admitted=admitted)

    def _may_die(self) -> bool:
        """Is the worker to die while the local steps run? Each time once, and not where their sagas would be held."""
        return (
            self._mode.crashes
            and self._lost.isdisjoint(_names_of(self._jobs[0]))
            and not any(job.once for job in self._jobs)
        )

    def _lose(self) -> list[OutRecord]:
        """Run all local steps, and die before their ends are committed: what the next worker makes of that."""
        now = self._clock.now()
        for job in self._jobs:
            self._lost |= _names_of(job)
            InlineSteps().start(job, self._partition.answer)
        self._jobs.clear()
        self._partition.fire(now, AT_ONCE)
        self._write(commit=False)
        self._restore()

        def take_over(partition: Partition) -> None:
            partition.fire(now, AT_ONCE)

        return self._transaction(take_over, [], now, [], lost=True)

    def _unread(self) -> list[Record]:
        return [r for name, start in self._positions.items() for r in self._broker.read(name, 0, start)]

    def _create(self, *topics: str) -> None:
        for topic in {*topics} - self._created:
            self._created.add(topic)
            self._broker.create_topic(topic, 1, record_bytes_max=RECORD_BYTES_MAX)

    def _transaction(
        self,
        take: Callable[[Partition], None],
        records: list[Record],
        fired_at: int | None,
        ends: list[Ran],
        *,
        lost: bool = False,
        admitted: Sequence[tuple[str, int]] = (),
    ) -> list[OutRecord]:
        take(self._partition)
        if not self._partition.dirty:
            return []
        if self._mode.crashes:
            self._write(commit=False)
            self._restore()
            take(self._partition)
        written = self._write(commit=True)
        self._partition.committed()
        jobs = self._partition.take_jobs()
        self._jobs += jobs
        if self._mode.crashes:
            self._restore()
        if self._mode.replays:
            self._partition.drop_programs()
        self.batches.append(Batch(records, ends[-1] if ends else None, fired_at, written, jobs, lost, admitted))
        return written

    def _write(self, *, commit: bool) -> list[OutRecord]:
        broker, group = self._broker, self.topics.app
        records, offsets = self._partition.output(WRITER)
        self._create(*(record.topic for record in records))
        broker.begin(WRITER, self._epoch)
        for topic, partition, key, value, headers in records:
            broker.produce_in(WRITER, self._epoch, topic, partition, key, value, headers)
        broker.send_offsets(
            WRITER, self._epoch, group, (-1, ""), {(topic, 0): offset for topic, offset in offsets.items()}
        )
        if commit:
            broker.end(WRITER, self._epoch, commit=True)
            self._positions = offsets
        return records

    def _restore(self) -> None:
        """Take the partition over, as the next worker would: what is in memory is gone."""
        broker, state = self._broker, self.topics.state
        self._epoch = broker.init_producer(WRITER)
        broker.compact(state, 0)
        self._partition = Partition(0, self.application, self.settings)
        self._partition.load(broker.read(state, 0))
        committed = broker.committed(self.topics.app, self._inputs, 0)
        assert committed is not None  # its former writer is fenced
        self._positions = self._partition.loaded(committed, dict.fromkeys(self._inputs, 0))


def _names_of(job: Job) -> set[str]:
    """The attempt, and the step that it is an attempt at: a worker that died at each would never come to an end."""
    return {job.id, f"{job.saga_id}: {job.work.function!r} {job.work.args!r}"}
