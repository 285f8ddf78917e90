"""Many sagas asked one after the other: which is next, and which is left alone for what it has become meanwhile.

No Kafka and no clock in here: changes and times are handed in.
"""

from collections import Counter
from collections.abc import Iterable

from kompensate.orchestrator.cli.pace import Pace
from kompensate.orchestrator.reading.selecting import Filter, the_step, unfit
from kompensate.orchestrator.reading.status import SagaView, StepView, view
from kompensate.orchestrator.reading.stored import Stored

Chosen = tuple[SagaView, StepView | None]
"""A saga to ask, and the step that it is about where the verb is about a step."""


class Batch:
    """What `verb` is to ask of the sagas of `app` that `where` lets through, those that changed longest ago first.

    `steps`: the verb is about a step, the one named `step` or the only one that is open.
    """

    def __init__(self, verb: str, where: Filter, app: str, *, steps: bool = False, step: str | None = None) -> None:
        self._verb, self._where, self._app = verb, where, app
        self._steps, self._step = steps, step
        self._now: dict[str, Stored] = {}
        self._left: list[str] | None = None
        self._alone = Counter[str]()
        self._matched = 0
        self._asked = 0
        self._pace = Pace()

    def take(self, changes: Iterable[Stored], time_ms: int) -> None:
        """How sagas stand by now. The first time says which are meant; who comes later is not."""
        if self._left is None:
            meant = [found for found in changes if self._where.matches(self._app, found, time_ms)]
            meant.sort(key=lambda found: found.updated_at, reverse=True)
            self._left = [found.saga_id for found in meant]
            self._now = {found.saga_id: found for found in meant}
            self._matched = len(meant)
            return
        for found in changes:
            if found.saga_id in self._now:
                self._now[found.saga_id] = found

    @property
    def done(self) -> bool:
        return not self._left

    def next(self, rate: float, seconds: float, time_ms: int) -> list[Chosen]:
        """Whom to ask now, at `rate` a second; `seconds` is a clock that only goes forward."""
        allowed = self._pace.allowed(rate, seconds, self._asked)
        chosen: list[Chosen] = []
        while self._left and len(chosen) < allowed:
            found = self._one(self._now.pop(self._left.pop()), time_ms)
            if found is not None:
                chosen.append(found)
        self._asked += len(chosen)
        return chosen

    def everything(self, time_ms: int) -> list[Chosen]:
        """Whom it would ask by now, without asking: for a dry run."""
        left, self._left = self._left or [], []
        chosen = [found for saga_id in reversed(left) if (found := self._one(self._now[saga_id], time_ms))]
        self._asked = len(chosen)
        return chosen

    def _one(self, saga: Stored, time_ms: int) -> Chosen | None:
        found = view(self._app, saga)
        if not (self._where.by_header(saga) and self._where.by_view(found, time_ms)):
            self._alone["moved on meanwhile"] += 1
            return None
        reason = unfit(self._verb, found)
        step = the_step(found, self._step) if self._steps and not reason else None
        if self._steps and not reason and step is None:
            reason = "not one open step" if self._step is None else f"step {self._step} not open"
        if reason:
            self._alone[reason] += 1
            return None
        return found, step

    def told(self, how: str) -> str:
        """The summary in a line; `how` is what was done with those that were asked."""
        alone = ", ".join(f"{count} {reason}" for reason, count in self._alone.most_common())
        left = f", {len(self._left)} to go" if self._left else ""
        return (
            f"{self._verb}: {self._matched} sagas match, {self._asked} {how}, "
            f"{self._alone.total()} left alone{f' ({alone})' if alone else ''}{left}"
        )
