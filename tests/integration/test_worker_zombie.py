"""Workers paused past their session while another takes over, then let go on: they must do no harm, and must live.

Each defence is left out once, in a worker that is otherwise the same: the checker must then find something.
"""

import signal

import pytest

from tests.fixtures.fix_workers import Echoes, WorkerProcess
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.slow


def pause_and_replace(echoes: Echoes, zombie: WorkerProcess, protocol: str = "classic") -> int:
    """Wait until the zombie has stopped itself; let another finish everything; wake the zombie.

    Returns how many partitions it had begun to run before.
    """
    wait_until("the worker has paused", zombie.stopped)
    runs = zombie.text().count(": running from")
    echoes.worker("b", protocol=protocol)
    echoes.finish()
    zombie.send(signal.SIGCONT)
    return runs


def await_return(zombie: WorkerProcess, runs: int) -> None:
    """Wait until it runs partitions again that it has taken over anew."""
    wait_until("the paused worker works again", lambda: zombie.text().count(": running from") > runs, 30)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
@pytest.mark.parametrize("point", ["worker.before_commit", "worker.after_produce", "worker.after_offsets"])
def test_a_paused_worker_does_no_harm(echoes: Echoes, point: str, protocol: str) -> None:
    """A worker that sleeps past its session, with or without an open transaction, is refused, survives and rejoins."""
    zombie = echoes.worker("a", "--batch-max", "10", fault=f"{point}:stop:12", protocol=protocol)
    echoes.start(60)
    await_return(zombie, pause_and_replace(echoes, zombie, protocol))
    echoes.start(20)
    echoes.finish()

    assert zombie.alive()
    assert echoes.violations() == []


def test_a_paused_worker_with_only_timers_due_does_no_harm(echoes: Echoes) -> None:
    """No input moves, only timers fire: still the zombie's transaction is the group's to refuse."""
    zombie = _pause_at_a_timer(echoes)
    await_return(zombie, pause_and_replace(echoes, zombie))

    assert zombie.alive()
    assert echoes.violations() == []


def test_without_offsets_a_zombie_does_harm(echoes: Echoes) -> None:
    """The defence bites: with no offset in its transaction the zombie's timers are committed beside the new owner's."""
    zombie = _pause_at_a_timer(echoes, without="offsets")
    pause_and_replace(echoes, zombie)
    wait_until("the harm is done", echoes.violations, 30)

    assert any("stands 2 times" in violation for violation in echoes.violations())


def _pause_at_a_timer(echoes: Echoes, without: str = "") -> WorkerProcess:
    """A worker that pauses itself before it commits the first timers of sagas that sleep."""
    first = echoes.worker("a")
    echoes.start(20, "nap")
    wait_until("all sagas sleep", lambda: len(echoes.statuses()) == 20)
    first.leave()
    # Nothing but timers is left to commit, so the first commit is theirs.
    return echoes.worker("a", fault="worker.before_commit:stop:1", without=without)
