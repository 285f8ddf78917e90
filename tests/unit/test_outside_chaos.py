"""Outside calls when everything goes wrong at once, by seeds; and that without any of the guards a seed fails."""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from kompensate.outbox.inbox import Entry
from kompensate.participants import Failed, barrier, group
from kompensate.participants.barrier import Verdict
from kompensate.participants.database import connect
from kompensate.participants.outside.book import Book
from kompensate.participants.outside.due import Due
from kompensate.participants.outside.results import Results
from kompensate.schemas.messages import Command
from tests.fixtures.outside import Provider, Stage
from tests.fixtures.outside_chaos import Chaos

pytestmark = pytest.mark.slow
SEEDS = 40
SEEDS_WITHOUT = 150


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(connect(f"sqlite:///{tmp_path}/payments.db", "payments"))


def tell(stage: Stage, seed: int) -> None:
    """One seed, in an empty database."""
    with stage.engine.begin() as connection:
        for table in ("inbox", "outbox", "idempotency", "breaker", "effect"):
            connection.execute(text(f"DELETE FROM {table}"))
    stage.clock.now = 0.0
    stage.provider = Provider(lambda: stage.clock.now)
    chaos = Chaos(stage, seed)
    chaos.run()
    chaos.check()


def test_whatever_happens(stage: Stage) -> None:
    """Charged once at most, answered truly, undone exactly where it was done."""
    first = random.randrange(2**31)
    for seed in range(first, first + SEEDS):
        print(f"seed {seed}")
        tell(stage, seed)


def test_a_no_that_came_late(stage: Stage) -> None:
    """One is told no and stands still, another calls meanwhile and charges: the no is not answered."""
    tell(stage, 30_000_193)


def _judging(wrong: Verdict, right: Verdict) -> AbstractContextManager[Any]:
    def judge(command: Command, own: Entry | None, forward: Entry | None, now_ms: int) -> Verdict:
        found = barrier.judge(command, own, forward, now_ms)
        return wrong if found is right else found

    return patch.object(group, "judge", judge)


def _keys_of_the_moment() -> AbstractContextManager[Any]:
    """A key for each call, as a client library makes one by itself."""
    charge = Provider.charge
    return patch.object(Provider, "charge", lambda self, key, cents: charge(self, f"{key}-{len(self.calls)}", cents))


def _everything_is_definite() -> AbstractContextManager[Any]:
    """An error says that nothing was done."""
    answer = Results._answer

    def answered(self: Results, kept: Any, end: Any) -> Any:
        if end.error is not None and not end.definite:
            end.error = Failed(str(end.error))
        return answer(self, kept, end)

    return patch.object(Results, "_answer", answered)


WITHOUT: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "one key": _keys_of_the_moment,
    "the window": lambda: patch.object(Due, "_may_call", lambda self, options, kept, spent, *, doubt: kept.tries < 9),
    "doubt": _everything_is_definite,
    "duplicates are in hand": lambda: _judging(Verdict.NOTHING, Verdict.IN_HAND),
    "a compensation waits, not passes": lambda: _judging(Verdict.NOTHING, Verdict.WAIT),
    "a compensation waits, not runs": lambda: _judging(Verdict.RUN, Verdict.WAIT),
    "taking over": lambda: patch.object(Book, "due", lambda *_, **__: []),
    "a cancelled command is closed": lambda: patch.object(Book, "cancel", lambda self, command_id: True),
}


@pytest.mark.parametrize("guard", WITHOUT)
def test_without_a_guard_a_seed_fails(stage: Stage, guard: str) -> None:
    """Else the guard is not needed, or nobody would notice that it is gone."""

    def tell_all() -> None:
        for seed in range(SEEDS_WITHOUT):
            tell(stage, seed)

    with WITHOUT[guard](), pytest.raises((AssertionError, IntegrityError)):
        tell_all()
