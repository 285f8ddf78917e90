"""The saga goes back: what was done or is in doubt is undone, one after the other, the last completed first."""

from json import dumps

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.state import Call
from kompensate.orchestrator.kernel.tables import CHILD, LET_GO_CHILD, CallStatus
from kompensate.orchestrator.kernel.turn import Turn


def turn_back(turn: Turn, cause: str, reason: str, *, force: bool = False) -> None:
    """Go back: undo what was done or is in doubt, the last completed first. Never past the pivot, but by `force`."""
    state = turn.state
    if not force and (state.pivot_out or state.pivot is CallStatus.DONE):
        turn.quarantine(f"expected to go forward only, the pivot is {state.pivot}, got: {reason}")
        return
    if state.cancel_reason is not None and not force:
        cause, reason = "cancel", state.cancel_reason
    turn.drop_program()
    for call in [call for call in state.open.values() if not call.undoing]:
        if call.status is CallStatus.SENT:
            turn.emit(e.CallInDoubt(call.made.number, reason))
        else:
            turn.emit(e.CallFailed(call.made.number, b""))
    turn.emit(e.CompensationStarted(cause, reason))
    next_undo(turn)


def next_undo(turn: Turn) -> None:
    """Send the next compensation, one at a time so that their order holds, or end the saga."""
    state = turn.state
    while not any(call.undoing for call in state.open.values()):
        call = state.last_done()
        if call is None:
            _end(turn)
            return
        send_undo(turn, call)


def send_undo(turn: Turn, call: Call) -> None:
    """A compensation goes out; a child that is let go, or has ended since it was in doubt, needs no answer."""
    number, child = call.made.number, call.made.service == CHILD
    turn.emit(e.UndoSent(number))
    if not (child and call.late):
        turn.send(call)
    if child and call.late == "done":
        turn.emit(e.CallSucceeded(number, b"null"))  # it stands; what it gave is with the late reply
    elif child and (call.late or call.made.undo_type == LET_GO_CHILD):
        turn.emit(e.CallUndone(number))


def _end(turn: Turn) -> None:
    """Nothing is left to undo."""
    state = turn.state
    said = _reason(f"{state.cause}: {state.reason}")
    if state.cause == "cancel":
        turn.end(e.SagaCancelled(), "refused", said)
    elif state.cause == "fail":
        turn.end(e.SagaFailed(), "failed", said)
    else:
        turn.end(e.SagaCompensated(), "failed", said)


def _reason(text: str) -> bytes:
    return dumps({"reason": text}).encode()
