"""One partition of the state topic during a take-over: the single things that worker.restore puts in order.

Its clients are its own: most calls come from a helper thread while the worker's loop goes on.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin import OffsetSpec as _OffsetSpec  # type: ignore[attr-defined]  # public, but not re-exported for checkers

from kompensate.orchestrator.errors import Corrupted, Fatal
from kompensate.orchestrator.kafka.options import AUTHORIZATION, CALL_SECONDS, Options, consumer_options
from kompensate.orchestrator.kafka.producer import KafkaProducer
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.worker.aside import aside
from kompensate.orchestrator.worker.restore import Ends
from kompensate.orchestrator.worker.transactions import TransactionError
from kompensate.schemas.topics import WATERMARK_PREFIX

logger = logging.getLogger(__name__)

BATCH_RECORDS = 5_000
"""Records taken at once, before the loop looks at its other partitions: some 10 ms of its time."""
WAIT_MS = 10
"""How long the broker may wait for more records before it says that the end is reached."""

# The library leaves these two untyped.
EARLIEST, LATEST = _OffsetSpec.earliest(), _OffsetSpec.latest()  # type: ignore[no-untyped-call]


def to_record(message: Message) -> Record:
    """A message without an error as a Record."""
    _, timestamp = message.timestamp()
    # The stubs allow None where only an error has it, and text where the client gives bytes.
    return Record(
        message.topic(),  # type: ignore[arg-type]
        message.partition(),  # type: ignore[arg-type]
        message.offset(),  # type: ignore[arg-type]
        timestamp,
        message.key(),
        message.value(),
        message.headers(),  # type: ignore[arg-type]
    )


class KafkaState:
    """A StateSource. Connection trouble is Corrupted with `retry`: the take-over begins anew."""

    def __init__(
        self,
        settings: Settings,
        group: str,
        state: str,
        inputs: Sequence[str],
        partition: int,
        *,
        admin: AdminClient,
        siblings: Callable[[str], Sequence[str]],
        writer_of: Callable[[bytes], str],
    ) -> None:
        """`siblings` gives the transactional ids of a writer's slot, none for our own."""
        self.partition = partition
        self._settings = settings
        self._group = group
        self._state = TopicPartition(state, partition)
        self._inputs = [TopicPartition(topic, partition) for topic in inputs]
        self._admin = admin
        self._siblings = siblings
        self._writer_of = writer_of
        self._reader: Consumer | None = None
        self._last: dict[bytes | None, Message] = {}
        self._position = self._end = 0

    @contextmanager
    def _calling(self, what: str) -> Iterator[None]:
        try:
            yield
        except KafkaException as exception:
            error = exception.args[0]
            text = f"state partition {self.partition}: {what}: {error.str()} ({error.name()})"
            if error.code() in AUTHORIZATION:
                raise Fatal(f"{text}: the worker's principal needs access") from exception
            raise Corrupted(text, self.partition, retry=True) from exception

    def _consumer(self, ours: Options) -> Consumer:
        options = {"fetch.wait.max.ms": WAIT_MS, "enable.partition.eof": True, **ours}
        consumer = Consumer(consumer_options(self._settings, self._group, options))
        # Asked for by name first: a topic that the client hears of by assign() costs it up to a second.
        consumer.list_topics(self._state.topic, CALL_SECONDS)
        return consumer

    # The end, as the broker has it (R13: get_watermark_offsets would answer with the last stable offset).

    def ends(self) -> Ends:
        low = self._offset(EARLIEST, IsolationLevel.READ_UNCOMMITTED)
        stable = self._offset(LATEST, IsolationLevel.READ_COMMITTED)
        return Ends(low, stable, self._offset(LATEST, IsolationLevel.READ_UNCOMMITTED))

    def _offset(self, spec: _OffsetSpec, isolation: IsolationLevel) -> int:
        return self._offsets([self._state], spec, isolation)[self._state.topic]

    def _offsets(
        self, partitions: list[TopicPartition], spec: _OffsetSpec, isolation: IsolationLevel
    ) -> dict[str, int]:
        with self._calling("asking for its offsets"):
            asked = self._admin.list_offsets(
                dict.fromkeys(partitions, spec), isolation_level=isolation, request_timeout=CALL_SECONDS
            )
            try:
                return {p.topic: found.result(CALL_SECONDS).offset for p, found in asked.items()}
            except KafkaException:
                # Only asking for metadata makes the client forget a leader that is none any more.
                self._admin.list_topics(timeout=CALL_SECONDS)
                raise

    def beginning(self) -> Mapping[str, int]:
        return self._offsets(self._inputs, EARLIEST, IsolationLevel.READ_UNCOMMITTED)

    def committed(self, timeout: float) -> Mapping[str, int] | None:
        # Under read_committed librdkafka asks for stable offsets and waits out pending transactions (R14).
        try:
            with self._calling("asking for the group's offsets"):
                found = self._open().committed(self._inputs, timeout)
        except Corrupted as error:
            cause = error.__cause__
            unstable = (KafkaError._TIMED_OUT, KafkaError.UNSTABLE_OFFSET_COMMIT, KafkaError._TIMED_OUT_QUEUE)
            if isinstance(cause, KafkaException) and cause.args[0].code() in unstable:
                return None
            raise
        with self._calling("asking for the group's offsets"):
            for partition in found:
                if partition.error is not None:
                    raise KafkaException(partition.error)
        return {p.topic: p.offset for p in found if p.offset >= 0}

    # Who wrote what is open.

    def writers(self, start: int, end: int) -> list[str]:
        found: list[str] = []
        with self._calling("reading its watermarks"):
            consumer = self._consumer({"isolation.level": "read_uncommitted"})
            try:
                consumer.assign([TopicPartition(self._state.topic, self.partition, start)])
                for message in self._until(consumer, end):
                    key, value = message.key(), message.value()
                    if key is not None and value is not None and key.startswith(WATERMARK_PREFIX.encode()):
                        found.append(self._writer_of(value))
            finally:
                consumer.close()
        return found

    def _until(self, consumer: Consumer, end: int) -> Iterator[Message]:
        deadline = monotonic() + self._settings.restore_stall_seconds
        position = -1
        while position < end:
            if monotonic() > deadline:
                raise Corrupted(
                    f"state partition {self.partition}: expected to read up to {end}, got to {position} only",
                    self.partition,
                    retry=True,
                )
            for message in consumer.consume(BATCH_RECORDS, WAIT_MS / 1000):
                error, offset = message.error(), message.offset() or 0
                if error is None:
                    position = offset + 1
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    position = max(position, offset)
                else:
                    raise KafkaException(error)

    def fence(self, writers: Collection[str]) -> None:
        ids = sorted({id_ for writer in writers for id_ in self._siblings(writer)})
        if not ids:
            return
        logger.info("state partition %d: fencing %s", self.partition, ", ".join(ids))
        producers = [aside(partial(KafkaProducer, self._settings, id_)) for id_ in ids]
        try:
            for producer in producers:
                producer.result().close()
        except TransactionError as error:
            raise Corrupted(
                f"state partition {self.partition}: fencing {', '.join(ids)}: {error}", self.partition, retry=True
            ) from error

    # Reading what is committed.

    def _open(self) -> Consumer:
        if self._reader is None:
            self._reader = self._consumer({})
        return self._reader

    def start(self, low: int, end: int) -> None:
        self._position, self._end = low, end
        with self._calling("reading it"):
            self._open().assign([TopicPartition(self._state.topic, self.partition, low)])

    def read(self) -> int:
        last, end = self._last, self._end
        with self._calling("reading it"):
            for message in self._open().consume(BATCH_RECORDS, 0):
                error, offset = message.error(), message.offset() or 0
                if error is None:
                    self._position = offset + 1
                    if offset < end:
                        last[message.key()] = message
                elif error.code() == KafkaError._PARTITION_EOF:
                    # The event's own offset: position() would miss a last marker (R13).
                    self._position = max(self._position, offset)
                else:
                    raise KafkaException(error)
        return self._position

    def records(self) -> Iterator[Sequence[Record]]:
        # To make a record of a message costs ten times as much as to read it: only the last of each key is made one.
        while self._last:
            yield [to_record(self._last.popitem()[1]) for _ in range(min(BATCH_RECORDS, len(self._last)))]

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
