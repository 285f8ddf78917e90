"""`kompensate hook` as a process on a real broker: killed while it tells, started again; nothing is left out."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kompensate.orchestrator.client import Client
from tests.fixtures.stage import Stage
from tests.fixtures.waiting import wait_until

DEADLINE_SECONDS = 60.0
TROUBLES = 12


class Ops:
    """Somebody who is told: answers 503 at first, and kills the hook at its fifth call."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.calls = 0
        self.hooks: list[subprocess.Popen[bytes]] = []
        ops = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                ops.calls += 1
                if ops.calls == 5:
                    os.kill(ops.hooks[0].pid, signal.SIGKILL)
                if ops.calls > 2:
                    ops.told.append(body)
                self.send_response(503 if ops.calls <= 2 else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Not into the test's output."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        for hook in self.hooks:
            hook.kill()
            hook.wait(10)
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def ops() -> Iterator[Ops]:
    made = Ops()
    yield made
    made.close()


@pytest.fixture
def stage(kafka: str, topic_prefix: str) -> Iterator[Stage]:
    made = Stage(kafka, topic_prefix)
    yield made
    made.close()


def start(ops: Ops, stage: Stage, directory: Path, *options: str) -> subprocess.Popen[bytes]:
    argv = ["hook", "--app-name", "shop", "--bootstrap", stage.bootstrap, "--prefix", stage.prefix]
    argv += ["--slot", "a", "--slot-directory", str(directory), *options]
    with (directory / f"hook-{len(ops.hooks)}.log").open("wb") as log:
        ops.hooks.append(
            subprocess.Popen([sys.executable, "-Im", "kompensate.orchestrator.cli", *argv], stdout=log, stderr=log)
        )
    return ops.hooks[-1]


def trouble(stage: Stage, first: int) -> set[str]:
    """Requests that no saga takes; the ids of their sagas."""
    ids = {f"nobody-{n}" for n in range(first, first + TROUBLES)}
    with Client(stage.bootstrap, "shop", prefix=stage.prefix) as client:
        for saga_id in sorted(ids):
            client.cancel(saga_id)
    stage.play()
    return ids


@pytest.mark.slow
def test_a_url_is_told_of_everything_at_least_once(ops: Ops, stage: Stage, tmp_path: Path) -> None:
    """It answers 503, the hook is killed with an answer outstanding, another goes on: all are told, by their ids."""
    expected = trouble(stage, 0)
    killed = start(ops, stage, tmp_path, "--url", ops.url, "--begin", "earliest")
    wait_until("it is killed", lambda: killed.poll() is not None, DEADLINE_SECONDS)
    second = start(ops, stage, tmp_path, "--url", ops.url)
    expected |= trouble(stage, TROUBLES)
    wait_until("all are told", lambda: expected <= {told["saga_id"] for told in ops.told}, DEADLINE_SECONDS)
    second.terminate()

    assert killed.returncode == -signal.SIGKILL
    assert second.wait(30) == 0, (tmp_path / "hook-1.log").read_text()
    assert {told["saga_id"] for told in ops.told} == expected
    assert len({told["id"] for told in ops.told}) == 2 * TROUBLES
    assert "got 503" in (tmp_path / "hook-0.log").read_text()


@pytest.mark.slow
def test_a_topic_is_told_of_everything_once(ops: Ops, stage: Stage, tmp_path: Path) -> None:
    """Each stands there once, keyed by its saga; what came before `--begin latest` is not told."""
    target = f"{stage.prefix}ops.troubles"
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})  # it must outlive its answer
    [made] = admin.create_topics([NewTopic(target, 1, 1)]).values()
    made.result(20)
    trouble(stage, 100)
    first = start(ops, stage, tmp_path, "--topic", target, "--begin", "latest")
    log = tmp_path / "hook-0.log"
    wait_until("it reads", lambda: "assigned: " in log.read_text(), DEADLINE_SECONDS)
    expected = trouble(stage, 0)

    def told() -> list[str]:
        return [(record.key or b"").decode() for record in stage.reader.scan(target, {0: 0})]

    wait_until("all are told", lambda: expected <= set(told()), DEADLINE_SECONDS)
    first.terminate()
    assert first.wait(30) == 0, log.read_text()
    second = start(ops, stage, tmp_path, "--topic", target)
    expected |= trouble(stage, TROUBLES)
    wait_until("all are told", lambda: expected <= set(told()), DEADLINE_SECONDS)
    second.terminate()
    assert second.wait(30) == 0

    assert sorted(told()) == sorted(expected)


def test_what_is_missing_is_told_at_once(ops: Ops, stage: Stage, tmp_path: Path) -> None:
    """A topic that is not there, a place that was never said: the hook does not start, and says why."""
    for options, text in (
        (["--topic", "nowhere"], "topic nowhere: expected it at"),
        (["--url", ops.url], "Say once where to begin: --begin earliest"),
        (["--url", "ops.example"], "URL: expected https://HOST/"),
    ):
        number = len(ops.hooks)
        process = start(ops, stage, tmp_path, *options)
        assert process.wait(60) in (1, 2)
        assert text in (tmp_path / f"hook-{number}.log").read_text()
