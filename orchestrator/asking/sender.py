"""Brings requests to Kafka, and says where each of them stands there.

A request goes to its saga's partition, the same number in the requests topic and in that of orders. librdkafka reports
each exactly once, acknowledged or not.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from operator import itemgetter
from typing import TypeAlias

import confluent_kafka as ck

from kompensate.orchestrator.client_errors import ClientError, NotAcknowledged
from kompensate.orchestrator.reading.outcomes import Sent
from kompensate.orchestrator.reading.reader import UNREACHABLE, common_options, error_of, partitions_of
from kompensate.schemas.messages import Request
from kompensate.schemas.refusals import Refusals
from kompensate.schemas.requests import topic_of
from kompensate.schemas.topics import Topics, check_saga_id, partition_of

IN_FLIGHT_MAX = 20_000
"""Requests sent and not yet acknowledged: bounds memory, and is far more than keeps a broker busy."""
POLL_SECONDS = 0.1

Report: TypeAlias = Callable[[ck.KafkaError | None, ck.Message], None]
"""Told once of each request: what librdkafka says of it."""
Delivery: TypeAlias = tuple[int, ck.KafkaError | None, ck.Message]
"""The request's number, and what librdkafka says of it."""


class Sender:
    """Sends what is asked of one application's sagas. May be shared by threads. `timeout` in seconds."""

    def __init__(self, bootstrap: str, topics: Topics, kafka: Mapping[str, str], timeout: float) -> None:
        self._bootstrap = bootstrap
        self._topics = topics
        self._timeout = timeout
        self._refusals = Refusals()
        self._producer = ck.Producer(
            {
                **common_options(bootstrap, kafka),
                "error_cb": self._refusals,
                "enable.idempotence": True,
                "acks": "all",
                "partitioner": "murmur2_random",  # every record names its partition; were one not to, the same rule
                "linger.ms": 1,
                "message.timeout.ms": round(timeout * 1000),
            }
        )

    def close(self) -> None:
        """Wait until all is reported."""
        self._producer.flush(self._timeout)

    def send(self, requests: Sequence[Request]) -> list[Sent]:
        """Send requests in their order; returns when Kafka has them all."""
        reports: list[Delivery] = []
        for number, request in enumerate(requests):
            while number - len(reports) >= IN_FLIGHT_MAX:
                self.serve(POLL_SECONDS)
            self._produce(request, partial(_report, reports, number))
            self.serve(0)
        while len(reports) < len(requests):
            self.serve(POLL_SECONDS)  # each is reported, at the latest after message.timeout.ms
        return self.acknowledged(requests, reports)

    def acknowledged(self, requests: Sequence[Request], reports: Sequence["Delivery"]) -> list[Sent]:
        """What was sent, from its delivery reports in any order. Raises NotAcknowledged, ClientError."""
        self._expect_acknowledged(reports)
        messages = [message for _, _, message in sorted(reports, key=lambda report: report[0])]
        return [self._sent(request, message) for request, message in zip(requests, messages, strict=True)]

    def _produce(self, request: Request, report: "Report") -> None:
        deadline = time.monotonic() + self._timeout
        while not self.offer(request, report):  # librdkafka's queue is full
            if time.monotonic() > deadline:
                raise NotAcknowledged(
                    f"saga {request.saga_id!r}: {topic_of(request, self._topics)} took nothing for {self._timeout:g} s"
                )
            self.serve(POLL_SECONDS)

    def offer(self, request: Request, report: "Report") -> bool:
        """Hand a request to librdkafka, without waiting; False where its queue is full. Raises ClientError.

        `report` is called by whichever thread calls `serve`.
        """
        topic, partition = topic_of(request, self._topics), self.partition(request.saga_id)
        headers: list[tuple[str, str | bytes | None]] = [*request.headers()]
        key = request.saga_id.encode()
        try:
            self._producer.produce(
                topic, request.payload, key, partition=partition, headers=headers, on_delivery=report
            )
        except BufferError:
            return False
        except ck.KafkaException as error:
            raise error_of(error.args[0], f"{topic}/{partition}", self._bootstrap, self._timeout) from error
        return True

    def serve(self, timeout: float) -> None:
        """Let reports of what was offered come in, for up to `timeout` seconds."""
        try:
            self._producer.poll(timeout)
        except SystemError as error:
            # What a signal handler raises while a report is taken, confluent-kafka loses (its issues 150, 1708).
            raise KeyboardInterrupt from error

    def _expect_acknowledged(self, reports: Sequence["Delivery"]) -> None:
        """Raises NotAcknowledged, ClientError."""
        errors = [(number, error, message) for number, error, message in reports if error is not None]
        if not errors:
            return
        number, error, message = min(errors, key=itemgetter(0))
        unsure = error.code() in UNREACHABLE or error.code() == ck.KafkaError._MSG_TIMED_OUT
        raise (NotAcknowledged if unsure else ClientError)(
            f"Kafka at {self._bootstrap}, {message.topic()}: expected {len(reports)} requests to be acknowledged "
            f"within {self._timeout:g} s, got errors for {len(errors)}, for number {number} first: {error.str()} "
            f"({error.name()})"
        )

    def _sent(self, request: Request, message: ck.Message) -> Sent:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None  # it was delivered
        return Sent(
            request.id,
            request.type,
            request.saga_id,
            request.saga_type,
            request.payload or b"",
            topic,
            partition,
            offset,
            message.timestamp()[1],
        )

    @cached_property
    def _partitions(self) -> int:
        """Read once: an application's count never changes."""
        try:
            found = self._producer.list_topics(timeout=self._timeout).topics
        except ck.KafkaException as error:
            self.serve(0)  # calls back
            raise error_of(error.args[0], "its topics", self._bootstrap, self._timeout, self._refusals) from error
        counts = {name: len(topic.partitions) for name, topic in found.items()}
        return partitions_of(self._topics.requests, counts, self._bootstrap)

    def partition(self, saga_id: str) -> int:
        """The partition a saga lives on. The first call asks Kafka for the count. Raises MissingTopic, Unreachable."""
        return partition_of(check_saga_id(saga_id), self._partitions)


def _report(reports: list[Delivery], number: int, error: ck.KafkaError | None, message: ck.Message) -> None:
    """Delivery callback; whichever thread polls calls it."""
    reports.append((number, error, message))
