"""What a transactional producer asks of librdkafka, and what it does where librdkafka does not answer."""

from threading import Event
from typing import Any

import pytest

from kompensate.orchestrator.kafka import producer as producers
from kompensate.orchestrator.kafka.producer import KafkaProducer
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.worker.transactions import Reaction, TransactionError

WAIT_SECONDS = 30
OFFSETS = {("shop.requests", 0): 3}


class Librdkafka:
    """Stands where librdkafka's producer does: keeps what it was asked, and answers about offsets when it may."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.may_answer = Event()
        self.closed = Event()

    def send_offsets_to_transaction(self, *arguments: Any) -> None:
        self.asked.append(arguments)
        assert self.may_answer.wait(WAIT_SECONDS)

    def abort_transaction(self) -> None:
        self.asked.append(("abort",))

    def purge(self) -> None: ...

    def close(self) -> None:
        self.closed.set()


@pytest.fixture
def librdkafka() -> Librdkafka:
    return Librdkafka()


@pytest.fixture
def producer(librdkafka: Librdkafka, monkeypatch: pytest.MonkeyPatch) -> KafkaProducer:
    """A producer over the fake: a made one would look for a broker."""
    monkeypatch.setattr(producers, "Producer", lambda _options: librdkafka)
    monkeypatch.setattr(producers, "OVERTIME_SECONDS", 0.05)
    monkeypatch.setattr(Librdkafka, "init_transactions", lambda *_: None, raising=False)
    return KafkaProducer(Settings(transaction_timeout_seconds=7.5), "shop.w1.0")


def test_offsets_are_waited_for_no_longer_than_a_transaction_may_last(
    producer: KafkaProducer, librdkafka: Librdkafka
) -> None:
    librdkafka.may_answer.set()

    producer.send_offsets(OFFSETS, b"metadata")

    [(positions, metadata, timeout)] = librdkafka.asked
    assert [(p.topic, p.partition, p.offset) for p in positions] == [("shop.requests", 0, 3)]
    assert (metadata, timeout) == (b"metadata", 7.5)


def test_a_call_that_never_returns_is_given_up_and_its_producer_left_alone_until_it_does(
    producer: KafkaProducer, librdkafka: Librdkafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka's issues 5456 and 5511: its time-out is not looked at where the coordinator went away.

    tests/integration/test_system_servers.py is where a worker stood for ever.
    """
    monkeypatch.setattr(producer, "_timeout", 0.05)

    with pytest.raises(TransactionError, match="no answer to the offsets") as caught:
        producer.send_offsets(OFFSETS, b"metadata")
    assert caught.value.reaction is Reaction.ABORT
    with pytest.raises(TransactionError, match="still waits"):
        producer.abort()
    producer.close()

    assert len(librdkafka.asked) == 1, "nothing else may be asked of it meanwhile"
    assert not librdkafka.closed.is_set(), "it must not be closed under a call"
    librdkafka.may_answer.set()
    assert librdkafka.closed.wait(WAIT_SECONDS)
