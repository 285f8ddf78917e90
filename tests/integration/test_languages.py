"""Participants in other languages, as processes on real Kafka and PostgreSQL: they pass the conformance kit."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, create_engine, text

from examples.checkout import inventory, payments
from examples.languages import build
from kompensate.orchestrator.conformance.cases import CASES
from kompensate.orchestrator.conformance.kafka import KafkaWire
from kompensate.orchestrator.conformance.kit import run
from kompensate.orchestrator.conformance.subject import Subject, read
from kompensate.outbox.main import RelayService, RelaySettings
from kompensate.outbox.tables import create_tables
from tests.fixtures.conforming import Counted, failed
from tests.fixtures.outboxes import QUICK
from tests.fixtures.topics import ServiceTopics

SAMPLES = Path(build.__file__).parent
PATIENCE_SECONDS = 60.0
STOP_SECONDS = 20.0

SERVICES: dict[str, tuple[Callable[[Path], build.Start], str, Callable[[Connection], None], str]] = {
    "java": (build.java, "payments", lambda c: payments.create(c, [("1", False), ("blocked", True)]), "ledger"),
    "go": (build.go, "inventory", lambda c: inventory.create(c, [("cd-001", 10_000), ("cd-007", 0)]), "movement"),
}


@pytest.fixture(scope="module", params=["java", "go"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, build.Start]:
    """A participant in that language, compiled; Go is skipped where it cannot be had."""
    language = request.param
    try:
        return language, SERVICES[language][0](tmp_path_factory.mktemp(language))
    except build.Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def subject(built: tuple[str, build.Start], kafka: str, topic_prefix: str, postgres: str) -> Iterator[Subject]:
    """Two processes of the service and a relay, at work; its committed samples, and its effects counted."""
    language, start = built
    _, service, create, table = SERVICES[language]
    engine = create_engine(postgres.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        create_tables(connection)
        create(connection)

    def count(saga_id: str) -> int:
        with engine.connect() as asking:
            found = asking.execute(text(f"SELECT count(*) FROM {table} WHERE order_id = :id"), {"id": saga_id})
            return int(found.scalar_one())

    replace(ServiceTopics(kafka, topic_prefix), service=service).make()
    environment = {**os.environ, "KOMPENSATE_BOOTSTRAP": kafka, "KOMPENSATE_PREFIX": topic_prefix}
    processes = [
        subprocess.Popen(start(postgres), env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    relay = RelaySettings(postgres, kafka, service=service, prefix=topic_prefix, limits=QUICK)
    found = read(service, (SAMPLES / f"{service}.json").read_text())
    try:
        with RelayService(relay):
            yield Counted(service, found.samples, ("count",), count)
        assert [process.poll() for process in processes] == [None, None], "one ended by itself"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                _, errors = process.communicate(timeout=STOP_SECONDS)
            finally:
                process.kill()
            print(errors)
        engine.dispose()


def test_it_passes_the_kit(subject: Subject, kafka: str, topic_prefix: str) -> None:
    """Every case, with its effects counted in the service's database; none is skipped."""
    with KafkaWire(kafka, subject.service, topic_prefix, {}) as wire:
        results = {result.case: result for result in run(wire, subject, topic_prefix, PATIENCE_SECONDS)}

    assert failed(results) == set(), results
    assert list(results) == [*(case.name for case in CASES), "replies"]


def test_the_pages_statements_are_sql(postgres: str) -> None:
    """What docs/guides/wire.md tells authors to run, PostgreSQL takes for tables of schema.sql."""
    engine = create_engine(postgres.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        create_tables(connection)
    engine.dispose()
    page = (SAMPLES.parents[1] / "docs/guides/wire.md").read_text()
    statements = re.findall(r"```sql\n(.*?);\n```", page, re.DOTALL)

    with psycopg.connect(postgres) as connection:
        for number, statement in enumerate(statements):
            connection.execute(f"PREPARE stated_{number} AS {statement}")
    assert len(statements) == 4
