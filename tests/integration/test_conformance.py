"""The conformance kit on real Kafka and PostgreSQL: a Python participant that is right passes, others do not."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from confluent_kafka import Producer
from sqlalchemy import text

from kompensate.orchestrator.conformance.cases import CASES
from kompensate.orchestrator.conformance.kafka import KafkaWire
from kompensate.orchestrator.conformance.kit import Result, run
from kompensate.outbox.main import RelayService, RelaySettings
from kompensate.participants import kafka as door
from kompensate.participants.database import connect
from kompensate.participants.main import Service
from kompensate.participants.settings import Settings
from tests.fixtures.conforming import BROKEN, SAMPLES, Counted, failed
from tests.fixtures.outboxes import QUICK
from tests.fixtures.participants import World, stock
from tests.fixtures.topics import ServiceTopics

PATIENCE_SECONDS = 30.0
Try = Callable[[float], dict[str, Result]]


@pytest.fixture
def tried(kafka: str, topic_prefix: str, postgres: str) -> Iterator[Try]:
    """Starts two processes' worth of `stock` and a relay; what the kit finds of them, by case."""
    topics = ServiceTopics(kafka, topic_prefix)
    topics.make()
    world = World(connect(postgres, "stock"))

    def count(saga_id: str) -> int:
        with world.engine.connect() as connection:
            found = connection.execute(text("SELECT count(*) FROM effect WHERE saga_id = :id"), {"id": saga_id})
            return int(found.scalar_one())

    with ExitStack() as at_work:

        def run_kit(patience: float) -> dict[str, Result]:
            for _ in range(2):
                at_work.enter_context(Service(stock, postgres, kafka, prefix=topic_prefix, settings=Settings()))
            relay = RelaySettings(postgres, kafka, service="stock", prefix=topic_prefix, limits=QUICK)
            at_work.enter_context(RelayService(relay))
            subject = Counted("stock", SAMPLES, ("count",), count)
            with KafkaWire(kafka, "stock", topic_prefix, {}) as wire:
                return {result.case: result for result in run(wire, subject, topic_prefix, patience)}

        yield run_kit
    world.engine.dispose()


def test_two_processes_of_a_participant_pass(tried: Try) -> None:
    """Every case, with two members that hold the same commands at the same time."""
    results = tried(PATIENCE_SECONDS)

    assert failed(results) == set(), results
    assert list(results) == [*(case.name for case in CASES), "replies"]


def test_a_participant_that_forgets_is_found(tried: Try) -> None:
    """One whose empty compensations leave no mark fails the case that is named for it, on real servers too."""
    broken = next(one for one in BROKEN if one.rule == "an empty compensation leaves its mark")

    with broken.leave_out():
        results = tried(PATIENCE_SECONDS)

    assert "late-command" in failed(results) <= {"late-command", "compensation-race"}, results


def test_a_participant_that_reads_uncommitted_commands_is_found(tried: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Kafka's own clients do by default."""
    monkeypatch.setitem(door._OURS_CONSUMER, "isolation.level", "read_uncommitted")

    results = tried(PATIENCE_SECONDS)

    assert failed(results) == {"aborted-command"}, results


def test_a_participant_that_does_not_run_is_found(kafka: str, topic_prefix: str) -> None:
    """Its commands wait: the kit says what it waited for, and goes no further."""
    ServiceTopics(kafka, topic_prefix).make()

    with KafkaWire(kafka, "stock", topic_prefix, {}) as wire:
        [only] = run(wire, Counted("stock", SAMPLES), topic_prefix, patience=0.5)

    assert only.result == "fail"
    assert only.findings[0].got == "0 in 0.5 s"


def test_other_traffic_does_not_disturb(tried: Try, kafka: str, topic_prefix: str) -> None:
    """Replies to others, and junk, on the kit's own topics are passed over."""
    with KafkaWire(kafka, "stock", topic_prefix, {}):
        pass  # makes the reply topic
    producer = Producer({"bootstrap.servers": kafka})
    for topic in (f"{topic_prefix}conform.replies.stock", f"{topic_prefix}stock.dead"):
        producer.produce(topic, b"\xff", b"\xff", headers=[("ce_causationid", b"\xff")])
    assert producer.flush(PATIENCE_SECONDS) == 0

    assert failed(tried(PATIENCE_SECONDS)) == set()
