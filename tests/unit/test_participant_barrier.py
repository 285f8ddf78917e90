"""The barrier: its table, row by row, and every order and duplication of commands and compensations on SQLite."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from kompensate.outbox.inbox import Entry
from kompensate.participants.barrier import Verdict, judge
from kompensate.participants.database import connect
from tests.fixtures import barrier
from tests.fixtures.participants import World, compensation, forward

_ANSWERED = {outcome: Entry("answered", outcome) for outcome in ("done", "refused", "failed", "expired")}
_CLAIMED, _DEFERRED, _CANCELLED = Entry("claimed"), Entry("deferred"), Entry("cancelled")


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        (None, Verdict.RUN),
        (_CANCELLED, Verdict.LATE),
        (_CLAIMED, Verdict.WAIT),
        (_DEFERRED, Verdict.WAIT),
        *((entry, Verdict.REPEAT) for entry in _ANSWERED.values()),
    ],
)
def test_a_forward_command(own: Entry | None, verdict: Verdict) -> None:
    """What becomes of a forward command depends on its own row alone."""
    assert judge(forward("a"), own, None, now_ms=0) is verdict


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        (None, Verdict.EMPTY),
        (_CANCELLED, Verdict.NOTHING),
        (_CLAIMED, Verdict.WAIT),
        (_DEFERRED, Verdict.WAIT),
        (_ANSWERED["done"], Verdict.RUN),
        (_ANSWERED["refused"], Verdict.NOTHING),
        (_ANSWERED["failed"], Verdict.NOTHING),
        (_ANSWERED["expired"], Verdict.NOTHING),
    ],
)
def test_a_compensation(target: Entry | None, verdict: Verdict) -> None:
    """What becomes of a new compensation depends on the row of what it undoes; a known one repeats its answer."""
    assert judge(compensation("a"), None, target, now_ms=0) is verdict
    assert judge(compensation("a"), _ANSWERED["done"], target, now_ms=0) is Verdict.REPEAT


@pytest.mark.parametrize(("late_ms", "verdict"), [(-1, Verdict.RUN), (0, Verdict.RUN), (1, Verdict.EXPIRED)])
def test_expiry_is_exact(late_ms: int, verdict: Verdict) -> None:
    """A command expires after its time, not at it; an answered one keeps its answer."""
    command = replace(forward("a"), expires_at=1000)

    assert judge(command, None, None, now_ms=1000 + late_ms) is verdict
    assert judge(command, _ANSWERED["done"], None, now_ms=1000 + late_ms) is Verdict.REPEAT


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(connect(f"sqlite:///{tmp_path_factory.mktemp('barrier')}/stock.db", "stock"))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, print_blob=True)
@given(story=barrier.stories())
def test_every_order_and_duplication(world: World, story: barrier.Story) -> None:
    """Whatever the order, the duplicates and the grouping: at most once, and undone exactly where it was done."""
    hows, groups = story
    world.clear()
    for group in groups:
        world.handle(*barrier.commands_of(group, hows))

    barrier.check(world, [step for group in groups for step in group], hows)
