"""A worker's view of the broker in memory. It runs through the same policies as Kafka's: see restore, transactions."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeVar

from kompensate.orchestrator.errors import Corrupted, Fatal
from kompensate.orchestrator.ports import Clock, OutRecord, Polled, Record, Takeover
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing.broker import (
    IllegalGeneration,
    InvalidState,
    MemoryBroker,
    ProducerFenced,
    TooLarge,
)
from kompensate.orchestrator.worker.restore import Ends, take_over
from kompensate.orchestrator.worker.transactions import (
    Producer,
    Reaction,
    TransactionError,
    Transactions,
    expect_fenced,
)
from kompensate.schemas.topics import WATERMARK_PREFIX

BATCH_RECORDS = 1_000
"""Records of a restore handed over at once."""

PENDING_WAIT_SECONDS = 0.1
"""Between two looks at offsets that a transaction holds up."""

T = TypeVar("T")


class MemoryLog:
    """A Log on a MemoryBroker. Arguments as KafkaLog's."""

    def __init__(
        self,
        broker: MemoryBroker,
        settings: Settings,
        *,
        group: str,
        slot: str,
        inputs: Sequence[str],
        state: str,
        writer_of: Callable[[bytes], str],
        clock: Clock,
        producer: "Callable[[MemoryBroker, str, str], Producer] | None" = None,
    ) -> None:
        """`producer` makes other producers than MemoryProducer, of the same arguments."""
        self._broker, self._settings, self._clock = broker, settings, clock
        self._producer = producer or MemoryProducer
        self._group, self._state, self._inputs = group, state, tuple(inputs)
        self._writer_of = writer_of
        self._owned: set[int] = set()
        self._positions: dict[int, dict[str, int]] = {}
        self._generation = -1
        self._transactions = Transactions(self._siblings(f"{group}.{slot}.0"), self._producers, settings, clock)
        self._transactions.open()
        self.member = self._join()

    def _join(self) -> str:
        return self._broker.group(self._group).join(self._broker.partitions(self._inputs[0]))

    @staticmethod
    def _siblings(writer: str) -> list[str]:
        slot, _, _k = writer.rpartition(".")
        return [f"{slot}.{k}" for k in range(2)]

    def _producers(self, ids: Sequence[str]) -> list[Producer]:
        return [self._producer(self._broker, id_, self._group) for id_ in ids]

    def poll(self, records_max: int, timeout: float) -> Polled:
        """Does not wait; `timeout` is spent on the clock where nothing is there."""
        told = self._broker.group(self._group).poll(self.member)
        if told is None:
            lost, self._owned = frozenset(self._owned), set()
            self._positions.clear()
            self._generation, self.member = -1, self._join()
            return Polled(lost=lost)
        self._generation = told.generation
        for partition in told.revoked:
            self._owned.discard(partition)
            self._positions.pop(partition, None)
        self._owned |= told.assigned
        records = self._read(records_max)
        if not records and not told.assigned and not told.revoked and timeout > 0:
            self._clock.sleep(timeout)
        return Polled(records, assigned=told.assigned, revoked=told.revoked)

    def _read(self, records_max: int) -> list[Record]:
        found: list[Record] = []
        for partition, positions in self._positions.items():
            for topic, position in positions.items():
                low = self._broker.low(topic, partition)
                if position < low:
                    raise Corrupted(
                        f"{topic}/{partition}: expected offset {position}, got {low} as the first", partition
                    )
                records = self._broker.read(topic, partition, position, limit=records_max - len(found))
                if records:
                    positions[topic] = records[-1].offset + 1
                    found += records
        return found

    @property
    def unread(self) -> bool:
        """Would a poll bring records?"""
        return any(
            self._broker.read(topic, partition, position, limit=1)
            for partition, positions in self._positions.items()
            for topic, position in positions.items()
        )

    def take_over(self, partition: int) -> Takeover:
        self.pause(partition)
        self._transactions.open()
        source = _MemoryState(
            self._broker,
            self._group,
            self._state,
            self._inputs,
            partition,
            siblings=lambda writer: [id_ for id_ in self._siblings(writer) if id_ not in self._transactions.ids],
            writer_of=self._writer_of,
            clock=self._clock,
        )
        return take_over(source, self._inputs[0], settings=self._settings, clock=self._clock, spawn=_at_once)

    def resume(self, partition: int, offsets: Mapping[str, int]) -> None:
        if offsets.keys() != set(self._inputs):
            raise Fatal(f"partition {partition}: expected an offset for each of {self._inputs}, got {dict(offsets)}")
        if partition in self._owned:
            self._positions[partition] = dict(offsets)

    def pause(self, partition: int) -> None:
        self._positions.pop(partition, None)

    @property
    def writer(self) -> str:
        return self._transactions.writer

    def commit(self, records: Sequence[OutRecord], offsets: Mapping[tuple[str, int], int]) -> None:
        metadata = (self._generation, self.member)
        expect_fenced(offsets, self._owned, self._inputs[0], *metadata)
        self._transactions.commit(records, offsets, metadata)

    def time_out(self) -> None:
        """Have the broker end what is open, as it does after the transaction's time-out."""
        for id_ in self._transactions.ids:
            self._broker.abort_open(id_)

    def close(self) -> None:
        self._transactions.close()
        self._broker.group(self._group).remove(self.member)


class MemoryProducer:
    """A transactions.Producer on a MemoryBroker. `metadata` is (generation, member id)."""

    def __init__(self, broker: MemoryBroker, transactional_id: str, group: str) -> None:
        self.disturbed = False
        self._broker, self._id, self._group = broker, transactional_id, group
        self._epoch = broker.init_producer(transactional_id)

    def serve(self) -> None:
        """Nothing calls back."""

    def begin(self) -> None:
        self._try(lambda: self._broker.begin(self._id, self._epoch))

    def produce(self, records: Sequence[OutRecord]) -> None:
        self._try(lambda: self._produce(records))

    def _produce(self, records: Sequence[OutRecord]) -> None:
        for topic, partition, key, value, headers in records:
            self._broker.produce_in(self._id, self._epoch, topic, partition, key, value, headers)

    def send_offsets(self, offsets: Mapping[tuple[str, int], int], metadata: object) -> None:
        assert isinstance(metadata, tuple)
        self._try(lambda: self._broker.send_offsets(self._id, self._epoch, self._group, metadata, offsets))

    def commit(self) -> None:
        self._try(lambda: self._broker.end(self._id, self._epoch, commit=True))

    def abort(self) -> None:
        self._try(lambda: self._broker.end(self._id, self._epoch, commit=False))

    def close(self) -> None:
        """What is open stays open, as a dead process leaves it, until somebody takes the id."""

    @staticmethod
    def _try(call: Callable[[], None]) -> None:
        try:
            call()
        except ProducerFenced as error:
            raise TransactionError(Reaction.FENCED, str(error)) from error
        except TooLarge as error:
            raise TransactionError(Reaction.REJECT, str(error)) from error
        except IllegalGeneration as error:
            raise TransactionError(Reaction.ABORT, str(error)) from error
        except InvalidState as error:
            raise TransactionError(Reaction.REPLACE, str(error)) from error


class _MemoryState:
    """A StateSource on a MemoryBroker."""

    def __init__(
        self,
        broker: MemoryBroker,
        group: str,
        state: str,
        inputs: Sequence[str],
        partition: int,
        *,
        siblings: Callable[[str], Sequence[str]],
        writer_of: Callable[[bytes], str],
        clock: Clock,
    ) -> None:
        self._clock = clock
        self.partition = partition
        self._broker, self._group, self._state, self._inputs = broker, group, state, inputs
        self._siblings, self._writer_of = siblings, writer_of
        self._low = self._end = 0

    def ends(self) -> Ends:
        return self._broker.ends(self._state, self.partition)

    def writers(self, start: int, end: int) -> list[str]:
        return [
            self._writer_of(record.value)
            for record in self._broker.read(self._state, self.partition, start, committed=False)
            if record.offset < end
            and record.value is not None
            and (record.key or b"").startswith(WATERMARK_PREFIX.encode())
        ]

    def fence(self, writers: Collection[str]) -> None:
        for id_ in sorted({id_ for writer in writers for id_ in self._siblings(writer)}):
            self._broker.init_producer(id_)

    def committed(self, timeout: float) -> Mapping[str, int] | None:
        """Waits on the clock: what goes on meanwhile may settle it."""
        until = self._clock.monotonic() + timeout
        while True:
            found = self._broker.committed(self._group, self._inputs, self.partition)
            if found is not None or self._clock.monotonic() >= until:
                return found
            self._clock.sleep(PENDING_WAIT_SECONDS)

    def beginning(self) -> Mapping[str, int]:
        return {topic: self._broker.ends(topic, self.partition).low for topic in self._inputs}

    def start(self, low: int, end: int) -> None:
        self._low, self._end = low, end

    def read(self) -> int:
        return min(self._end, self._broker.ends(self._state, self.partition).stable)

    def records(self) -> Iterator[Sequence[Record]]:
        while self._low < self._end:
            found = self._broker.read(self._state, self.partition, self._low, limit=BATCH_RECORDS)
            found = [record for record in found if record.offset < self._end]
            self._low = found[-1].offset + 1 if found else self._end
            yield found

    def close(self) -> None:
        """Nothing is held."""


def _at_once(call: Callable[[], T]) -> "Future[T]":
    future: Future[T] = Future()
    try:
        future.set_result(call())
    except Exception as error:  # the future carries it
        future.set_exception(error)
    return future
