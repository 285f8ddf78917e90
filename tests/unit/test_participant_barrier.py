"""The barrier: its table, row by row, and every order and duplication of commands and compensations on SQLite."""

from dataclasses import replace

import pytest
from sqlalchemy.event import listen

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
        (_CLAIMED, Verdict.IN_HAND),
        (_DEFERRED, Verdict.IN_HAND),
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
        (_DEFERRED, Verdict.CANCEL),
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
def worlds(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, World]:
    """Two consumers. Who finds the database locked is told so at once, and tries again when the dice say so."""
    path = tmp_path_factory.mktemp("barrier") / "stock.db"
    engines = [connect(f"sqlite:///{path}", "stock") for _ in range(2)]
    for engine in engines:
        listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 0"))
        listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    return World(engines[0]), World(engines[1])


def never(_: World) -> bool:
    """Nobody waits for a lock."""
    return False


@pytest.mark.slow
def test_every_order_and_duplication(worlds: tuple[World, World]) -> None:
    """In all orders and duplications at two consumers: at most once, undone exactly where done, answered alike."""
    barrier.tell_all(worlds, never)


@pytest.mark.slow
@pytest.mark.parametrize("rule", barrier.RULES)
def test_without_a_rule_some_order_breaks_a_promise(worlds: tuple[World, World], rule: str) -> None:
    """Each rule of the barrier, taken away, is missed by one of the stories."""
    with barrier.RULES[rule](), pytest.raises(AssertionError):
        barrier.tell_all(worlds, never)
