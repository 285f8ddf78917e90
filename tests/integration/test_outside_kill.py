"""kill -9 of a service around its calls to the outside, on real Kafka and PostgreSQL; the provider's ledger tells."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine

from examples.gateway.demo import POINTS, provider
from examples.gateway.gateway import entries
from kompensate.outbox.tables import create_tables
from kompensate.schemas.faults import VARIABLE
from tests.fixtures.outside import charge
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

ROOT = Path(__file__).parents[2]
COUNT = 12


def test_every_point_is_tried() -> None:
    """The example's points are those in the code."""
    sources = (ROOT / "participants" / "outside").rglob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)

    assert set(re.findall(r'fault\("(.*?)"\)', text)) == set(POINTS)


def start(topics: ServiceTopics, dsn: str, gateway: str, fault: str = "") -> "subprocess.Popen[bytes]":
    """The service as users run it, in a process of its own."""
    cli = "import sys; from kompensate.orchestrator.cli import main; sys.argv[0] = 'kompensate'; main()"
    target = ["participant", "tests.fixtures.outside_app:payments", "--app-dir", str(ROOT)]
    where = ["--dsn", dsn, "--bootstrap", topics.bootstrap, "--prefix", topics.prefix]
    options = ["-X", "session.timeout.ms=1500", "-X", "heartbeat.interval.ms=300"]
    return subprocess.Popen(
        [sys.executable, "-c", cli, *target, *where, *options],
        cwd=ROOT,
        env=os.environ | {VARIABLE: fault, "GATEWAY": gateway},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere(kafka: str, postgres: str, topic_prefix: str, tmp_path: Path, point: str) -> None:
    """Killed here twice in a row, with a provider that drops connections: each is charged once and answered."""
    topics = ServiceTopics(kafka, topic_prefix, "payments")
    topics.make()
    engine = create_engine(postgres.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        create_tables(connection)
    engine.dispose()
    commands = [charge(f"c{n}", f"saga-{n}") for n in range(COUNT)]
    with provider(tmp_path / "ledger.jsonl", ["drop-after", "ok", "reset", "ok"] * 3) as gateway:
        for life, lot in enumerate((commands[: COUNT // 2], [*commands[COUNT // 2 :], *commands[:3]])):
            topics.send(lot)
            process = start(topics, postgres, gateway.address, f"{point}:kill:{life + 1}")
            try:
                _, errors = process.communicate(timeout=60)
            finally:
                process.kill()
            assert process.returncode == -signal.SIGKILL, errors.decode()
        process = start(topics, postgres, gateway.address)
        try:
            with psycopg.connect(postgres, autocommit=True) as watcher:
                asked = "SELECT count(*) FROM inbox WHERE state = 'answered'"
                wait_until("all answers", lambda: watcher.execute(asked).fetchone() == (COUNT,), 150)
                outcomes = watcher.execute("SELECT ce_causationid, ce_replyoutcome FROM outbox").fetchall()
                wait_until("all offsets", lambda: topics.committed() == topics.ends(), 150)
        finally:
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=30)

    assert process.returncode in (0, -signal.SIGTERM), errors.decode()
    assert Counter(key for key, _ in entries(tmp_path / "ledger.jsonl")) == {c.id: 1 for c in commands}
    assert set(outcomes) == {(c.id, "done") for c in commands}
