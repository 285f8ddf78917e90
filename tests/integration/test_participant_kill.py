"""kill -9 of a participant at every named point, on real Kafka and PostgreSQL; its database tells what came of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kompensate.schemas.faults import VARIABLE
from tests.fixtures.participants import World, compensation, forward
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent

POINTS = (
    "participant.after_poll",
    "participant.after_claim",
    "participant.after_handler",
    "participant.before_db_commit",
    "participant.after_db_commit",
    "participant.after_offset_commit",
)


def start(topics: ServiceTopics, dsn: str, fault: str = "") -> subprocess.Popen[bytes]:
    """The participant as users run it, in a process of its own."""
    cli = "import sys; from kompensate.orchestrator.cli import main; sys.argv[0] = 'kompensate'; main()"
    target = ["participant", "tests.fixtures.participants:stock", "--app-dir", str(ROOT)]
    where = ["--dsn", dsn, "--bootstrap", topics.bootstrap, "--prefix", topics.prefix, "--group-max", "8"]
    # Short sessions: the next process need not wait long for the killed one's partitions.
    options = ["-X", "session.timeout.ms=1500", "-X", "heartbeat.interval.ms=300"]
    return subprocess.Popen(
        [sys.executable, "-I", "-c", cli, *target, *where, *options],
        env=os.environ | {VARIABLE: fault},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere(topics: ServiceTopics, world: World, postgres: str, point: str) -> None:
    """Killed at this point twice in a row, then let be: every command is answered, none took effect twice."""
    sagas = [f"saga-{n}" for n in range(40)]
    commands = [forward(f"{saga}-F", "refuse" if n % 5 == 0 else "done", saga) for n, saga in enumerate(sagas)]
    undone = [compensation(f"{saga}-F", f"{saga}-C", saga_id=saga) for saga in sagas[::2]]
    early = [compensation(f"late-{n}-F", f"late-{n}-C", saga_id=f"late-{n}") for n in range(5)]
    late = [forward(f"late-{n}-F", saga_id=f"late-{n}") for n in range(5)]
    everything = [*early, *commands, *undone, *late, *commands[:10]]

    for lot in (everything[:40], everything[40:]):
        # To each its own work: the first may be killed when it has done, and committed, all that was there.
        topics.send(lot)
        process = start(topics, postgres, f"{point}:kill:1")
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == -signal.SIGKILL, errors.decode()
    process = start(topics, postgres)
    try:
        wait_until("all offsets committed", lambda: topics.committed() == topics.ends(), 60)
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    # There may have been nothing left to do, and it was ended before it had begun.
    assert process.returncode in (0, -signal.SIGTERM), errors.decode()

    expected = {(f"{saga}-F", "take"): 1 for n, saga in enumerate(sagas) if n % 5}
    expected |= {(f"{saga}-C", "give_back"): 1 for n, saga in enumerate(sagas) if n % 5 and n % 2 == 0}
    assert world.effects() == expected
    replies = world.replies()
    assert {c.id for c in [*early, *commands, *undone, *late]} == {command for command, _, _ in replies}
    assert {o for c, o, _ in replies if c.startswith("late") and c.endswith("F")} == {"refused"}
    by_command = {command: {o for c, o, _ in replies if c == command} for command, _, _ in replies}
    assert all(len(outcomes) == 1 for outcomes in by_command.values()), by_command
    assert {state for state, _ in world.inbox().values()} == {"answered", "cancelled"}
