"""What a transactional producer asks of librdkafka."""

from typing import Any

from kompensate.orchestrator.kafka.producer import KafkaProducer


class Recording:
    """Stands where librdkafka's producer does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def send_offsets_to_transaction(self, *arguments: Any) -> None:
        self.asked.append(arguments)


def test_offsets_are_waited_for_no_longer_than_a_transaction_may_last() -> None:
    """Without a time-out the call waits for ever: seen in one of five restarts of a broker with offsets under way.

    tests/integration/test_system_servers.py is where it hung.
    """
    producer = object.__new__(KafkaProducer)  # a made one would look for a broker
    recording: Any = Recording()
    producer._producer, producer._timeout = recording, 7.5

    producer.send_offsets({("shop.requests", 0): 3}, b"metadata")

    [(positions, metadata, timeout)] = recording.asked
    assert [(p.topic, p.partition, p.offset) for p in positions] == [("shop.requests", 0, 3)]
    assert (metadata, timeout) == (b"metadata", 7.5)
