"""An answer has come: a participant's, a local step's or a child's."""

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.errors import Rejected
from kompensate.orchestrator.kernel.forward import advance, continue_undos, settle
from kompensate.orchestrator.kernel.state import Call
from kompensate.orchestrator.kernel.tables import CHILD, CallStatus, Status
from kompensate.orchestrator.kernel.turn import Turn
from kompensate.orchestrator.kernel.undoing import next_undo

# Looking a member up on its class takes as long as a call, until Python 3.12.
_SENT, _UNDOING = CallStatus.SENT, CallStatus.UNDOING


def take_reply(turn: Turn, reply: i.ReplyArrived) -> None:
    state, id_, service = turn.state, reply.command_id, reply.service
    if state.ended:
        return
    call = state.commands.get(id_)
    if call is None:
        raise Rejected(f"expected a reply to a command of this saga, got one to {id_!r}")
    made = call.made
    if made.service != service:
        raise Rejected(f"step {made.step!r}: expected a reply by {made.service!r}, got one by {service!r}")
    if service == CHILD and call.undoing:
        _child_undone(turn, call, reply)
    elif id_ == call.id and call.status is _SENT:
        if reply.outcome == "done":
            settle(turn, e.CallSucceeded(made.number, reply.payload))
        else:
            _not_done(turn, call, reply)
    elif id_ == call.id and call.status is _UNDOING:
        _undo_reply(turn, call, reply)
    elif id_ == call.forward_id and call.doubted and not call.late:
        turn.emit(e.LateReplyArrived(made.number, reply.outcome, reply.payload))


def _not_done(turn: Turn, call: Call, reply: i.ReplyArrived) -> None:
    number, kind, policy = call.made.number, call.made.kind, call.made.policy
    if reply.outcome == "not_done":
        turn.emit(e.AttemptFailed(number, turn.time, reply.payload))
        return
    if reply.outcome == "unknown":
        # Whether it was done is not known: it stays out, and is asked for again when the saga is released.
        if turn.state.hold is None:
            turn.quarantine(
                f"step {call.made.step!r}: expected its function to say what became of it, got {_text(reply.payload)}"
            )
        return
    if reply.outcome == "refused" and kind != "retriable":
        settle(turn, e.CallRefused(number, reply.payload))
        return
    another = policy.another(call.attempt)
    if kind == "retriable" or (another and reply.outcome == "failed"):
        wait = policy.retry_delay(call.attempt, call.id)
        turn.emit(e.AttemptFailed(number, turn.time + wait, reply.payload))
        if not another and turn.state.hold is None:
            turn.quarantine(
                f"step {call.made.step!r} past the pivot: expected done within {policy.attempts} attempts, "
                f"got {reply.outcome} {_text(reply.payload)}"
            )
        return
    settle(turn, e.CallFailed(number, reply.payload))


def _undo_reply(turn: Turn, call: Call, reply: i.ReplyArrived) -> None:
    number, policy = call.made.number, call.made.policy
    if reply.outcome == "done":
        turn.emit(e.CallUndone(number))
        _after_undo(turn)
        return
    turn.emit(e.UndoFailed(number, turn.time + policy.retry_delay(call.attempt, call.id), reply.payload))
    if call.attempt >= policy.undo_attempts and turn.state.hold is None:
        turn.quarantine(
            f"compensation of step {call.made.step!r}: expected done within {policy.undo_attempts} attempts, "
            f"got {reply.outcome} {_text(reply.payload)}"
        )


def _child_undone(turn: Turn, call: Call, reply: i.ReplyArrived) -> None:
    """A child that was to be cancelled has ended. If it completed first it stands, as if it had before."""
    if reply.command_id != call.forward_id:
        return
    number = call.made.number
    turn.emit(e.CallSucceeded(number, reply.payload) if reply.outcome == "done" else e.CallUndone(number))
    _after_undo(turn)


def _after_undo(turn: Turn) -> None:
    """One compensation is done: what follows it."""
    state = turn.state
    if state.hold is not None:
        return
    if state.status is Status.COMPENSATING:
        next_undo(turn)
        return
    continue_undos(turn)
    program = turn.running()
    if program is not None and state.status is Status.RUNNING:
        advance(turn, program)  # it may have returned, and waited for this only


def _text(payload: bytes) -> str:
    return payload[:200].decode(errors="replace")
