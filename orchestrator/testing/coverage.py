"""Which ways through a saga its tests took: of each step its outcomes and compensations, of each signal
whether it came in time, of each saga its ends.

What is possible of a step follows from the kernel's tables: a word here is the status that a call changed to.
Declared steps are known before they are called; those of an `async def` once a test has met them.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.saga import Saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.state import Call, SagaState
from kompensate.orchestrator.kernel.tables import CALL, ENDS, CallStatus, Status

CANCELLED = "cancelled while out"
_WORDS = {
    CallStatus.WAITING: "tried again",
    CallStatus.IN_DOUBT: "in doubt",
    CallStatus.UNDO_WAITING: "undo tried again",
}
_NO_OUTCOME = frozenset({CallStatus.SENT, CallStatus.QUEUED, CallStatus.UNDOING})
_FORWARD = ("done", "refused", "failed", "tried again")
POSSIBLE: dict[str, tuple[str, ...]] = {
    "compensatable": (*_FORWARD, "in doubt", CANCELLED),
    "pivot": (*_FORWARD, CANCELLED),
    "retriable": ("done", "tried again"),
}
"""What can become of a step, by its kind; of one with an undo also UNDOABLE."""
UNDOABLE = ("undone", "undo tried again")
_RECEIVES = {True: ("received",), False: ("received", "timed out")}  # waited for without limit or with one


@dataclass(slots=True)
class Ways:
    """What was taken of one step or saga, and what could be."""

    possible: tuple[str, ...]
    taken: Counter[str] = field(default_factory=Counter)

    @property
    def never(self) -> list[str]:
        return [word for word in self.possible if not self.taken[word]]


@dataclass(slots=True)
class Covered:
    """One saga definition's ways: its ends, and its steps by name."""

    ends: Ways
    steps: dict[str, Ways] = field(default_factory=dict)


class Coverage:
    """Sagas by `application/name`, gathered over many tests."""

    def __init__(self) -> None:
        self.sagas: dict[str, Covered] = {}

    def add(self, application: Application) -> None:
        """These sagas are being tested."""
        for name, saga in application.sagas.items():
            # Nothing in a declared saga raises FailSaga, and few sagas of either kind go on as new runs.
            unlikely = {Status.FAILED, Status.CONTINUED} if isinstance(saga, Saga) else {Status.CONTINUED}
            ends = sorted(ENDS - unlikely)
            covered = self.sagas.setdefault(f"{application.name}/{name}", Covered(Ways(tuple(ends))))
            for step in saga.plan.steps if isinstance(saga, Saga) else ():
                covered.steps.setdefault(step.name, Ways(_possible(step.kind, undoable=step.undo_type is not None)))

    def note(
        self,
        state: SagaState,
        event: e.Event,
        before: CallStatus | e.ReceiveStarted | None,
        given_up: list[Call],
    ) -> None:
        """`event` was applied: `state` is the one after it, `before` its call's status then, or its open receive.

        `given_up` are the calls that the same input gave up before it: if it cancels, they were out then.
        """
        if state.started is None:
            return
        covered = self.sagas[f"{state.app}/{state.started.definition}"]
        call = state.calls.get(getattr(event, "number", 0))
        if call is not None and (before, type(event)) in CALL:
            ways = covered.steps.setdefault(call.made.step, _ways_of(call))
            if call.status is not before and call.status not in _NO_OUTCOME:
                ways.taken[_WORDS.get(call.status, str(call.status))] += 1
        if isinstance(before, e.ReceiveStarted):
            ways = covered.steps.setdefault(f"signal {before.name!r}", Ways(_RECEIVES[before.until is None]))
            ways.taken["timed out" if isinstance(event, e.ReceiveTimedOut) else "received"] += 1
        if isinstance(event, e.CompensationStarted) and event.cause == "cancel":
            _cancelled(covered, given_up)
        elif isinstance(event, e.CancelRequested):
            _cancelled(covered, [call for call in state.open.values() if call.made.kind == "pivot"])
        elif state.ended:
            covered.ends.taken[str(state.status)] += 1

    def report(self) -> Iterator[str]:
        """The report's lines: what was taken how often, and what never."""
        for name, covered in sorted(self.sagas.items()):
            yield from _lines(name, "ends", covered.ends)
            for step, ways in covered.steps.items():
                yield from _lines("", step, ways)


COVERAGE = Coverage()
"""Of every test in this process."""


def _possible(kind: str, *, undoable: bool) -> tuple[str, ...]:
    return POSSIBLE.get(kind, _FORWARD) + (UNDOABLE if undoable else ())


def _ways_of(call: Call) -> Ways:
    return Ways(_possible(call.made.kind, undoable=call.undoable))


def _cancelled(covered: Covered, calls: list[Call]) -> None:
    for call in calls:
        covered.steps.setdefault(call.made.step, _ways_of(call)).taken[CANCELLED] += 1


def _lines(saga: str, what: str, ways: Ways) -> Iterator[str]:
    if saga:
        yield saga
    taken = ", ".join(
        f"{word} {ways.taken[word]}" for word in dict.fromkeys((*ways.possible, *ways.taken)) if ways.taken[word]
    )
    yield f"  {what:<20} {taken or 'nothing'}"
    if ways.never:
        yield f"  {'':<20} never: {', '.join(ways.never)}"
