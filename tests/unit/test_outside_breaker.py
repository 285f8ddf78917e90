"""The breaker of outside calls, shared by processes through their database: deferred commands, one probe, outages."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest

from kompensate.participants.database import connect
from kompensate.participants.outside.breakers import MANY, Breakers
from tests.fixtures.outside import Process, Refund, Stage, charge, undo


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(connect(f"sqlite:///{tmp_path}/payments.db", "payments"))
    yield found
    found.engine.dispose()


def opened(stage: Stage, **options: float) -> Process:
    """A process whose breaker has just opened: three calls failed, of the command "first"."""
    process = stage.process(breaker_failures=3, breaker_seconds=30, budget=600, **options)
    stage.provider.down = True
    process.send(charge("first", "saga-0"))
    process.until(lambda: len(stage.provider.calls) == 3)
    process.turns(2)
    return process


def test_an_open_breaker_defers(stage: Stage) -> None:
    """No call, no attempt consumed, the offset moves on; another kind of command is called as ever."""
    process = opened(stage)
    process.send(charge("c1"), charge("c2", "saga-2"), undo("other", Refund, "saga-3"))
    process.send(charge("other", "saga-3"))
    process.spend(5)

    assert len(stage.provider.calls) == 3
    assert process.offset == 5
    assert stage.states()["c1"] == ("deferred", "kept")
    assert stage.rows("SELECT tries FROM idempotency WHERE command_id = 'c1'") == [(0,)]
    assert stage.replies() == {"undo-other": ["done"], "other": ["refused"]}

    stage.provider.down = False
    process.until(lambda: len(stage.replies()) == 5)
    assert stage.charged() == 3 * 4500


def test_a_compensation_cancels_what_is_deferred(stage: Stage) -> None:
    """Nobody has called: done, nothing to undo, itself refused; and it is not called when the breaker closes."""
    process = opened(stage)
    process.send(charge("c1"), undo("c1"))
    process.until(stage.replies)

    assert stage.replies() == {"c1": ["refused"], "undo-c1": ["done"]}
    assert stage.payload("undo-c1")["reason"] == "command c1 was cancelled before it was called"
    stage.provider.down = False
    process.spend(100)
    assert "c1" not in [key for _, key in stage.provider.calls]
    process.send(charge("c1"))
    process.until(lambda: len(stage.replies()["c1"]) == 2)
    assert stage.replies()["c1"] == ["refused"] * 2


def test_a_compensation_does_not_cancel_what_is_in_doubt(stage: Stage) -> None:
    """The command that opened the breaker was called: its compensation waits for what comes of it."""
    stage.provider.script = ["500-after"] * 3
    process = stage.process(breaker_failures=3, breaker_seconds=30, budget=600)
    process.send(charge())
    process.until(lambda: len(stage.provider.calls) == 3)
    process.send(undo(kind=Refund))
    process.spend(10)
    assert stage.replies() == {}

    process.until(lambda: len(stage.replies()) == 2)
    assert stage.replies() == {"c1": ["done"], "undo-c1": ["done"]}
    assert stage.charged() == 0


def test_processes_share_it(stage: Stage) -> None:
    """What one has found out the other need not."""
    opened(stage)
    second = stage.process(breaker_failures=3, breaker_seconds=30, budget=600)
    second.send(*[charge(f"c{n}", f"saga-{n}") for n in range(20)])
    second.spend(20)

    assert len(stage.provider.calls) == 3


def without_the_probe() -> AbstractContextManager[object]:
    """Half-open lets everybody through, as pybreaker does."""
    closed_for = Breakers._closed_for
    room = Breakers.room
    return patch.multiple(
        Breakers,
        _closed_for=lambda self, row, options: closed_for(self, row, options) if row.state == "open" else 0.0,
        room=lambda self, contract, options: MANY if room(self, contract, options) else 0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("defended", [True, False], ids=["one probe", "without"])
def test_an_outage_of_a_minute(stage: Stage, *, defended: bool) -> None:
    """Sixty seconds without provider, two processes, sixty commands: a few calls; then each is charged once.

    The bound: what opens the breaker (three failures, and what was out meanwhile), then one probe each ten seconds.
    """
    with nullcontext() if defended else without_the_probe():
        options = {"breaker_failures": 3, "breaker_seconds": 10, "concurrent": 4, "budget": 600, "tries": 20}
        processes = [stage.process(**options), stage.process(**options)]
        stage.provider.down = True
        for n in range(60):
            processes[n % 2].send(charge(f"c{n}", f"saga-{n}"))
        while stage.clock.now < 60:
            for process in processes:
                process.runner.turn()
        during = len(stage.provider.calls)
        stage.provider.down = False
        while len(stage.replies()) < 60:
            assert stage.clock.now < 600
            for process in processes:
                process.runner.turn()

    bound = 3 + 2 * 4 + 60 // 10
    assert (during <= bound) is defended, f"{during} calls, at most {bound}"
    assert {tuple(outcomes) for outcomes in stage.replies().values()} == {("done",)}
    assert stage.charged() == 60 * 4500


def test_a_probe_that_dies_does_not_keep_it_half_open(stage: Stage) -> None:
    """Its process is killed in the call: when its lease has passed another command may try."""
    process = opened(stage, timeout=4)
    stage.provider.down = False
    process.hands.paused = True
    process.until(lambda: process.hands.lying)

    second = stage.process(breaker_failures=3, breaker_seconds=30, budget=600, timeout=4)
    second.send(charge("c2", "saga-2"))
    second.spend(5)
    assert len(stage.provider.calls) == 3
    second.until(lambda: len(stage.replies()) == 2, 20)
    assert stage.charged() == 2 * 4500
