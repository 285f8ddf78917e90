"""Operators who reset sagas: each has another saga go on from a point of a saga under way, as a client does it.

First the fork, held; once it is there, the order to the saga that it goes on from. Where that is not taken any more
the fork is given up.
"""

from collections.abc import Callable
from random import Random

from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.kernel.tables import Status
from kompensate.orchestrator.reading.forking import Point, point
from kompensate.orchestrator.sagas.journal import read_pages
from kompensate.schemas.messages import FORK_HELD, ORDERS, RESET
from kompensate.simulator.ledger import Ledger
from kompensate.simulator.plan import Plan

RESET_ODDS = 0.02
"""How likely it is, in each step, that somebody resets one of the sagas under way."""
PATIENCE = 200
"""After so many steps without an answer the same is asked for again."""
WHO = {"who": "operator", "reason": "scripted"}


class Resets:
    """Resets of sagas in `ledger`. New sagas are added to `started`."""

    def __init__(self, plan: Plan, ledger: Ledger, started: list[str], send: Callable[..., None]) -> None:
        self._random = Random(f"{plan.seed}/resets")
        self._ledger, self._started, self._send = ledger, started, send
        self._under_way: dict[str, Point] = {}
        self._asked: dict[str, tuple[str, int]] = {}
        self._refused: set[str] = set()
        self._steps = 0

    def step(self, *, calm: bool) -> None:
        """A moment passes."""
        self._steps += 1
        if not calm and self._random.random() < RESET_ODDS and self._ledger.live:
            self._begin()
        for new_id, found in list(self._under_way.items()):
            if self._over(new_id, found):
                del self._under_way[new_id]

    def _begin(self) -> None:
        shadow = list(self._ledger.live.values())[self._random.randrange(len(self._ledger.live))]
        state = shadow.state
        if state.status is not Status.RUNNING:
            return
        kept = self._random.randint(1, state.events)
        try:
            found = point(state.saga_id, read_pages(shadow.pages), event=kept, reset=True, **WHO)  # type: ignore[arg-type]
        except ValueError:
            return  # no saga may go on from there
        new_id = f"{state.saga_id}:{len(self._started)}"
        self._started.append(new_id)
        self._under_way[new_id] = found

    def _over(self, new_id: str, found: Point) -> bool:
        """Is nothing more to be asked? Else it is asked, again and again until it has been heard."""
        fork, old = self._state(new_id), self._state(found.saga_id)
        if fork is None:
            self._ask(new_id, FORK_HELD, new_id, found.fork(new_id, source="", held=True).payload)
            return new_id in self._ledger.refused
        if not fork.waits_for or fork.ended:
            return True
        if old is not None and old.run == found.run and old.reset_into == new_id:
            return False  # it undoes the rest, and ends some time
        if old is not None and old.run == found.run and old.status is Status.RUNNING and self._stands(old):
            self._ask(new_id, RESET, found.saga_id, found.reset(new_id, source="").payload)
        else:
            self._ask(new_id, ORDERS["close"], new_id, None)
        return False

    def _stands(self, old: SagaState) -> bool:
        """Can it still be reset, as far as anybody outside can see?"""
        return not old.reset_into and old.saga_id not in self._refused

    def _ask(self, new_id: str, type_: str, saga_id: str, payload: bytes | None) -> None:
        before, asked = self._asked.get(new_id, ("", 0))
        if before == type_ and self._steps - asked <= PATIENCE:
            return
        if before == type_ == RESET:
            self._refused.add(saga_id)  # it is not taken: a pivot has been passed since, say
            return
        self._asked[new_id] = type_, self._steps
        self._send(type_, saga_id, subject="scripted", who="operator", payload=payload)

    def _state(self, saga_id: str) -> SagaState | None:
        shadow = self._ledger.live.get(saga_id)
        return self._ledger.ended.get(saga_id) if shadow is None else shadow.state
