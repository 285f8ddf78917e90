"""The saga goes forward: what its program asks for is recorded, and its outcomes are told to it."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import takewhile

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.errors import OperationCancelled
from kompensate.orchestrator.kernel.folding import dropped
from kompensate.orchestrator.kernel.operation import (
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
)
from kompensate.orchestrator.kernel.policy import DEFAULT_POLICIES, Policy
from kompensate.orchestrator.kernel.program import Broken, Continued, Ended, Program, Returned, TurnedBack
from kompensate.orchestrator.kernel.replay import CANCELLED
from kompensate.orchestrator.kernel.tables import CallStatus, Status
from kompensate.orchestrator.kernel.turn import Turn
from kompensate.orchestrator.kernel.undoing import send_undo, turn_back

# Looking a member up on its class takes as long as a call, until Python 3.12.
_RUNNING, _DONE, _QUEUED = Status.RUNNING, CallStatus.DONE, CallStatus.QUEUED
_CAN = "compensatable"

_UNDER_LIMITS = (LimitedAsked, ChildAsked)
_PAST_PIVOT = ("retriable", "notification")
"""Kinds of calls that are past the pivot what they are before it."""


def begin(turn: Turn, started: e.SagaStarted, program: Program) -> None:
    """The saga starts: record it, and what its program, which has run to its first wait, asks for."""
    turn.emit(started)
    if turn.state.hold is None:
        turn.execution.program = program
        advance(turn, program)
    else:
        program.close()


def settle(turn: Turn, event: e.Event) -> None:
    """Record an outcome, tell the program, and do what it asks for then."""
    program = turn.settle(event)
    if program is not None:
        advance(turn, program)


def advance(turn: Turn, program: Program) -> None:
    """Record what the program asks for, until it waits or has ended."""
    state = turn.state
    while True:
        if state.cancel_reason is not None:
            _cancel_pending(turn)
        if state.status is not _RUNNING or state.hold is not None:
            return
        ended = program.ended
        if ended is not None and _stops(turn, program, ended):
            return
        asked = program.take()
        if not asked:
            break
        _record_all(turn, program, asked)
    if ended is not None and not state.open:
        _end(turn, ended)


def _record_all(turn: Turn, program: Program, asked: Iterable[Operation]) -> None:
    """Record these, until one of them holds the saga."""
    for operation in asked:
        _record(turn, program, operation)
        if turn.state.hold is not None:
            return  # the program is gone; when it is replayed it asks for the rest again


def _stops(turn: Turn, program: Program, ended: Ended) -> bool:
    """Is there nothing more to record of a program that ended so?"""
    match ended:
        case Broken(reason):
            # What it asked for before it broke is not recorded: mended code may ask for something else.
            turn.quarantine(reason)
        case TurnedBack(cause, reason):
            if turn.state.pivot_out:
                return True  # it is known later whether there is a way back
            if turn.state.pivot is not _DONE:
                _record_all(turn, program, takewhile(_unanswered, program.take()))
            if turn.state.hold is None:
                turn_back(turn, cause, reason)
        case _:
            return False
    return True


def _unanswered(operation: Operation) -> bool:
    """Is it recorded of a program that turns back at once? What somebody would have to answer is not sent any more."""
    match operation.asked:
        case e.CallMade() as call:
            return not call.type or call.kind == "notification"
        case LimitedAsked():
            return False
        case LocalAsked() as local:
            return local.work is None
        case ChildAsked() as child:
            return child.detached
    return True


def _end(turn: Turn, ended: Ended) -> None:
    turn.drop_program()
    if isinstance(ended, Continued) and (problem := turn.cannot_begin(ended.payload)):
        turn.quarantine(f"ctx.continue_as_new: {problem}")
    elif isinstance(ended, Returned):
        turn.end(e.SagaCompleted(ended.value), "done", ended.value)
    else:
        assert isinstance(ended, Continued)  # the others were seen to
        turn.emit(e.SagaContinued(ended.payload))


def cancel(turn: Turn, reason: str) -> None:
    """Cancelling is asked for: the saga turns back, now or when its pivot is answered, or goes on past it."""
    state = turn.state
    if state.pivot is CallStatus.DONE:
        turn.emit(e.CancelRefused(reason))
    elif state.pivot_out:
        if state.cancel_reason is None:
            turn.emit(e.CancelRequested(reason))
    else:
        if state.hold is not None:
            turn.emit(e.SagaResumed(f"to cancel: {reason}"))
        turn_back(turn, "cancel", reason)


def _cancel_pending(turn: Turn) -> None:
    """The pivot was answered while a cancel waited for it."""
    state = turn.state
    assert state.cancel_reason is not None  # or there is none
    if state.status is not _RUNNING or state.hold is not None:
        return
    if state.pivot is CallStatus.DONE:
        turn.emit(e.CancelRefused(state.cancel_reason))
    elif not state.pivot_out:
        turn_back(turn, "cancel", state.cancel_reason)


def _record(turn: Turn, program: Program, operation: Operation) -> None:
    number, asked, state = operation.number, operation.asked, turn.state
    match asked:
        case e.CallMade() | LimitedAsked() | LocalAsked() | ChildAsked():
            _record_call(turn, program, asked)
        case SleepAsked(ms):
            turn.emit(e.SleepStarted(number, turn.time + ms))
        case ReceiveAsked(name, ms):
            turn.emit(e.ReceiveStarted(number, name, None if ms is None else turn.time + ms))
            hand_over(turn, program, name)
        case UndoAsked(first, last):
            _undo_part(turn, program, e.UndoStarted(number, first, last))
        case PublishAsked(name, value):
            turn.emit(e.ValuePublished(number, name, value))
        case AttributesAsked(attributes):
            turn.emit(e.AttributesSet(number, attributes))
        case PatchAsked(patch):
            turn.emit(e.PatchMarked(number, patch))
        case PivotAsked():
            if state.pivot_out or state.pivot is CallStatus.QUEUED:
                turn.quarantine("ctx.pivot: expected no pivot step to be out, got one that is")
            else:
                turn.emit(e.PivotPassed(number))


def _record_call(turn: Turn, program: Program, asked: e.CallMade | LimitedAsked | LocalAsked | ChildAsked) -> None:
    state = turn.state
    call = asked if isinstance(asked, e.CallMade) else asked.call
    number = call.number
    if state.pivot is _DONE and call.kind not in _PAST_PIVOT and not isinstance(asked, ChildAsked):
        call = replace(call, kind="retriable", undo_type=None, undo_payload=None, policy=_retriable(program, call))
    turn.emit(call)
    if number in program.keys:
        turn.emit(e.CallKeyed(number, program.keys[number]))
    if isinstance(asked, _UNDER_LIMITS) and asked.limit:
        attributes = asked.attributes if isinstance(asked, ChildAsked) else b""
        turn.emit(e.CallQueued(number, asked.limit, asked.priority, attributes))
        return
    result = b"null"
    if isinstance(asked, ChildAsked):
        turn.start_child(state.calls[number], asked.attributes, detached=asked.detached)
        if not asked.detached:
            return
        result = b'"%s"' % (call.undo_payload or b"")
    elif call.type:
        turn.send(state.calls[number])
        if call.kind != "notification":
            return
    # A compensation that is registered, a notification, a child that is let go: there is nothing to wait for.
    turn.emit(e.CallSucceeded(number, result))
    program.deliver(number, result, None, turn.time, state.events)


def _retriable(program: Program, asked: e.CallMade) -> Policy:
    """What a call past the pivot is tried with: what its author said, and without limit what he did not."""
    said = program.past.get(asked.number)
    if said is not None:
        return said
    return DEFAULT_POLICIES["retriable"] if asked.policy == DEFAULT_POLICIES[asked.kind] else asked.policy


def hand_over(turn: Turn, program: Program, name: str) -> None:
    """Give the oldest kept signal of that name to whoever has waited longest for it."""
    state = turn.state
    kept = next((s for s in state.signals if s.name == name), None)
    waiting = next((number for number, r in state.receives.items() if r.name == name), None)
    if kept is None or waiting is None:
        return
    turn.emit(e.SignalReceived(waiting, kept.signal_id))
    program.deliver(waiting, kept.payload, None, turn.time, state.events)


def _undo_part(turn: Turn, program: Program, event: e.UndoStarted) -> None:
    """The program wants some of its operations undone while it goes on."""
    state = turn.state
    lost = dropped(state, event)
    if (state.pivot_out or state.pivot is CallStatus.DONE) and (
        state.to_undo(event.first, event.last)
        or any(event.first <= n <= event.last and c.undoable and c.status is not _QUEUED for n, c in state.open.items())
    ):
        turn.quarantine(f"expected to go forward only, the pivot is {state.pivot}, got: undo of steps")
        return
    turn.emit(event)
    for number in lost:
        program.deliver(number, None, OperationCancelled(CANCELLED), turn.time, state.events)
    # A pivot, or what comes after it, is not given up once it was sent: it goes on until it is answered.
    given_up = [c for c in state.open.values() if c.status is _QUEUED or (c.made.kind == _CAN and not c.undoing)]
    for call in [c for c in given_up if event.first <= c.made.number <= event.last]:
        if call.status is CallStatus.SENT:
            turn.settle(e.CallInDoubt(call.made.number, CANCELLED))
        elif call.status is _QUEUED:
            turn.settle(e.CallFailed(call.made.number, b'{"reason": "undone before it was sent"}'))
        else:
            turn.settle(e.CallFailed(call.made.number, b'{"reason": "undone between two attempts"}'))
    continue_undos(turn)


def continue_undos(turn: Turn) -> None:
    """Send the next compensation of each undo under way, or end it: the program hears of that, and has to advance."""
    state = turn.state
    for number, (first, last) in list(state.undos.items()):
        while state.status is Status.RUNNING and state.hold is None and number in state.undos:
            if any(call.undoing and first <= n <= last for n, call in state.open.items()):
                break
            waiting = state.to_undo(first, last)
            if waiting:
                send_undo(turn, waiting[0])
            else:
                turn.settle(e.UndoEnded(number))
