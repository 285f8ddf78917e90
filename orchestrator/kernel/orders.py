"""An operator's orders: a person says what became of a step, or what is to become of a saga."""

from collections.abc import Callable

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.admission import go_out
from kompensate.orchestrator.kernel.errors import Rejected
from kompensate.orchestrator.kernel.forward import settle
from kompensate.orchestrator.kernel.state import Call
from kompensate.orchestrator.kernel.tables import CHILD, WORKER, CallStatus, Status
from kompensate.orchestrator.kernel.turn import Turn
from kompensate.orchestrator.kernel.undoing import turn_back


def take_order(turn: Turn, order: i.OrderAsked, resume: Callable[[Turn, str], None]) -> None:
    """Carry it out; a hold is released by `resume` where the order needs the saga to go on. Raises Rejected."""
    match order.verb:
        case "retry":
            _retry(turn, order, resume)
        case "skip" | "complete":
            _answer(turn, order, resume)
        case "compensate":
            _compensate(turn, order)
        case _:
            _close(turn, order)


def _retry(turn: Turn, order: i.OrderAsked, resume: Callable[[Turn, str], None]) -> None:
    """The step's next attempt goes out now."""
    state, call = turn.state, _find(turn, order)
    number = call.made.number
    _note(turn, order, number)
    if state.hold is not None:
        resume(turn, order.reason)
    if state.hold is not None or number not in state.open:
        return  # held again at once, and the hold says why
    match call.status:
        case CallStatus.QUEUED:
            go_out(turn, call)  # past its limit: somebody wants it now
            return
        case CallStatus.WAITING:
            turn.emit(e.AttemptMade(number))
        case CallStatus.UNDO_WAITING:
            turn.emit(e.UndoSent(number))
        case CallStatus.SENT if call.made.service == WORKER:
            # Somebody has looked: it may be done again, as a new attempt.
            turn.emit(e.AttemptFailed(number, turn.time, b'{"reason": "an operator has it tried again"}'))
            turn.emit(e.AttemptMade(number))
        case _:
            turn.emit(e.CommandResent(number))
    if call.made.service != CHILD or call.undoing:
        turn.send(call)


def _answer(turn: Turn, order: i.OrderAsked, resume: Callable[[Turn, str], None]) -> None:
    """The operator answers in the participant's stead: it is done, or undone."""
    call = _find(turn, order)
    number = call.made.number
    if call.undoing and order.verb == "complete" and order.payload:
        raise Rejected(f"step {call.made.step!r} is being undone: expected no result with complete, got one")
    _note(turn, order, number)
    if call.undoing:
        turn.emit(e.CallUndone(number))
        resume(turn, order.reason)
        return
    if turn.state.hold is not None:
        resume(turn, order.reason)
    if number in turn.state.open:
        settle(turn, e.CallSucceeded(number, order.payload or b"null"))


def _compensate(turn: Turn, order: i.OrderAsked) -> None:
    """Undo everything that can be undone, also past the pivot."""
    state = turn.state
    if state.status is not Status.RUNNING:
        raise Rejected(f"expected a running saga to compensate, got one that is {state.status}")
    _note(turn, order, 0)
    if state.hold is not None:
        turn.emit(e.SagaResumed(order.reason))
    turn_back(turn, "operator", _said(order), force=True)


def _close(turn: Turn, order: i.OrderAsked) -> None:
    """The saga has failed, and nothing more is done about it."""
    _note(turn, order, 0)
    if turn.state.hold is not None:
        turn.emit(e.SagaResumed(order.reason))
    turn.drop_program()
    turn.end(e.SagaFailed(), "failed", b'{"reason": "closed by an operator"}')


def _note(turn: Turn, order: i.OrderAsked, number: int) -> None:
    turn.emit(e.OperatorActed(order.verb, order.who, order.reason, number))


def _said(order: i.OrderAsked) -> str:
    return f"{order.verb} by {order.who}: {order.reason}"


def _find(turn: Turn, order: i.OrderAsked) -> Call:
    """The open call that the order is about: by its step's name or number, or the only one. Raises Rejected."""
    open_ = list(turn.state.open.values())
    found = [call for call in open_ if order.step in ("", call.made.step, str(call.made.number))]
    if len(found) != 1:
        names = ", ".join(f"{call.made.step} ({call.made.number})" for call in open_) or "none"
        got = f"{order.step!r}" if order.step else "no step"
        raise Rejected(f"{order.verb}: expected the name or number of one open step ({names}), got {got}")
    call = found[0]
    if order.command_id not in ("", call.id):
        raise Rejected(
            f"{order.verb} of step {call.made.step!r}: expected its command to be {order.command_id}, as when the "
            f"order was given, got {call.id}: it has moved on since"
        )
    return call
