"""A call under a limit goes out: when there is room is the worker's to say, what that means for the saga is here."""

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.inputs import RoomGiven
from kompensate.orchestrator.kernel.state import Call
from kompensate.orchestrator.kernel.tables import CHILD, CallStatus
from kompensate.orchestrator.kernel.turn import Turn


def admit(turn: Turn, given: RoomGiven) -> None:
    """There is room for this call, unless it has been given up meanwhile or its saga is held."""
    call = turn.state.open.get(given.number)
    if call is None or call.status is not CallStatus.QUEUED or turn.state.hold is not None:
        return
    if given.refusal:
        turn.quarantine(f"step {call.made.step!r}: expected a command that can be written, got: {given.refusal}")
    else:
        go_out(turn, call)


def go_out(turn: Turn, call: Call) -> None:
    """A queued call is sent, or the child that it is begins."""
    turn.emit(e.CallAdmitted(call.made.number))
    if call.made.service == CHILD:
        turn.start_child(call, call.attributes, detached=False)
    else:
        turn.send(call)


def try_again(turn: Turn, call: Call) -> None:
    """The next attempt is made; under a limit it waits for room once more."""
    turn.emit(e.AttemptMade(call.made.number))
    if call.limit:
        turn.emit(e.CallQueued(call.made.number, call.limit, call.priority, b""))
    else:
        turn.send(call)
