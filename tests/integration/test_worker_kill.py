"""kill -9 of a worker at every named point, on real Kafka; the topics tell what came of it."""

import signal

import pytest

from tests.fixtures.fix_workers import Echoes

POINTS = (
    "worker.after_poll",
    "worker.before_commit",
    "worker.before_produce",
    "worker.after_produce",
    "worker.after_offsets",
    "worker.after_commit",
)
RESTORE_POINTS = ("worker.after_takeover", "worker.in_restore")


@pytest.mark.slow
@pytest.mark.parametrize("slot", ["same", "other"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere(echoes: Echoes, point: str, slot: str) -> None:
    """Killed at this point in mid-work, and taken over in its own or another slot: every saga takes its steps once."""
    first = echoes.worker("same", "--batch-max", "20", fault=f"{point}:kill:12")
    echoes.start(60)

    assert first.wait() == -signal.SIGKILL
    echoes.worker(slot)
    echoes.finish()

    assert echoes.violations() == []


@pytest.mark.slow
@pytest.mark.parametrize("point", RESTORE_POINTS)
def test_killed_while_taking_over(echoes: Echoes, point: str) -> None:
    """A worker that dies while it restores leaves no trace: the next one takes over as if it had never been."""
    first = echoes.worker("a", "--batch-max", "20", fault="worker.after_produce:kill:12")
    echoes.start(60)
    assert first.wait() == -signal.SIGKILL

    second = echoes.worker("b", fault=f"{point}:kill:2")
    assert second.wait() == -signal.SIGKILL
    echoes.worker("c")
    echoes.finish()

    assert echoes.violations() == []


@pytest.mark.slow
@pytest.mark.parametrize("point", ["worker.before_produce", "worker.after_produce", "worker.after_offsets"])
def test_a_failure_in_a_commit_is_taken_back(echoes: Echoes, point: str) -> None:
    """An exception between produce and commit aborts the transaction; the worker handles the batch again."""
    worker = echoes.worker("a", "--batch-max", "20", fault=f"{point}:raise:5")
    echoes.start(60)
    echoes.finish()

    assert worker.alive()
    assert "was given up: InjectedFault" in worker.text()
    assert echoes.violations() == []
    worker.leave()
