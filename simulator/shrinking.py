"""Makes a failing plan small: fewer sagas, fewer kinds of faults, fewer faults, a shorter run.

Leaving something out changes all that follows, so each smaller plan is run; it counts if the same invariant breaks.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from kompensate.simulator.plan import Plan
from kompensate.simulator.run import Outcome

SAGAS_MIN = 1
ATTEMPTS = 150


def shrink(
    outcome: Outcome, run: Callable[[Plan], Outcome], attempts: int = ATTEMPTS, seconds: float = float("inf")
) -> Outcome:
    """The outcome of the smallest plan found within `attempts` runs, and by the end of the one that is under way after
    `seconds`, or at Ctrl-C; `outcome` itself where none is smaller."""
    if outcome.violation is None:
        return outcome
    shrinker = _Shrinker(outcome, run, attempts, time.monotonic() + seconds)
    try:
        shrinker.sagas()
        shrinker.kinds()
        shrinker.shorten()
        shrinker.faults()
        shrinker.sagas()
        shrinker.shorten()
    except KeyboardInterrupt:
        pass  # whoever waits has waited long enough: the best so far
    return shrinker.best


class _Shrinker:
    def __init__(self, outcome: Outcome, run: Callable[[Plan], Outcome], attempts: int, until: float) -> None:
        assert outcome.violation is not None
        self.best = outcome
        self._name = outcome.violation.name
        self._run = run
        self._left = attempts
        self._until = until

    def _try(self, plan: Plan) -> bool:
        """Does this plan fail in the same way? Then it is the best."""
        if self._over():
            return False
        self._left -= 1
        outcome = self._run(plan)
        if outcome.violation is None or outcome.violation.name != self._name:
            return False
        self.best = outcome
        return True

    def _over(self) -> bool:
        return self._left <= 0 or time.monotonic() >= self._until

    def shorten(self) -> None:
        """No step after the one that broke it; where it broke at rest, as early a rest as will do."""
        plan = self.best.plan
        if self.best.turns < plan.steps:
            self._try(replace(plan, steps=self.best.turns))

    def sagas(self) -> None:
        """Half as many, for as long as that will do; then a few less."""
        for part in (0.1, 0.5, 0.8):
            while self.best.plan.sagas > SAGAS_MIN:
                sagas = max(SAGAS_MIN, int(self.best.plan.sagas * part))
                if sagas == self.best.plan.sagas or not self._try(self._fewer(sagas)):
                    break

    def _fewer(self, sagas: int) -> Plan:
        # Other sagas, other faults: those left out by number would be others.
        return replace(self.best.plan, sagas=sagas, width=min(self.best.plan.width, sagas))

    def kinds(self) -> None:
        """Whole kinds of faults that it does not need."""
        for kind in self.best.plan.faults:
            faults = tuple(other for other in self.best.plan.faults if other != kind)
            self._try(replace(self.best.plan, faults=faults))

    def faults(self) -> None:
        """Single faults: halves of them first, then quarters, down to one at a time."""
        size = max(1, len(self.best.fired) // 2)
        while size >= 1 and not self._over():
            if not any(self._try(plan) for plan in self._without_some(size)):
                if size == 1:
                    break
                size //= 2

    def _without_some(self, size: int) -> Iterator[Plan]:
        plan, numbers = self.best.plan, [number for number, _kind in self.best.fired]
        for start in range(0, len(numbers), size):
            yield replace(plan, without=tuple(sorted({*plan.without, *numbers[start : start + size]})))
