"""A door to Kafka for reading an application's topics: committed records only, by assignment, without a group.

Nothing here is a worker's: offsets are never committed and nobody is rebalanced, so any number of readers may
look at a live application. What `snapshot` and `scan` return ends where a transaction ends: the records that
one transition wrote are all there or none of them.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, cast

import confluent_kafka as ck

from kompensate.orchestrator.client_errors import ClientError, MissingTopic, Unreachable
from kompensate.orchestrator.ports import HeaderList, Record
from kompensate.schemas.refusals import Refusals
from kompensate.schemas.topics import READER_GROUP

BATCH_RECORDS = 5_000
"""Records taken from librdkafka's queue at once."""
END_WAIT_MS = 10
"""How long a broker holds back the empty answer from which librdkafka sees a partition's end. Until then it
answers nothing else on that connection."""
TIMEOUT_SECONDS = 10.0
"""A request without an answer for so long: the broker counts as unreachable."""

UNREACHABLE = frozenset({ck.KafkaError._TRANSPORT, ck.KafkaError._ALL_BROKERS_DOWN, ck.KafkaError._TIMED_OUT})
UNKNOWN_TOPIC = frozenset({ck.KafkaError.UNKNOWN_TOPIC_OR_PART, ck.KafkaError._UNKNOWN_TOPIC})


class Message(Protocol):
    """librdkafka's message as it is read: its own types allow for messages that were not sent yet."""

    def error(self) -> ck.KafkaError | None: ...
    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def timestamp(self) -> tuple[int, int]: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def headers(self) -> HeaderList | None: ...


class Batch(NamedTuple):
    """Records in the order of their partitions; `caught_up` are partitions whose end comes after them."""

    records: list[Record]
    caught_up: frozenset[int]


class Reader:
    """Reads topics of the cluster at `bootstrap`; `kafka` are librdkafka's own options. One thread at a time."""

    def __init__(
        self, bootstrap: str, kafka: Mapping[str, str] | None = None, *, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        self._bootstrap = bootstrap
        self._timeout = timeout
        self._closed = False
        self._refusals = Refusals()
        self._consumer = ck.Consumer(
            {
                **common_options(bootstrap, kafka),
                "error_cb": self._refusals,
                "group.id": READER_GROUP,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": END_WAIT_MS,
                "check.crcs": True,
                "allow.auto.create.topics": False,
                "fetch.queue.backoff.ms": 10,  # a queue that was full is filled again soon; the default is a second
            }
        )

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._closed = True
        self._consumer.close()

    def _let_go(self) -> None:
        """Stop fetching: a fetch that goes on holds up the next question."""
        if not self._closed:  # whoever followed may be done with it only after that
            self._consumer.unassign()

    def topics(self) -> dict[str, int]:
        """Every topic of the cluster with its number of partitions. Raises Unreachable."""
        try:
            found = self._consumer.list_topics(timeout=self._timeout).topics
        except ck.KafkaException as error:
            raise self._error(error.args[0], "its topics") from error
        return {name: len(topic.partitions) for name, topic in found.items()}

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has. Raises MissingTopic, Unreachable."""
        return partitions_of(topic, self.topics(), self._bootstrap)

    def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """Where each partition's committed records end now: the offset after the last. Raises ClientError."""
        return {partition: self._ends(topic, partition)[1] for partition in partitions}

    def since(self, topic: str, partitions: Sequence[int], time_ms: int) -> dict[int, int]:
        """The first offset of each partition whose record is not older than `time_ms`. Raises ClientError."""
        asked = [ck.TopicPartition(topic, partition, max(time_ms, 0)) for partition in partitions]
        try:
            found = self._consumer.offsets_for_times(asked, self._timeout)
        except ck.KafkaException as error:
            raise self._error(error.args[0], topic) from error
        # -1: no record is that young.
        return {f.partition: f.offset if f.offset >= 0 else self._ends(topic, f.partition)[1] for f in found}

    def snapshot(
        self, topic: str, partitions: Sequence[int], wanted: Callable[[bytes], bool] | None = None
    ) -> dict[int, dict[bytes, Record]]:
        """The last record of each key by partition, as compaction would leave it: no tombstones.

        `wanted` says which keys are kept; None keeps all. Raises ClientError.
        """
        last: dict[int, dict[bytes, Message]] = {partition: {} for partition in partitions}
        for messages in self._to_end(topic, dict.fromkeys(partitions, ck.OFFSET_BEGINNING)):
            for message in messages:
                key = message.key()
                if key is None or (wanted is not None and not wanted(key)):
                    continue
                found = last[message.partition()]
                if message.value() is None:
                    found.pop(key, None)
                else:
                    found[key] = message
        # Records are made of what is left only: that halves the time for a topic that was not compacted yet.
        return {p: {key: record_of(message) for key, message in found.items()} for p, found in last.items()}

    def scan(
        self, topic: str, starts: Mapping[int, int], wanted: Callable[[bytes | None], bool] | None = None
    ) -> Iterator[Record]:
        """Records from these offsets (by partition) to the partitions' present ends. Raises ClientError."""
        for messages in self._to_end(topic, starts):
            for message in messages:
                if wanted is None or wanted(message.key()):
                    yield record_of(message)

    def follow(self, topic: str, starts: Mapping[int, int], wait: float) -> Iterator[Batch]:
        """Records from these offsets on, for ever; an empty batch after `wait` seconds without any.

        Raises ClientError, but not where brokers are away for a while: they may come back.
        """
        self._assign(topic, starts)
        try:
            while True:
                messages, caught_up = self._next(topic, wait)
                yield Batch([record_of(message) for message in messages], frozenset(caught_up))
        finally:
            self._let_go()

    def _to_end(self, topic: str, starts: Mapping[int, int]) -> Iterator[list[Message]]:
        """Batches up to where the partitions ended when this was called, a boundary of transactions."""
        ends = {}
        for partition, start in starts.items():
            low, end = self._ends(topic, partition)
            if max(low, start) < end:
                ends[partition] = end
        if not ends:
            return
        self._assign(topic, {partition: starts[partition] for partition in ends})
        try:
            yield from self._until(topic, ends)
        finally:
            self._let_go()

    def _until(self, topic: str, ends: Mapping[int, int]) -> Iterator[list[Message]]:
        left = set(ends)
        heard = time.monotonic()
        while left:
            messages, caught_up = self._next(topic, 0.1)
            left -= caught_up
            if messages or caught_up:
                heard = time.monotonic()
            elif time.monotonic() - heard > self._timeout:
                raise Unreachable(
                    f"Kafka at {self._bootstrap}: expected records of {topic}/{min(left)} up to offset "
                    f"{ends[min(left)]}, got none for {self._timeout:g} s"
                )
            if messages:
                left -= {m.partition() for m in messages if m.offset() + 1 >= ends[m.partition()]}
                yield [m for m in messages if m.offset() < ends[m.partition()]]

    def _next(self, topic: str, wait: float) -> tuple[list[Message], set[int]]:
        """What there is, as soon as there is something: (records, partitions at their end)."""
        first = self._consumer.poll(wait)
        if first is None:
            return [], set()
        # poll() wakes for the first; what came with it is taken without waiting for more.
        messages: list[Message] = []
        caught_up: set[int] = set()
        for message in cast("list[Message]", [first, *self._consumer.consume(BATCH_RECORDS, 0)]):
            error = message.error()
            if error is None:
                messages.append(message)
                if caught_up:  # there is more than the end that was seen
                    caught_up.discard(message.partition())
            elif error.code() == ck.KafkaError._PARTITION_EOF:
                caught_up.add(message.partition())
            elif error.code() not in UNREACHABLE:
                raise self._error(error, topic)
        return messages, caught_up

    def _assign(self, topic: str, starts: Mapping[int, int]) -> None:
        self._consumer.assign([ck.TopicPartition(topic, p, offset) for p, offset in starts.items()])

    def _ends(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset, last stable offset): a read_committed consumer is told no later end."""
        try:
            low, high = self._consumer.get_watermark_offsets(ck.TopicPartition(topic, partition), self._timeout)
        except ck.KafkaException as error:
            raise self._error(error.args[0], f"{topic}/{partition}") from error
        return low, high

    def _error(self, error: ck.KafkaError, what: str) -> ClientError:
        if error.code() in UNREACHABLE:
            self._consumer.poll(0)  # calls back
        return error_of(error, what, self._bootstrap, self._timeout, self._refusals)


def common_options(bootstrap: str, kafka: Mapping[str, str] | None) -> dict[str, object]:
    """librdkafka's options for any client of this package: the user's own, and what we rely on."""
    return {
        "bootstrap.servers": bootstrap,
        "client.id": "kompensate",
        **(kafka or {}),
        "logger": logging.getLogger("kompensate.librdkafka"),
    }


def error_of(
    error: ck.KafkaError, what: str, bootstrap: str, timeout: float, refusals: Refusals | None = None
) -> ClientError:
    """Our error for librdkafka's, naming what was asked for and where. `refusals` are what its client has heard."""
    if error.code() in UNREACHABLE:
        return Unreachable(
            f"Kafka at {bootstrap}: expected an answer about {what} within {timeout:g} s, got none ({error.str()}): "
            f"{(refusals or Refusals()).advice}"
        )
    if error.code() in UNKNOWN_TOPIC:
        return MissingTopic(f"Kafka at {bootstrap}: expected topic {what}, got no such topic")
    return ClientError(f"Kafka at {bootstrap}, {what}: {error.str()} ({error.name()})")


def partitions_of(topic: str, topics: Mapping[str, int], bootstrap: str) -> int:
    """How many partitions `topic` has among `topics`. Raises MissingTopic naming those that look alike."""
    if topic in topics:
        return topics[topic]
    kind = topic.rpartition(".")[2]
    alike = sorted(name for name in topics if name.endswith(f".{kind}"))[:10]
    raise MissingTopic(
        f"Kafka at {bootstrap}: expected topic {topic}, got "
        f"{'only ' + ', '.join(alike) if alike else f'no topic that ends in .{kind}'}: is it the right application, "
        "prefix and cluster? `kompensate topics apply` makes an application's topics"
    )


def record_of(message: Message) -> Record:
    """A message without an error as a Record."""
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        message.headers(),
    )
