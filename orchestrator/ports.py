"""What the worker's loop needs, as Protocols: a log with transactions, a clock, and the sagas of a partition.

The real log is `kompensate.orchestrator.kafka`, the one for tests is `kompensate.orchestrator.testing`;
both pass the same contract suite. Calls come from one thread.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

from kompensate.orchestrator.kernel.operation import Work

HeaderList: TypeAlias = Sequence[tuple[str, bytes | None]]


class Record(NamedTuple):
    """A record read: `timestamp` in milliseconds since the epoch, as the broker appended it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: HeaderList | None


class OutRecord(NamedTuple):
    """A record to write. `partition` None: by the key's murmur2 (only topics that are not ours alone)."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: HeaderList | None


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought: records of owned partitions, and changes of ownership before them.

    `lost` went without a chance to commit; `revoked` in order. Records of partitions that went are left out.
    """

    records: Sequence[Record] = ()
    assigned: frozenset[int] = frozenset()
    revoked: frozenset[int] = frozenset()
    lost: frozenset[int] = frozenset()


@dataclass(slots=True)
class Takeover:
    """A partition being taken: its other writers are fenced, then its committed state is read to the end.

    `records` yields portions of those records: each key's in order, at least its last one. Between them it
    yields empty portions, and None where there is nothing to read yet, so that the loop can do other work; it
    raises Corrupted where it cannot get on. Once it is exhausted `committed` is the group's next offset by input
    topic (topics without one are absent) and `beginning` the first offset that each input topic still has;
    before, both are empty.
    """

    partition: int
    records: Iterator[Sequence[Record] | None] = field(default_factory=lambda: iter(()))
    committed: Mapping[str, int] = field(default_factory=dict)
    beginning: Mapping[str, int] = field(default_factory=dict)


class Log(Protocol):
    """A partitioned log with transactions, seen by one worker.

    A partition that was assigned is silent until it was taken over and resumed.
    """

    @property
    def writer(self) -> str:
        """Who makes the next commit, for its watermarks: whoever takes over fences it by this name."""

    def poll(self, records_max: int, timeout: float) -> Polled:
        """Wait up to `timeout` seconds for records of resumed partitions or a change of ownership.

        Raises Fenced, Corrupted, Fatal; records that were read before the error come with the next poll.
        """

    def take_over(self, partition: int) -> Takeover:
        """Fence the partition's former writers, say where it stands and let its state be read; it is paused."""

    def resume(self, partition: int, offsets: Mapping[str, int]) -> None:
        """Read the partition's inputs from these offsets on (also: rewind them after an abort)."""

    def pause(self, partition: int) -> None:
        """Read the partition's inputs no more, until it is resumed. It stays ours."""

    def commit(self, records: Sequence[OutRecord], offsets: Mapping[tuple[str, int], int]) -> None:
        """Write `records` and `offsets` (next offset by input topic and partition) in one transaction.

        Raises Aborted (nothing of it stands), Rejected (nor would it if it were tried again), Fenced (this
        worker no longer owns what it wrote for), Corrupted (the outcome is unknown: the log has to be read
        again), Fatal.
        """

    def close(self) -> None:
        """Leave the group and let go of everything."""


class Clock(Protocol):
    """Time, from outside."""

    def now(self) -> int:
        """Milliseconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def sleep(self, seconds: float) -> None:
        """Wait. Called where waiting holds nobody up."""


class Job(NamedTuple):
    """A local step that is to be run: `id` is its idempotency key, `encode` makes bytes of its result.

    `reconciling`: the function looks whether the step was done. `wanted` says whether anybody still waits for it.
    `once`: nobody may run it a second time, nor could say what became of it.
    """

    saga_id: str
    id: str
    work: Work
    reconciling: bool
    encode: Callable[[object], bytes]
    wanted: Callable[[], bool]
    once: bool = False


class Ran(NamedTuple):
    """How a local step ended: done, refused, failed, or after reconciling not_done or unknown."""

    saga_id: str
    id: str
    outcome: str
    payload: bytes


class Steps(Protocol):
    """Runs local steps (`kompensate.orchestrator.local.steps`)."""

    def start(self, job: Job, answer: Callable[[Ran], None]) -> None:
        """Run it, now or later; `answer` is called once, from any thread."""


class Sagas(Protocol):
    """All sagas of one partition, as the loop drives them (`kompensate.orchestrator.sagas.partition`)."""

    @property
    def next_due(self) -> int | None:
        """When the earliest timer is due, milliseconds since the epoch."""

    @property
    def dirty(self) -> bool:
        """There is something to commit."""

    @property
    def output_bytes(self) -> int:
        """Estimate of what is to be committed."""

    def load(self, records: Sequence[Record]) -> None:
        """Take committed records of the state partition, in order."""

    def loaded(self, committed: Mapping[str, int], beginning: Mapping[str, int]) -> dict[str, int]:
        """End of the restore: the next offset by input topic. Raises Corrupted where log and group differ."""

    def handle(self, record: Record) -> None:
        """Take one input. Bad input is quarantined, never raised."""

    def quarantine(self, record: Record, reason: str) -> None:
        """Put one input aside instead of handling it: what it leads to cannot be written."""

    def fire(self, now: int, limit: int) -> int:
        """Take up to `limit` ended local steps and due timers as inputs; how many there were."""

    @property
    def room_at(self) -> int | None:
        """When to `admit` again, milliseconds since the epoch (0: now); None: not before something changes."""

    def admit(self, now: int, limit: int) -> Sequence[Any]:
        """Send up to `limit` queued calls that there is room for under their limits; which they were.

        What the worker's other partitions have out counts too, so all of them have to be read before.
        """

    def refuse(self, admitted: Any, reason: str) -> None:
        """Hold the saga of this one, which `admit` named, instead of sending it: it cannot be written."""

    def output(self, writer: str) -> tuple[list[OutRecord], dict[str, int]]:
        """The batch's records, the watermark first, and the next offset by input topic, requests always among them."""

    def committed(self) -> None:
        """The batch stands."""

    def discard(self) -> None:
        """The batch does not stand: memory as before it."""

    def take_jobs(self) -> list[Job]:
        """The local steps that the committed batches want run, each once."""

    def answer(self, ran: Ran) -> None:
        """A local step has ended. May be called from any thread; the next `fire` handles it."""

    @property
    def busy(self) -> bool:
        """Local steps run, whose ends come from no log."""

    def close(self) -> None:
        """The partition is another's now, or is read anew: nobody waits for what still runs."""
