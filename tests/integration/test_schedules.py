"""Schedules on real Kafka: each time fires exactly once, whatever happens to workers; and the verbs for them."""

import json
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kompensate.orchestrator.cli import main
from kompensate.orchestrator.reading.reader import Reader
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.topics import TopicAdmin
from kompensate.schemas.messages import START
from kompensate.schemas.topics import Topics
from tests.fixtures.fix_workers import ROOT, WorkerProcess
from tests.fixtures.schedule_app import app
from tests.fixtures.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.slow]
DEADLINE_SECONDS = 90.0


class Ticking:
    """The topics of the application, its workers, and the command line."""

    def __init__(self, bootstrap: str, prefix: str, directory: Path) -> None:
        self.bootstrap, self.prefix, self.directory = bootstrap, prefix, directory
        self.topics = Topics(app.name, prefix)
        self.reader = Reader(bootstrap)
        self.workers: list[WorkerProcess] = []
        TopicAdmin(app, Settings(bootstrap=bootstrap, prefix=prefix)).apply()

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.reader.close()

    def worker(self, slot: str) -> WorkerProcess:
        argv = ["--app", "tests.fixtures.schedule_app:app", "--app-dir", str(ROOT), "--slot", slot]
        argv += ["--bootstrap", self.bootstrap, "--prefix", self.prefix, "--session-timeout", "1.5"]
        argv += ["--slot-directory", str(self.directory / "locks")]
        found = WorkerProcess(self.directory / f"worker-{len(self.workers)}.log", argv, "", "")
        self.workers.append(found)
        return found

    def firings(self, name: str = "second") -> list[str]:
        """Every start of a firing that a transaction wrote: doubles would be seen."""
        found = []
        for record in self.reader.scan(self.topics.control, dict.fromkeys(range(app.partitions), 0)):
            key, type_ = (record.key or b"").decode(), dict(record.headers or ())["ce_type"]
            if key.startswith(f"{name}:") and type_ == START.encode():
                found.append(key)
        return found

    def wait_for_more(self, count: int) -> None:
        until = len(self.firings()) + count
        wait_until(f"{until} firings", lambda: len(self.firings()) >= until, DEADLINE_SECONDS)

    def run(self, *words: str) -> Result:
        environment = {
            "KOMPENSATE_BOOTSTRAP": self.bootstrap,
            "KOMPENSATE_PREFIX": self.prefix,
            "KOMPENSATE_APP_NAME": app.name,
        }
        return CliRunner().invoke(main, ["schedule", *words], env=environment)

    def ok(self, *words: str) -> str:
        result = self.run(*words)
        assert result.exit_code == 0, result.output
        return result.stdout

    def show(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("show", name, "-o", "json"))
        return found


@pytest.fixture
def ticking(kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[Ticking]:
    found = Ticking(kafka, topic_prefix, tmp_path)
    yield found
    found.close()
    for worker in found.workers:
        print(f"--- {worker.log.name}\n{worker.text()[-3000:]}")


def test_each_second_fires_once_through_kills(ticking: Ticking) -> None:
    """Workers are killed again and again, a paused one wakes up as a zombie: every second is there, and once."""
    for slot in ("a", "b", "a"):
        worker = ticking.worker(slot)
        ticking.wait_for_more(3)
        worker.send(signal.SIGKILL)
        worker.wait()
    zombie = ticking.worker("z")
    ticking.wait_for_more(2)
    zombie.send(signal.SIGSTOP)
    ticking.worker("c")
    ticking.wait_for_more(3)
    zombie.send(signal.SIGCONT)
    ticking.wait_for_more(3)

    fired = ticking.firings()

    assert len(fired) == len(set(fired)), f"fired twice: {sorted(id_ for id_ in fired if fired.count(id_) > 1)}"
    seconds = sorted(round(datetime.fromisoformat(id_[7:]).timestamp()) for id_ in fired)
    assert seconds == list(range(seconds[0], seconds[0] + len(seconds))), "none is left out"


def test_the_verbs(ticking: Ticking) -> None:
    """Made, looked at, paused, triggered, backfilled, changed and deleted while a worker runs."""
    ticking.worker("a")
    assert ticking.run("show", "daily").exit_code == 3
    assert ticking.run("create", "daily", "tick", "--cron", "0 0 31 2 *").exit_code == 2
    created = ticking.ok("create", "daily", "tick", "--cron", "0 3 * * *", "--timezone", "Europe/Zurich", "--wait")
    assert "started" in created
    again = ticking.run("create", "daily", "tick", "--cron", "0 3 * * *")
    assert (again.exit_code, "got one" in again.output) == (4, True)

    listed = ticking.ok("list")
    assert [line.split()[0] for line in listed.splitlines()[1:]] == ["daily", "second"]
    assert "0 3 * * * Europe/Zurich" in listed
    ticking.ok("pause", "daily", "--reason", "moving house", "--wait")
    assert (ticking.show("daily")["paused"], ticking.show("daily")["next"]) == ("moving house", None)
    ticking.ok("trigger", "daily", "--key", "k1", "--wait")
    ticking.ok("backfill", "daily", "--from", "2026-01-02T00:00Z", "--until", "2026-01-04T00:00Z", "--wait")
    expected = ["daily:trigger-k1", *(f"daily:2026-01-0{day}T02:00:00Z" for day in (2, 3))]
    wait_until("all are fired", lambda: ticking.firings("daily") == expected, DEADLINE_SECONDS)
    future = ("--from", "2126-01-01T00:00Z", "--until", "2126-01-02T00:00Z")
    assert ticking.run("backfill", "daily", *future, "--wait").exit_code == 4

    ticking.ok("resume", "daily", "--wait")
    ticking.ok("update", "daily", "--interval", "1", "--overlap", "BUFFER_ONE", "--wait")
    changed = ticking.show("daily")["schedule"]
    assert (changed["cron"], changed["interval"], changed["overlap"]) == (None, 1, "BUFFER_ONE")
    wait_until("it fires", lambda: len(ticking.firings("daily")) > 4, DEADLINE_SECONDS)
    unknown = ticking.run("update", "daily", "--saga", "nobody", "--wait")
    assert (unknown.exit_code, "expected a saga of this application (tick)" in unknown.output) == (4, True)

    ticking.ok("delete", "daily", "--wait")
    assert ticking.ok("list", "-o", "ids").split() == ["second"]
    assert ticking.run("trigger", "daily").exit_code == 3
    ticking.ok("create", "daily", "tick", "--cron", "0 3 * * *", "--wait")
    assert ticking.show("daily")["schedule"]["cron"] == "0 3 * * *"
