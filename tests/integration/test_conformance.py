"""The conformance kit on real Kafka and PostgreSQL: a Python participant that is right passes, others do not."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from sqlalchemy import Engine, text

from kompensate.orchestrator.cli.conform import conform
from kompensate.orchestrator.client_errors import MissingTopic
from kompensate.orchestrator.conformance.cases import CASES
from kompensate.orchestrator.conformance.kafka import KafkaWire
from kompensate.orchestrator.conformance.kit import Result, run
from kompensate.outbox.main import RelayService, RelaySettings
from kompensate.participants import Participant
from kompensate.participants import kafka as door
from kompensate.participants.database import connect
from kompensate.participants.main import Service
from tests.fixtures.conforming import BROKEN, SAMPLES, Counted, failed
from tests.fixtures.conforming_outside import calling
from tests.fixtures.outboxes import QUICK
from tests.fixtures.participants import World, stock
from tests.fixtures.topics import ServiceTopics

PATIENCE_SECONDS = 30.0


@pytest.fixture
def at_work(kafka: str, topic_prefix: str, postgres: str) -> Iterator[World]:
    """Two members of `stock` and a relay."""
    with members(lambda _: stock, kafka, topic_prefix, postgres) as world:
        yield world


@contextmanager
def members(made: Callable[[Engine], Participant], kafka: str, topic_prefix: str, postgres: str) -> Iterator[World]:
    """Two members of the participant that is made for a database, and a relay."""
    ServiceTopics(kafka, topic_prefix).make()
    world = World(connect(postgres, "stock"))
    relay = RelaySettings(postgres, kafka, service="stock", prefix=topic_prefix, limits=QUICK)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Service(made(world.engine), postgres, kafka, prefix=topic_prefix))
        stack.enter_context(RelayService(relay))
        yield world
    world.engine.dispose()


def tried(world: World, kafka: str, prefix: str) -> dict[str, Result]:
    """What the kit finds, by case."""

    def count(saga_id: str) -> int:
        with world.engine.connect() as connection:
            found = connection.execute(text("SELECT count(*) FROM effect WHERE saga_id = :id"), {"id": saga_id})
            return int(found.scalar_one())

    with KafkaWire(kafka, "stock", prefix, {}) as wire:
        subject = Counted("stock", SAMPLES, ("count",), count)
        return {result.case: result for result in run(wire, subject, prefix, PATIENCE_SECONDS)}


def test_two_processes_of_a_participant_pass(at_work: World, kafka: str, topic_prefix: str) -> None:
    """Every case, with two members that hold the same commands at the same time."""
    results = tried(at_work, kafka, topic_prefix)

    assert failed(results) == set(), results
    assert list(results) == [*(case.name for case in CASES), "replies"]


def test_two_processes_that_call_outside_pass(kafka: str, topic_prefix: str, postgres: str) -> None:
    """Theirs is one answer to all deliveries that came while the call was out."""
    with members(calling, kafka, topic_prefix, postgres) as world:
        results = tried(world, kafka, topic_prefix)

    assert failed(results) == set(), results


def test_the_command_on_real_servers(at_work: World, kafka: str, topic_prefix: str, tmp_path: Path) -> None:
    """As its user runs it: JSON of each case on standard output, exit code 0."""
    file = tmp_path / "stock.json"
    file.write_text(
        json.dumps({kind: {"type": one.type, "payload": json.loads(one.payload)} for kind, one in SAMPLES.items()})
    )
    place = ["--service", "stock", "--bootstrap", kafka, "--prefix", topic_prefix, "--timeout", f"{PATIENCE_SECONDS}"]

    result = CliRunner().invoke(conform, [str(file), *place, "-o", "json"], catch_exceptions=False)

    assert {case["result"] for case in json.loads(result.stdout)} == {"pass"}
    assert result.exit_code == 0


def test_a_participant_that_forgets_is_found(at_work: World, kafka: str, topic_prefix: str) -> None:
    """One whose empty compensations leave no mark fails the case that is named for it, on real servers too."""
    broken = next(one for one in BROKEN if one.rule == "an empty compensation leaves its mark")

    with broken.leave_out():
        results = tried(at_work, kafka, topic_prefix)

    assert "late-command" in failed(results) <= {"late-command", "compensation-race"}, results


@pytest.fixture
def uncommitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Participants read as Kafka's own clients do by default."""
    monkeypatch.setitem(door._OURS_CONSUMER, "isolation.level", "read_uncommitted")


@pytest.mark.usefixtures("uncommitted")
def test_a_participant_that_reads_uncommitted_commands_is_found(
    kafka: str, topic_prefix: str, request: pytest.FixtureRequest
) -> None:
    """It handles what was never sent, and fails that case alone."""
    at_work = request.getfixturevalue("at_work")

    results = tried(at_work, kafka, topic_prefix)

    assert failed(results) == {"aborted-command"}, results


def test_a_participant_that_does_not_run_is_found(kafka: str, topic_prefix: str) -> None:
    """Its commands wait: the kit says what it waited for, and goes no further."""
    ServiceTopics(kafka, topic_prefix).make()

    with KafkaWire(kafka, "stock", topic_prefix, {}) as wire:
        [only] = run(wire, Counted("stock", SAMPLES), topic_prefix, patience=0.5)

    assert only.result == "fail"
    assert only.findings[0].got == "0 in 0.5 s"


def test_a_service_without_topics_is_named(kafka: str, topic_prefix: str) -> None:
    """Before anything is made or sent."""
    with pytest.raises(MissingTopic, match=rf"expected topic {topic_prefix}stock\.commands, got"):
        KafkaWire(kafka, "stock", topic_prefix, {})


def test_other_traffic_does_not_disturb(at_work: World, kafka: str, topic_prefix: str) -> None:
    """Replies to others, and junk, on the kit's own topics are passed over."""
    with KafkaWire(kafka, "stock", topic_prefix, {}):
        pass  # makes the reply topic
    producer = Producer({"bootstrap.servers": kafka})
    for topic in (f"{topic_prefix}conform.replies.stock", f"{topic_prefix}stock.dead"):
        producer.produce(topic, b"\xff", b"\xff", headers=[("ce_causationid", b"\xff")])
    assert producer.flush(PATIENCE_SECONDS) == 0

    assert failed(tried(at_work, kafka, topic_prefix)) == set()
