"""A program brought from a history to where it stood: what it asks for is compared with what is recorded."""

from collections.abc import Callable, Iterable, Sequence

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.errors import Nondeterminism, OperationCancelled
from kompensate.orchestrator.kernel.folding import dropped, evolve
from kompensate.orchestrator.kernel.operation import (
    Asked,
    AttributesAsked,
    ChildAsked,
    LimitedAsked,
    LocalAsked,
    Operation,
    PatchAsked,
    PivotAsked,
    PublishAsked,
    ReceiveAsked,
    SleepAsked,
    UndoAsked,
    describe,
    describe_call,
)
from kompensate.orchestrator.kernel.program import Broken, Continued, Definition, Program, Returned, TurnedBack, outcome
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.kernel.tables import Status

CANCELLED = "it was undone before it ended"


def check_same(asked: Asked, number: int, event: e.Asked) -> None:
    """Raise Nondeterminism unless what a replayed program asks for is what is recorded.

    What is compared is what kind of operation it is and its names, not payloads: the recorded ones stand.
    """
    match event, asked:
        case e.CallMade(), e.CallMade() | LimitedAsked() | LocalAsked() | ChildAsked():
            call = asked if isinstance(asked, e.CallMade) else asked.call
            same = (event.step, event.type, event.service) == (call.step, call.type, call.service)
        case (
            (e.SleepStarted(), SleepAsked()) | (e.PivotPassed(), PivotAsked()) | (e.AttributesSet(), AttributesAsked())
        ):
            same = True
        case e.ValuePublished(), PublishAsked():
            same = event.name == asked.name
        case e.PatchMarked(), PatchAsked():
            same = event.patch == asked.patch
        case e.UndoStarted(), UndoAsked():
            same = (event.first, event.last) == (asked.first, asked.last)
        case e.ReceiveStarted(), ReceiveAsked():
            same = event.name == asked.name
        case _:
            same = False
    if not same or event.number != number:
        raise Nondeterminism(
            f"operation {event.number}: {describe_event(event)}", f"operation {number}: {describe(asked)}"
        )


def describe_event(event: e.Asked) -> str:
    """A recorded operation in the words its `Asked` would use."""
    match event:
        case e.CallMade():
            return describe_call(event)
        case e.SleepStarted():
            return "sleep"
        case e.ReceiveStarted():
            return f"receive of {event.name!r}"
        case e.UndoStarted():
            return f"undo of operations {event.first} to {event.last}"
        case e.ValuePublished():
            return f"publish of {event.name!r}"
        case e.AttributesSet():
            return "set of attributes"
        case e.PatchMarked():
            return f"patch {event.patch!r}"
        case e.PivotPassed():
            return "pivot"


class _Past:
    """What is recorded of a run's operations: how a replayed program answers `ctx.patched`."""

    def __init__(self, events: Sequence[tuple[e.Event, int]], held: bool) -> None:
        asked = [event for event, _ in events if isinstance(event, e.Asked)]
        self._patches = {event.number: event.patch for event in asked if isinstance(event, e.PatchMarked)}
        self._last = max((event.number for event in asked), default=0)
        # A held saga's last stretch is not recorded: it is new when the saga is released.
        self._open = held

    def marks(self, number: int, patch: str) -> bool:
        return self._patches.get(number) == patch

    def knows(self, number: int) -> bool:
        return number <= self._last or not self._open


def replayed(
    definition: Definition,
    state: SagaState,
    events: Iterable[tuple[e.Event, int]],
    before: Callable[[e.Event], None] | None = None,
    *,
    held: bool = False,
) -> Program:
    """A fresh program, brought to where `events` (with their times) leave it.

    `state` is a fresh state of the same saga; it is folded along the way; `held` says that the saga is;
    `before` is called with each event before it is told.
    A saga that turned back is replayed for
    its functions only: what its program would do next is nobody's business. Raises Nondeterminism where
    the program asks for something else than is recorded, and what the definition raises.
    """
    program: Program | None = None
    asked: list[Operation] = []
    events = list(events)
    past = _Past(events, held)
    for event, time in events:
        if before is not None:
            before(event)
        lost: list[int] = []
        if program is not None:
            found = outcome(definition, state, event)
            if found is not None:
                program.deliver(*found, time, state.events + 1)
                asked += program.take()
            elif isinstance(event, e.Asked):
                if not asked:
                    raise Nondeterminism(f"operation {event.number}: {describe_event(event)}", _at_rest(program))
                operation = asked.pop(0)
                check_same(operation.asked, operation.number, event)
                lost = dropped(state, event) if isinstance(event, e.UndoStarted) else []
        evolve(state, event, time)
        if isinstance(event, e.SagaStarted):
            about = (state.saga_id, state.run, event, time, past, state.forks)
            program = Program(definition, *about, attributes=state.attributes)
            asked = program.take()
        for number in lost:
            assert program is not None
            program.deliver(number, None, OperationCancelled(CANCELLED), time, state.events)
            asked += program.take()
    assert program is not None  # only started sagas are replayed
    if state.hold is None and state.status is Status.RUNNING and not _rests(program, asked, state):
        got = f"operation {asked[0].number}: {describe(asked[0].asked)}" if asked else _at_rest(program)
        raise Nondeterminism("nothing more yet", got)
    program.put_back(asked)
    program.goes_live()
    return program


def _rests(program: Program, asked: list[Operation], state: SagaState) -> bool:
    """Is this where `decide` leaves a saga between two inputs? It waits, or has ended with answers to come."""
    match program.ended:
        case None:
            return not asked
        case Returned() | Continued():
            return not asked and bool(state.open)
        case TurnedBack():
            return state.pivot_out
    return False


def _at_rest(program: Program) -> str:
    match program.ended:
        case Returned():
            return "the program returned"
        case Continued():
            return "the program went on as a new run"
        case TurnedBack(_, reason) | Broken(reason):
            return f"the program ended: {reason}"
    return "nothing more asked for"
