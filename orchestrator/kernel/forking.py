"""A saga goes on from another's history: fork and reset.

A fork begins with `SagaForked` and the other's events up to a point at which nothing was out; then it goes on, with
today's code, as a held saga does that is released. The commands of what it kept have the other's ids, for it is the
same steps that stand, and that are undone should it turn back. So only one of both may go on: a saga that has ended is
forked; one that is under way is *reset*: it undoes what came after the point, and its end releases the fork.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.errors import IllegalTransition, Nondeterminism, Rejected
from kompensate.orchestrator.kernel.folding import evolve
from kompensate.orchestrator.kernel.program import Definition
from kompensate.orchestrator.kernel.replay import describe_event, replayed
from kompensate.orchestrator.kernel.state import Fork, SagaState
from kompensate.orchestrator.kernel.tables import CHILD, CallStatus, Status
from kompensate.orchestrator.kernel.turn import Turn, child_id
from kompensate.orchestrator.kernel.undoing import turn_back

_OUT = (CallStatus.SENT, CallStatus.WAITING, CallStatus.DONE)
Timed: TypeAlias = tuple[e.Event, int]
"""An event, and when it happened."""


# -- the point


def point_of(history: Sequence[e.Event], step: str) -> int:
    """How many events stood when the program asked for that step, by its name or number. Raises ValueError."""
    asked = [(n, event) for n, event in enumerate(history) if isinstance(event, e.Asked) and event.number]
    found = [n for n, event in asked if step in (str(event.number), getattr(event, "step", None))]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{event.number}: {describe_event(event)}" for _, event in asked) or "none"
    raise ValueError(f"expected the name or number of one operation ({names}), got {step!r}, which {len(found)} have")


def check_point(saga_id: str, run: str, history: Sequence[Timed], kept: int, *, reset: bool) -> int:
    """The last operation of a run's first `kept` events. Raises ValueError where none may go on from there.

    `reset`: the saga is under way, and is to end.
    """
    if not 1 <= kept <= len(history):
        raise ValueError(f"expected an event of its history, 1 to {len(history)}, got {kept}")
    at, whole = _folded(saga_id, run, history[:kept]), _folded(saga_id, run, history)
    events = [event for event, _ in history]
    problem = _no_rest(at) or _taken_back(whole, at.operations, events) or _wrong_verb(whole, reset=reset)
    if not problem and reset:
        problem = _no_reset(whole, at.operations, events)
    if problem:
        raise ValueError(f"saga {saga_id!r}, event {kept}: {problem}")
    return at.operations


def _folded(saga_id: str, run: str, history: Sequence[Timed]) -> SagaState:
    state = SagaState("", saga_id, run)
    for event, time in history:
        evolve(state, event, time)
    return state


def _no_rest(state: SagaState) -> str:
    """Why nobody can go on from this state: what is out is answered to another saga."""
    if state.started is None or state.status is not Status.RUNNING:
        return f"expected a point at which it goes forward, got one at which it is {state.status}"
    if state.cause is not None or state.reset_into:
        return "expected a point before an operator ended it, got one after that"
    for number, call in state.open.items():
        return (
            f"expected a point at which nothing is out, got one at which step {call.made.step!r} (operation {number}) "
            f"is {call.status}: go on from that step, or from an event before or after it"
        )
    for call in state.calls.values():
        if call.made.service == CHILD and call.status is CallStatus.IN_DOUBT:
            return f"expected children that have ended, got {child_id(call)!r}, which answers to another saga"
    return ""


def _taken_back(state: SagaState, operations: int, history: Sequence[e.Event]) -> str:
    """Why the steps up to that operation do not stand any more, or are another's, in the state as it became."""
    if state.reset_into and operations > 0:
        return f"expected one that was not reset, got one that {state.reset_into!r} goes on from: fork that"
    if state.waits_for and operations > 0:
        return f"expected steps of its own, got one that waits until {state.waits_for!r}, whose they are, has ended"
    for number in _undone_after(history, operations):
        call = state.calls[number]
        return (
            f"expected steps that stand, got {call.made.step!r} (operation {number}), which is {call.status} since: "
            "go on from that step or before it"
        )
    return ""


def _undone_after(history: Sequence[e.Event], operations: int) -> list[int]:
    """Which of those operations were undone by what came after them; what the program itself had undone before is no
    concern: the history up to the point says so."""
    later, found = False, []
    for event in history:
        later = later or isinstance(event, e.CompensationStarted)
        later = later or (isinstance(event, e.Asked) and event.number > operations)
        if later and isinstance(event, e.UndoSent) and event.number <= operations:
            found.append(event.number)
    return found


def _wrong_verb(state: SagaState, *, reset: bool) -> str:
    if reset == state.ended:
        verb = "fork" if reset else "reset"
        return f"expected a saga that is {'under way' if reset else 'ended'}, got one that is {state.status}: {verb} it"
    return ""


def _no_reset(state: SagaState, operations: int, history: Sequence[e.Event]) -> str:
    """Why a saga under way cannot undo what came after that operation, and end."""
    if state.status is not Status.RUNNING:
        return f"expected a saga that goes forward, got one that is {state.status}"
    if state.parent_command is not None:
        return f"expected no child, got one whose parent {state.parent!r} waits for it: reset that"
    after = [call for call in state.calls.values() if call.made.number > operations]
    pivot = next((call.made.step for call in after if call.made.kind == "pivot" and call.status in _OUT), None)
    if pivot is None and any(isinstance(event, e.PivotPassed) and event.number > operations for event in history):
        pivot = "ctx.pivot"
    if pivot is not None:
        return f"expected no pivot after the point, got {pivot!r}: what is past it is not undone"
    return ""


# -- the saga that goes on


def first_events(fresh: SagaState, definition: Definition | None, asked: i.ForkAsked) -> list[tuple[e.Event, i.Origin]]:
    """The events that a fork begins with, up to its being held. Raises Rejected, also where today's code differs."""
    forked, name = asked.forked, next((ev.definition for ev, _ in asked.kept if isinstance(ev, e.SagaStarted)), "?")
    if definition is None:
        raise Rejected(f"expected saga {name!r} in version {forked.version} in this application, got none")
    plan = definition.plan_hash()
    kept = [(replace(ev, plan=plan) if isinstance(ev, e.SagaStarted) else ev, origin) for ev, origin in asked.kept]
    said = f"forked from {forked.origin!r} at event {forked.events} by {forked.who}: {forked.reason}"
    held = e.ForkHeld(forked.origin, said) if asked.held else e.SagaPaused(said)
    found = [(forked, asked.origin), *kept, (held, asked.origin)]
    try:
        program = replayed(definition, fresh, [(event, origin.time) for event, origin in found], held=True)
    except (IllegalTransition, Nondeterminism, ValueError, LookupError) as error:
        raise Rejected(str(error)) from error
    program.close()
    if problem := _no_rest(fresh):
        raise Rejected(problem)
    if (forked.events, forked.operations) != (len(kept), fresh.operations):
        raise Rejected(
            f"expected {forked.events} events with {forked.operations} operations, "
            f"got {len(kept)} with {fresh.operations}"
        )
    return found


def take_fork(turn: Turn, input_: i.ForkAsked | i.ForkReleased, resume: Callable[[Turn, str], None]) -> None:
    """Go on from what was copied: at once where it was this record that brought it, or when the other saga has ended.

    The same again changes nothing. Raises Rejected for another fork.
    """
    state = turn.state
    if isinstance(input_, i.ForkReleased):
        if state.waits_for == input_.saga and state.hold is not None:
            resume(turn, f"{input_.saga} has ended")
        return
    forked = input_.forked
    if state.run == input_.run:
        if not input_.held:
            resume(turn, "forked")
    elif Fork(forked.operations, forked.origin, forked.run) not in state.forks[-1:]:
        raise Rejected(f"expected an id that is not in use, got {state.saga_id!r}, which is {state.status}")


def expect_own(state: SagaState, verb: str) -> None:
    """Raise Rejected for what only a saga may be asked that the steps in its history belong to."""
    if state.waits_for and verb not in ("pause", "close"):
        raise Rejected(
            f"expected a saga that goes on, got a {verb} for one that waits until {state.waits_for!r} has ended: "
            "reset that, or close this one"
        )


# -- the saga that ends


def take_reset(turn: Turn, asked: i.ResetAsked) -> None:
    """Undo what came after the point, and end: the saga that goes on answers for the rest. Raises Rejected."""
    state = turn.state
    if state.reset_into == asked.into:
        return
    if state.run != asked.run:
        raise Rejected(f"reset: expected run {asked.run}, got {state.run}: it has gone on as a new one since")
    history = [event for event, _ in turn.execution.history()]
    problem = _taken_back(state, asked.operations, history) or _no_reset(state, asked.operations, history)
    if not problem and any(number <= asked.operations for number in state.open):
        problem = f"expected the operations up to {asked.operations} to have ended, got one that has not"
    if problem:
        raise Rejected(f"reset: {problem}")
    turn.emit(e.SagaReset(asked.into, asked.operations, asked.who, asked.reason))
    if state.hold is not None:
        turn.emit(e.SagaResumed(asked.reason))
    turn_back(turn, "operator", f"reset into {asked.into!r} by {asked.who}: {asked.reason}", force=True)
