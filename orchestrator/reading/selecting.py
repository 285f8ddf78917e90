"""Choosing sagas by what they are: the filter of `kompensate list` and of the verbs that ask many sagas at once.

    Filter.parse(["status=running,hold=quarantined", "older-than=2h", "attr.amount > 100"])

What the headers tell (attributes too) is looked at first, so only sagas that pass it are decoded.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kompensate.orchestrator.kernel.state import OPEN
from kompensate.orchestrator.kernel.tables import Hold, Status
from kompensate.orchestrator.reading.conditions import COMPARE, PREFIX, BadFilter, Condition, conditions, malformed
from kompensate.orchestrator.reading.status import SagaView, StepView, view
from kompensate.orchestrator.reading.stored import Stored

STATUSES = (*map(str, Status), "damaged")
HOLDS = (*map(str, Hold), "any", "none")
_UNITS = {"": 1_000, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d+)([smhd]?)")


def milliseconds(text: str) -> int:
    """A duration like 90, 90s, 15m, 2h or 7d. Raises BadFilter."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise BadFilter(f"older-than: expected a duration like 90s, 15m, 2h or 7d, got {text!r}")
    return int(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which sagas are meant. An empty set lets all through; several values of one kind are alternatives.

    Conditions on attributes must all hold.
    """

    statuses: frozenset[str] = frozenset()
    definitions: frozenset[str] = frozenset()
    holds: frozenset[str] = frozenset()
    steps: frozenset[str] = frozenset()
    older_than: int | None = None
    attributes: tuple[Condition, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "Filter":
        """Conditions as `conditions` has them: all must hold. Raises BadFilter."""
        found: dict[str, set[str]] = {name: set() for name in _CHECKS}
        attributes = []
        names = f"{', '.join(_CHECKS)}, or {PREFIX}NAME with one of {' '.join(COMPARE)}"
        for condition in (each for text in texts for each in conditions(text, names)):
            name, value = condition.name, condition.value
            if name.startswith(PREFIX):
                attributes.append(condition)
                continue
            if name not in _CHECKS or condition.comparison not in ("=", "=="):
                raise malformed(names, f"{name}{condition.comparison}{value}")
            _CHECKS[name](value)
            found[name].add(value)
        ages = [milliseconds(text) for text in found["older-than"]]
        statuses, definitions, holds, steps = (
            frozenset(found[name]) for name in ("status", "definition", "hold", "step")
        )
        return cls(statuses, definitions, holds, steps, min(ages, default=None), tuple(attributes))

    def by_header(self, saga: Stored) -> bool:
        """Could it be meant, by what its headers tell?"""
        header = saga.header
        status = "damaged" if saga.damaged else header.status
        hold = "none" if header.hold == "-" else header.hold
        held = hold in self.holds or ("any" in self.holds and hold != "none")
        return (
            (not self.statuses or status in self.statuses)
            and (not self.definitions or header.definition in self.definitions)
            and (not self.holds or held)
            and all(condition.holds(saga.attributes) for condition in self.attributes)
        )

    def matches(self, app: str, saga: Stored, now: int) -> bool:
        """Is it meant? `now` in ms since the epoch. A damaged saga has neither age nor steps."""
        if not self.by_header(saga):
            return False
        return (self.older_than is None and not self.steps) or self.by_view(view(app, saga), now)

    def by_view(self, found: SagaView, now: int) -> bool:
        """Is it meant, by what only its events tell? For one that `by_header` lets through."""
        if self.older_than is None and not self.steps:
            return True
        if found.damaged:
            return False
        since = found.started_at if found.started_at is not None else found.updated_at
        old = self.older_than is None or since <= now - self.older_than
        return old and (not self.steps or any(step.step in self.steps for step in open_steps(found)))


def _one_of(name: str, words: Iterable[str]) -> Callable[[str], object]:
    known = tuple(words)

    def check(value: str) -> None:
        if value not in known:
            raise BadFilter(f"{name}: expected one of {', '.join(known)}, got {value!r}")

    return check


_CHECKS: dict[str, Callable[[str], Any]] = {
    "status": _one_of("status", STATUSES),
    "definition": str,
    "hold": _one_of("hold", HOLDS),
    "older-than": milliseconds,
    "step": str,
}


def open_steps(found: SagaView) -> list[StepView]:
    """The steps that something is still expected of."""
    return [step for step in found.steps if step.status in OPEN]


def unfit(verb: str, found: SagaView) -> str:
    """Why a saga is left alone by a verb that many are asked; empty: it is asked."""
    if found.damaged or found.ended:
        return "damaged" if found.damaged else "ended"
    if found.waits_for and verb not in ("signal", "close"):
        return f"waits until {found.waits_for} has ended"
    if verb == "pause" and found.hold:
        return "held already"
    if verb == "resume" and not found.hold:
        return "not held"
    if verb == "cancel" and found.status == "compensating":
        return "turned back already"
    if verb == "compensate" and found.status != "running":
        return f"{found.status}, not running"
    if verb in ("retry", "skip", "complete", "close") and found.status == "pending":
        return "not begun"
    return ""


def the_step(found: SagaView, name: str | None) -> StepView | None:
    """The one open step of that name or number, or the only one; None where that is not one."""
    steps = [step for step in open_steps(found) if name in (None, step.step, str(step.number))]
    return steps[0] if len(steps) == 1 else None
