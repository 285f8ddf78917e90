"""The kit's door to Kafka: writes commands as an orchestrator does, reads replies and dead letters as they come."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kompensate.orchestrator.client_errors import ClientError, NotAcknowledged
from kompensate.orchestrator.conformance.talk import APP
from kompensate.orchestrator.ports import OutRecord, Record
from kompensate.orchestrator.reading.reader import Reader, common_options, error_of
from kompensate.schemas.topics import Topics

CALL_SECONDS = 15.0
REPLY_PARTITIONS = 3
"""More than one, so that a reply on the wrong one shows."""
REPLIES_MS = 24 * 3_600_000
SLICE_SECONDS = 0.02
"""Replies and dead letters are looked for in turn, so long each."""


class KafkaWire:
    """A Wire. Makes the kit's own reply topic where it is absent, and leaves it there.

    Raises MissingTopic where the service has no command topic or no dead letters, Unreachable.
    """

    def __init__(self, bootstrap: str, service: str, prefix: str, kafka: Mapping[str, str]) -> None:
        self._bootstrap = bootstrap
        self._options: dict[str, Any] = common_options(bootstrap, kafka)
        self._transactional_id = f"{prefix}{APP}.{service}"
        topics = Topics(APP, prefix)
        replies, dead = topics.replies(service), topics.dead(service)
        self._producer = ck.Producer({**self._options, "enable.idempotence": True, "acks": "all", "linger.ms": 1})
        self._readers = [Reader(bootstrap, kafka, timeout=CALL_SECONDS) for _ in range(2)]
        try:
            self.command_partitions = self._readers[0].partitions(topics.commands(service))
            # A topic that was just made has no leaders to be asked for ends, nor anything to pass over.
            starts = {
                replies: dict.fromkeys(range(REPLY_PARTITIONS), 0) if self._make(replies) else self._ends(replies)
            }
            starts[dead] = self._ends(dead)
            self.reply_partitions = len(starts[replies])
            self._followed = [
                reader.follow(topic, ends, SLICE_SECONDS)
                for reader, (topic, ends) in zip(self._readers, starts.items(), strict=True)
            ]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "KafkaWire":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        for reader in self._readers:
            reader.close()

    def send(self, records: Sequence[OutRecord]) -> None:
        """Write `records`; return when Kafka has them all. Raises NotAcknowledged."""
        self._produce(self._producer, records)

    def send_aborted(self, records: Sequence[OutRecord]) -> None:
        """Write `records` in a transaction, and abort it. Raises ClientError, NotAcknowledged."""
        producer = ck.Producer({**self._options, "transactional.id": self._transactional_id})
        try:
            producer.init_transactions(CALL_SECONDS)
            producer.begin_transaction()
            self._produce(producer, records)
            producer.abort_transaction(CALL_SECONDS)
        except ck.KafkaException as error:
            raise error_of(error.args[0], self._transactional_id, self._bootstrap, CALL_SECONDS) from error

    def receive(self, seconds: float) -> Sequence[Record]:
        """Replies and dead letters that have come; looks at each topic once at least. Raises ClientError."""
        found: list[Record] = []
        for _ in range(max(1, round(seconds / SLICE_SECONDS / len(self._followed)))):
            for followed in self._followed:
                found += next(followed).records
            if found:
                break
        return found

    def _produce(self, producer: ck.Producer, records: Sequence[OutRecord]) -> None:
        errors: list[ck.KafkaError] = []

        def delivered(error: ck.KafkaError | None, _message: ck.Message) -> None:
            if error is not None:
                errors.append(error)

        for record in records:
            assert record.partition is not None
            headers: list[tuple[str, str | bytes | None]] | None = None
            if record.headers is not None:
                headers = [*record.headers]
            producer.produce(
                record.topic,
                record.value,
                record.key,
                partition=record.partition,
                headers=headers,
                on_delivery=delivered,
            )
        left = producer.flush(CALL_SECONDS)
        if left or errors:
            got = str(errors[0]) if errors else f"no answer about {left} in {CALL_SECONDS:g} s"
            raise NotAcknowledged(
                f"Kafka at {self._bootstrap}: expected {records[0].topic} to take {len(records)} commands, got {got}"
            )

    def _ends(self, topic: str) -> dict[int, int]:
        reader = self._readers[0]
        return reader.ends(topic, range(reader.partitions(topic)))

    def _make(self, topic: str) -> bool:
        """Make the topic; False where it is there."""
        admin = AdminClient(self._options)
        new = NewTopic(topic, REPLY_PARTITIONS, config={"retention.ms": str(REPLIES_MS)})
        try:
            admin.create_topics([new])[topic].result(CALL_SECONDS)
            return True
        except ck.KafkaException as error:
            if error.args[0].code() == ck.KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise error_of(error.args[0], topic, self._bootstrap, CALL_SECONDS) from error
        except TimeoutError as error:
            raise ClientError(
                f"Kafka at {self._bootstrap}: expected topic {topic} to be made, got no answer"
            ) from error
