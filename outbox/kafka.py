"""The relay's door to Kafka: an idempotent producer that never gives up on a record Kafka could take.

Order within a partition is kept through retries. A record is answered once: the broker has it on all
in-sync replicas, or it will never be taken (Refusal). Whatever passes by itself (brokers away, elections)
is waited out inside librdkafka. librdkafka's options pass through, except those that this rests on.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Producer

from kompensate.outbox.errors import Disconnected, Misconfigured
from kompensate.outbox.records import Record
from kompensate.outbox.relay import Delivered, Refusal

log = logging.getLogger(__name__)

RECORD_BYTES_MAX: Final = 8 * 1024 * 1024
"""What the client lets through; the topic's own limit is the broker's to enforce."""
IN_FLIGHT_MAX: Final = 20_000
"""Records taken in and not answered: bounds memory where Kafka is slow or away."""
IN_FLIGHT_KBYTES_MAX: Final = 32 * 1024

_OURS: Final[dict[str, object]] = {
    "acks": "all",
    "enable.idempotence": True,
    # Kafka away for a day is no reason to drop a row.
    "message.timeout.ms": 0,
    "partitioner": "murmur2_random",
    "delivery.report.only.error": False,
    "allow.auto.create.topics": False,
}
_DEFAULTS: Final[dict[str, object]] = {
    "client.id": "kompensate-relay",
    # A broker opens every record of a batch that is not compressed: half its processor time (measured).
    "compression.type": "lz4",
    # Under load rows fill batches, which is less work for librdkafka and the broker. Rows that come after a rest do not
    # wait for others: `poll` pushes them.
    "linger.ms": 10,
    "socket.nagle.disable": True,
    # A batch larger than a topic's limit would be refused whole, for the sake of its size alone.
    "batch.size": 512 * 1024,
    "message.max.bytes": RECORD_BYTES_MAX,
    "queue.buffering.max.messages": IN_FLIGHT_MAX,
    "queue.buffering.max.kbytes": IN_FLIGHT_KBYTES_MAX,
    # How long a topic may be unknown before that is believed; a topic just made may be unknown for a moment.
    "topic.metadata.propagation.max.ms": 10_000,
}

_TOO_LARGE: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
# Answers that another attempt would not change.
_NEVER: Final = _TOO_LARGE | {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._INVALID_ARG,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
}


def configuration(bootstrap: str, options: Mapping[str, object]) -> dict[str, Any]:
    """Options for librdkafka. Raises ValueError where `options` would change what the promises rest on."""
    for name, value in options.items():
        if name in _OURS and str(value).lower() != str(_OURS[name]).lower():
            raise ValueError(f"Kafka option {name}: expected {_OURS[name]} (the promises rest on it), got {value!r}")
    return {"bootstrap.servers": bootstrap, **_DEFAULTS, **options, **_OURS}


def partitions(bootstrap: str, options: Mapping[str, object], timeout: float) -> dict[str, int] | None:
    """Kafka's topics with how many partitions each has; None where it does not answer in `timeout` seconds.

    Raises Misconfigured for options that librdkafka does not take.
    """
    try:
        producer = Producer({**configuration(bootstrap, options), "log_level": "2"})
        found = producer.list_topics(timeout=timeout).topics.values()
    except KafkaException as error:
        if error.args[0].code() == KafkaError._INVALID_ARG:
            raise Misconfigured(f"Kafka options: {error}") from error
        return None
    return {str(topic.topic): len(topic.partitions) for topic in found if topic.error is None}


class KafkaSink:
    """The relay's Sink."""

    def __init__(self, bootstrap: str, options: Mapping[str, object]) -> None:
        """Raises Misconfigured for options that librdkafka does not take."""
        self._broken: KafkaError | None = None
        self._pushed = False  # since nothing was under way
        try:
            self._producer = Producer(
                {**configuration(bootstrap, options), "error_cb": self._on_error}, logger=log.getChild("librdkafka")
            )
        except (KafkaException, ValueError) as error:
            raise Misconfigured(f"Kafka options: {error}") from error

    def missing(self, topic: str, timeout: float) -> bool | None:
        """Whether Kafka has no such topic; None where it does not answer in `timeout` seconds."""
        try:
            found = self._producer.list_topics(topic, timeout).topics.get(topic)
        except KafkaException:
            return None
        return found is None or found.error is not None

    def send(self, record: Record, delivered: Delivered) -> bool:
        """See relay.Sink."""
        try:
            self._producer.produce(
                record.topic,
                value=record.value,
                key=record.key,
                partition=record.partition,
                on_delivery=delivered,
                headers=record.headers,  # type: ignore[arg-type]  # a list's type is invariant; nobody writes to it
            )
        except BufferError:
            return False
        except KafkaException as exception:
            delivered(exception.args[0], None)
        return True

    def refusal(self, error: KafkaError, record: Record) -> Refusal | None:
        """See relay.Sink."""
        code = error.code()
        if code in _NEVER and not error.fatal():
            place = f"{record.topic} [{record.partition}]"
            return Refusal(f"{place}: {error.str()} ({error.name()})", code in _TOO_LARGE)
        if code not in (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT):
            self._broken = error
        return None

    def poll(self, timeout: float) -> bool:
        """See relay.Sink."""
        if timeout and not self._pushed:
            self._pushed = True
            self._producer.flush(timeout)  # meanwhile linger.ms counts for nothing
        else:
            self._producer.poll(timeout)
        if self._broken is not None:
            raise Disconnected(f"Kafka: the producer cannot go on: {self._broken}")
        under_way = len(self._producer)
        self._pushed = self._pushed and under_way > 0
        return not under_way

    def close(self) -> None:
        """Drop what has no answer: it was not confirmed, so it comes again."""
        self._producer.purge()
        self._producer.poll(0)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._broken = error
        else:
            log.warning("Kafka: %s", error)
