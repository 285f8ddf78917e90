"""A worker as a process and as an object, on real Kafka: joining, sharing, leaving, and refusing to start."""

import json
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from kompensate.orchestrator.errors import NoAnswer
from kompensate.orchestrator.main import Worker
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.worker.health import Health
from tests.fixtures.echo_app import PARTITIONS, app
from tests.fixtures.fix_workers import Echoes
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.slow


def test_a_worker_inside_another_program(echoes: Echoes, tmp_path: Path) -> None:
    """It starts and stops as an object, twice over, runs sagas between, and tells how it is over HTTP."""
    settings = replace(echoes.settings, slot_directory=tmp_path / "locks", session_timeout_seconds=6.0)
    for turn in (1, 2):
        worker = Worker(app, settings, health_port=0)
        worker.start()
        wait_until("all partitions run", lambda w=worker: len(w.health().running) == PARTITIONS)  # type: ignore[misc]  # bound now
        echoes.start(20)
        echoes.finish()
        ready = _get(worker, "/ready")
        worker.stop()

        assert ready["ready"]
        assert ready["running"] == list(range(PARTITIONS))
        assert isinstance(ready["commits"], int)
        assert ready["commits"] > 0
        assert not worker.health().ready
        assert echoes.violations() == [], f"turn {turn}"


def _get(worker: Worker, path: str) -> dict[str, object]:
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.health_port}{path}", timeout=10) as response:
        found: dict[str, object] = json.load(response)
    return found


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_workers_come_and_go_under_load(echoes: Echoes, protocol: str) -> None:
    """Workers join, are asked to leave and leave, while sagas run: each takes its steps once, and all exit with 0."""
    workers = [echoes.worker("a", "--batch-max", "50", protocol=protocol)]
    echoes.start(50)
    for slot in ("b", "c"):
        workers.append(echoes.worker(slot, "--batch-max", "50", protocol=protocol))
        echoes.start(100)
        wait_until("the new worker runs partitions", lambda: ": running from" in workers[-1].text(), 30)
    for worker in (workers.pop(0), workers.pop(0)):
        echoes.start(100)
        worker.leave()
    echoes.finish()

    assert echoes.violations() == []


def test_a_slot_is_one_workers(echoes: Echoes) -> None:
    """On one machine the second worker of a slot is refused at once, and the first goes on."""
    first = echoes.worker("a")
    wait_until("the first runs", lambda: ": running from" in first.text())

    second = echoes.worker("a")

    assert second.wait() == 1
    assert "slot a: another worker" in second.text()
    assert first.alive()


def test_two_machines_with_one_slot(echoes: Echoes) -> None:
    """Where no lock file can tell, the two fence each other: one or both stop and say why, no saga is harmed."""
    workers = [echoes.worker("a", locks=locks) for locks in ("here", "there")]
    for _ in range(20):
        echoes.start(10)
        if not all(worker.alive() for worker in workers):
            break
        wait_until(
            "somebody works, or has stopped",
            lambda: len(echoes.ended()) > len(echoes.started) // 2 or not all(worker.alive() for worker in workers),
            60,
        )
    wait_until("one has stopped", lambda: not all(worker.alive() for worker in workers), 60)
    gone = next(worker for worker in workers if not worker.alive())
    wait_until(
        "the other does all, or has stopped too",
        lambda: echoes.all_ended() or not any(worker.alive() for worker in workers),
        60,
    )
    if not any(worker.alive() for worker in workers):
        echoes.worker("b")
    echoes.finish()

    assert gone.wait() == 1
    assert "has another worker the same slot?" in gone.text()
    assert echoes.violations() == []


def test_a_worker_refuses_topics_that_are_wrong(echoes: Echoes) -> None:
    """One message lists all that is missing or differs, with expected and got, before anything is joined."""
    admin = AdminClient({"bootstrap.servers": echoes.settings.bootstrap})
    for future in admin.delete_topics([echoes.topics.history, echoes.topics.dead("echo")]).values():
        future.result(30)
    wait_until("the topics are gone", lambda: echoes.topics.history not in admin.list_topics(timeout=10).topics)

    worker = echoes.worker("a")

    assert worker.wait() == 1
    assert f"{echoes.topics.history}: topic: expected {PARTITIONS} partitions, got none" in worker.text()
    assert f"{echoes.topics.dead('echo')}: topic: expected" in worker.text()
    assert "kompensate topics apply" in worker.text()


def test_a_worker_without_a_broker_says_so(tmp_path: Path) -> None:
    """Nobody answers: an error with the address, not a silent wait."""
    worker = Worker(app, Settings(bootstrap="127.0.0.1:9", slot_directory=tmp_path), health_port=0)

    with pytest.raises(NoAnswer, match=r"Kafka at 127\.0\.0\.1:9: expected an answer .*is that its address\?"):
        worker.start()

    assert worker.health() == Health(
        live=False,
        ready=False,
        running=(),
        restoring=(),
        stopped={},
        commits=0,
        last_commit_seconds=None,
    )
