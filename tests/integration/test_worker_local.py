"""Local steps and children of workers that are killed with -9, on real Kafka."""

import signal

import pytest

from tests.fixtures.fix_workers import Echoes
from tests.fixtures.waiting import wait_until


@pytest.mark.slow
@pytest.mark.parametrize("point", ["worker.before_commit", "worker.after_produce", "worker.after_commit"])
def test_killed_at_work(echoes: Echoes, point: str) -> None:
    """Every step ran, each under one key; only those that were running at the kill ran a second time."""
    first = echoes.worker("a", "--batch-max", "20", fault=f"{point}:kill:12")
    ids = echoes.start(60, "crew")

    assert first.wait() == -signal.SIGKILL
    runs_before = echoes.local_runs()
    echoes.worker("b")
    echoes.finish()

    assert echoes.violations() == []
    runs = echoes.local_runs()
    assert len(runs) == 2 * len(ids), "one key a step"
    again = {key for key, count in runs.items() if count > 1}
    assert again <= runs_before.keys(), "what ran once was committed, or its worker died"
    assert max(runs.values()) <= 2
    assert len([s for s in echoes.ended() if s.startswith("crew-") and s.count(".")]) == len(ids), "each had a child"


@pytest.mark.slow
def test_given_away_at_work(echoes: Echoes) -> None:
    """Partitions move to another worker and back while steps run: nothing is lost, no saga is held."""
    echoes.worker("a")
    ids = echoes.start(40, "crew")
    second = echoes.worker("b")
    wait_until("the second worker owns partitions", lambda: "running from" in second.text(), 60)
    ids += echoes.start(40, "crew")
    second.leave()
    echoes.finish()

    assert echoes.violations() == []
    assert len(echoes.local_runs()) == 2 * len(ids)
