"""Handlers that last long: heartbeats keep them, progress survives them, and they learn that somebody waits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kompensate.participants import Refused
from kompensate.participants.database import connect
from kompensate.participants.outside.tries import Ended
from tests.fixtures.outside import Charged, Refund, Stage, charge, undo


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    found = Stage(connect(f"sqlite:///{tmp_path}/payments.db", "payments"))
    yield found
    found.engine.dispose()


def test_heartbeats_keep_it(stage: Stage) -> None:
    """Twenty minutes with a time-out of ten seconds, longer than a consumer may go unpolled: nobody else begins."""
    first, second = stage.process(timeout=10), stage.process(timeout=10)
    first.hands.paused = True
    first.send(charge())
    first.until(lambda: first.hands.lying)
    [attempt] = first.hands.lying
    for n in range(240):
        attempt.call.heartbeat({"pages": n})
        first.spend(2.5)
        second.spend(2.5)
    assert stage.clock.now >= 1200
    assert stage.provider.calls == []
    assert stage.rows("SELECT progress FROM idempotency") == [('{"pages": 239}',)]

    first.hands.ended(Ended(attempt, Charged("late")))
    first.until(stage.replies, 1)
    assert stage.payload("c1") == {"charge": "late"}


def test_progress_outlives_the_process(stage: Stage) -> None:
    """Whoever takes it over is told what the last heartbeat said, and the one that lost it, that it has."""
    first, second = stage.process(timeout=10), stage.process(timeout=10)
    first.hands.paused = True
    first.send(charge())
    first.until(lambda: first.hands.lying)
    [attempt] = first.hands.lying
    assert attempt.call.progress is None
    attempt.call.heartbeat({"pages": 7})
    first.spend(2)
    second.until(stage.replies)

    assert [call.progress for call in stage.provider.sent] == [{"pages": 7}]


def test_it_sees_that_a_compensation_waits(stage: Stage) -> None:
    """`cancelled` turns true while it runs; refusing is its way to end, and then there is nothing to undo."""
    process = stage.process(timeout=10)
    process.hands.paused = True
    process.send(charge())
    process.until(lambda: process.hands.lying)
    [attempt] = process.hands.lying
    process.spend(3)
    assert not attempt.call.cancelled

    process.send(undo(kind=Refund))
    process.until(lambda: attempt.call.cancelled, 5)
    process.hands.ended(Ended(attempt, error=Refused("stopped: nobody wants it any more")))
    process.until(lambda: len(stage.replies()) == 2)

    assert stage.replies() == {"c1": ["refused"], "undo-c1": ["done"]}
    assert stage.provider.calls == []


def test_one_that_was_taken_over_is_told(stage: Stage) -> None:
    """It stood still past its lease, another goes on: its next heartbeat is too late, and `cancelled` says so."""
    first, second = stage.process(timeout=10), stage.process(timeout=10)
    first.hands.paused = True
    first.send(charge())
    first.until(lambda: first.hands.lying)
    [attempt] = first.hands.lying
    second.hands.paused = True
    second.until(lambda: second.hands.lying)

    attempt.call.heartbeat()
    first.spend(3)
    assert attempt.call.cancelled
    assert not second.hands.lying[0].call.cancelled
