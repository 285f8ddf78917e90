"""The demo as its user runs it: processes of the `kompensate` command, killed on the way, on a real stack."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from examples.languages import build
from kompensate.compose.local.stack import Stack

ROOT = Path(__file__).parents[2]
MARK = "KOMPENSATE_TEST_MARK"
DEADLINE_SECONDS = 150.0


class Demo:
    """One run of the demo; every process it starts carries a mark in its environment."""

    def __init__(self, stack: Stack, *arguments: str) -> None:
        self.mark = secrets.token_hex(8)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "examples.checkout.demo", "--stack", str(stack.directory), *arguments],
            cwd=ROOT,
            env={**os.environ, MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def left_over(self) -> list[str]:
        """Command lines of marked processes that still live."""
        return [_words(process) for process in Path("/proc").glob("[0-9]*") if self.mark in _environment(process)]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(DEADLINE_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()


def _environment(process: Path) -> str:
    try:
        return (process / "environ").read_text(errors="replace")
    except OSError:  # it ended meanwhile, or is not ours
        return ""


def _words(process: Path) -> str:
    return (process / "cmdline").read_text(errors="replace").replace("\0", " ")


def leftovers(stack: Stack) -> list[str]:
    """Databases, slots and topics of a demo that are still there."""
    with psycopg.connect(stack.postgres_dsn()) as connection:
        rows = connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'demo%' "
            "UNION ALL SELECT slot_name FROM pg_replication_slots WHERE database LIKE 'demo%'"
        ).fetchall()
    topics = AdminClient({"bootstrap.servers": stack.bootstrap}).list_topics(timeout=10).topics
    return [name for (name,) in rows] + [name for name in topics if name.startswith("demo")]


@pytest.fixture
def demos(stack: Stack) -> Iterator[list[Demo]]:
    """Demos that a test starts; what still runs at its end is stopped."""
    started: list[Demo] = []
    yield started
    for demo in started:
        demo.close()


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_by_three_kills(stack: Stack, demos: list[Demo], tmp_path: Path) -> None:
    """200 orders end as they must though a service, a worker and the relay die with -9; nothing is left behind."""
    before = leftovers(stack)
    file = tmp_path / "figures.json"
    demo = Demo(stack, "--orders", "200", "--in-flight", "40", "--json", str(file))
    demos.append(demo)

    output, _ = demo.process.communicate(timeout=DEADLINE_SECONDS)

    assert demo.process.returncode == 0, output
    figures = json.loads(file.read_text())
    assert figures["killed"] == ["inventory", "worker-1", "relay"]
    assert figures["completed"] + figures["compensated"] == figures["orders"] == 200
    assert [figures[name] for name in ("lost", "doubled", "unfinished", "wrong")] == [0, 0, 0, 0]
    assert figures["takeover_seconds"] > 0
    assert "$ kompensate history" in output
    assert demo.left_over() == []
    assert set(leftovers(stack)) <= set(before)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_services_in_other_languages_take_part(stack: Stack, demos: list[Demo], tmp_path: Path) -> None:
    """120 orders with payments in Java and inventory in Go, each killed with -9: all end as they must."""
    try:
        build.go(tmp_path)
    except build.Unavailable as error:
        pytest.skip(str(error))
    before = leftovers(stack)
    file = tmp_path / "figures.json"
    demo = Demo(stack, "--mixed", "--orders", "120", "--in-flight", "40", "--json", str(file))
    demos.append(demo)

    output, _ = demo.process.communicate(timeout=2 * DEADLINE_SECONDS)

    assert demo.process.returncode == 0, output
    figures = json.loads(file.read_text())
    assert figures["killed"] == ["inventory", "payments", "worker-1", "relay"]
    assert figures["completed"] + figures["compensated"] == figures["orders"] == 120
    assert [figures[name] for name in ("lost", "doubled", "unfinished", "wrong")] == [0, 0, 0, 0]
    assert demo.left_over() == []
    assert set(leftovers(stack)) <= set(before)


@pytest.mark.slow
def test_an_interrupted_demo_leaves_nothing_behind(stack: Stack, demos: list[Demo]) -> None:
    """Ctrl-C in the middle of the work: exit status 130, and no process, database or topic is left."""
    before = leftovers(stack)
    demo = Demo(stack, "--no-kills")
    demos.append(demo)
    deadline = time.monotonic() + DEADLINE_SECONDS
    assert demo.process.stdout is not None
    for line in demo.process.stdout:
        if "under way" in line and not line.startswith("0/"):
            break
        assert time.monotonic() < deadline, line
    demo.process.send_signal(signal.SIGINT)

    rest = demo.process.stdout.read()

    assert demo.process.wait(DEADLINE_SECONDS) == 130, rest
    assert demo.left_over() == []
    assert set(leftovers(stack)) <= set(before)
