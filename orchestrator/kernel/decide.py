"""decide(execution, input) → events and effects: what each input means for one saga.

Every event is applied to the state the moment it is decided, so each line below sees the state it has
made. Duplicates and latecomers are answered here: an input that changes nothing gives no events.
Nothing in here waits.
"""

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.context import DEFAULT_POLICIES
from kompensate.orchestrator.kernel.errors import Nondeterminism, Rejected
from kompensate.orchestrator.kernel.operation import CallAsked, Operation, ReceiveAsked, SleepAsked
from kompensate.orchestrator.kernel.policy import Policy
from kompensate.orchestrator.kernel.program import Broken, Program, Returned, TurnedBack
from kompensate.orchestrator.kernel.state import Call, SagaState
from kompensate.orchestrator.kernel.tables import CallStatus, Status
from kompensate.orchestrator.kernel.turn import Decision, Execution, Turn

__all__ = ["Decision", "Execution", "decide"]


def decide(execution: Execution, input_: i.Input) -> Decision:
    """Handle one input; the execution's state has moved on when this returns.

    Raises Rejected, with nothing changed, for an input that this saga cannot take.
    """
    turn = Turn(execution, input_.origin.time)
    match input_:
        case i.ReplyArrived():
            _reply(turn, input_)
        case i.StartAsked():
            _start(turn, input_)
        case i.TimersDue():
            _timers(turn)
        case i.SignalArrived():
            _signal(turn, input_)
        case i.CancelAsked():
            _cancel(turn, input_)
        case i.PauseAsked():
            _pause(turn, input_)
        case i.ResumeAsked():
            _resume(turn, input_)
    return turn.decision


def _start(turn: Turn, asked: i.StartAsked) -> None:
    state, definition = turn.state, turn.execution.definition
    if state.status not in (None, Status.PENDING):
        return  # a duplicate: the first start stands, and its client reads whose start it was
    if definition is None:
        raise Rejected(f"expected the name of a saga of this application, got {asked.definition!r}")
    try:
        plan = definition.plan_hash()
        started = e.SagaStarted(definition.name, plan, asked.payload, asked.traceparent, asked.tracestate)
        program = Program(definition, state.saga_id, state.run, started, turn.time)
    except (ValueError, LookupError) as error:
        raise Rejected(f"saga {definition.name!r} cannot start: {error}") from error
    turn.emit(started)
    if state.hold is None:
        turn.execution.program = program
        _advance(turn, program)
    else:
        program.close()


def _settle(turn: Turn, event: e.Event) -> None:
    """Record an outcome, tell the program, and do what it asks for then."""
    program = turn.settle(event)
    if program is not None:
        _advance(turn, program)


def _advance(turn: Turn, program: Program) -> None:
    """Record what the program asks for, until it waits or has ended."""
    state = turn.state
    while True:
        _cancel_pending(turn)
        if state.status is not Status.RUNNING or state.hold is not None:
            return
        match program.ended:
            case Broken(reason):
                # What it asked for before it broke is not recorded: mended code may ask for something else.
                turn.quarantine(reason)
                return
            case TurnedBack(cause, reason):
                if not state.pivot_out:
                    _turn_back(turn, cause, reason)
                return
        asked = program.take()
        for operation in asked:
            _record(turn, program, operation)
        if not asked:
            break
    if isinstance(program.ended, Returned) and not state.open:
        turn.drop_program()
        turn.emit(e.SagaCompleted(program.ended.value))


def _record(turn: Turn, program: Program, operation: Operation) -> None:
    number, asked, state = operation.number, operation.asked, turn.state
    match asked:
        case CallAsked():
            if state.pivot is CallStatus.DONE and asked.kind != "retriable":
                asked = asked._replace(kind="retriable", undo_type=None, undo_payload=None, policy=_retriable(asked))
            turn.emit(e.CallMade(number, *asked))
            turn.send(state.calls[number])
        case SleepAsked(ms):
            turn.emit(e.SleepStarted(number, turn.time + ms))
        case ReceiveAsked(name, ms):
            turn.emit(e.ReceiveStarted(number, name, None if ms is None else turn.time + ms))
            _hand_over(turn, program, name)


def _retriable(asked: CallAsked) -> Policy:
    """What a call past the pivot is tried with: its own policy if it was given one."""
    return DEFAULT_POLICIES["retriable"] if asked.policy == DEFAULT_POLICIES[asked.kind] else asked.policy


def _hand_over(turn: Turn, program: Program, name: str) -> None:
    """Give the oldest kept signal of that name to whoever has waited longest for it."""
    state = turn.state
    kept = next((s for s in state.signals if s.name == name), None)
    waiting = next((number for number, r in state.receives.items() if r.name == name), None)
    if kept is None or waiting is None:
        return
    turn.emit(e.SignalReceived(waiting, kept.signal_id))
    program.deliver(waiting, kept.payload, None, turn.time)


def _reply(turn: Turn, reply: i.ReplyArrived) -> None:
    state = turn.state
    if state.ended:
        return
    call = state.commands.get(reply.command_id)
    if call is None:
        raise Rejected(f"expected a reply to a command of this saga, got one to {reply.command_id!r}")
    if call.made.service != reply.service:
        raise Rejected(
            f"step {call.made.step!r}: expected a reply by {call.made.service!r}, got one by {reply.service!r}"
        )
    number = call.made.number
    if reply.command_id == call.id and call.status is CallStatus.SENT:
        _forward_reply(turn, call, reply)
    elif reply.command_id == call.id and call.status is CallStatus.UNDOING:
        _undo_reply(turn, call, reply)
    elif reply.command_id == call.forward_id and call.doubted and not call.late:
        turn.emit(e.LateReplyArrived(number, reply.outcome, reply.payload))
    # else a duplicate, or the answer to an attempt that is over


def _forward_reply(turn: Turn, call: Call, reply: i.ReplyArrived) -> None:
    number, kind, policy = call.made.number, call.made.kind, call.made.policy
    if reply.outcome == "done":
        _settle(turn, e.CallSucceeded(number, reply.payload))
        return
    if reply.outcome == "refused" and kind != "retriable":
        _settle(turn, e.CallRefused(number, reply.payload))
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
    _settle(turn, e.CallFailed(number, reply.payload))


def _undo_reply(turn: Turn, call: Call, reply: i.ReplyArrived) -> None:
    number, policy = call.made.number, call.made.policy
    if reply.outcome == "done":
        turn.emit(e.CallUndone(number))
        if turn.state.hold is None:
            _next_undo(turn)
        return
    turn.emit(e.UndoFailed(number, turn.time + policy.retry_delay(call.attempt, call.id), reply.payload))
    if call.attempt >= policy.undo_attempts and turn.state.hold is None:
        turn.quarantine(
            f"compensation of step {call.made.step!r}: expected done within {policy.undo_attempts} attempts, "
            f"got {reply.outcome} {_text(reply.payload)}"
        )


def _text(payload: bytes) -> str:
    return payload[:200].decode(errors="replace")


def _turn_back(turn: Turn, cause: str, reason: str) -> None:
    """Go back: undo what was done or is in doubt, the last completed first. Never past the pivot."""
    state = turn.state
    if state.pivot_out or state.pivot is CallStatus.DONE:
        turn.quarantine(f"expected to go forward only, the pivot is {state.pivot}, got: {reason}")
        return
    if state.cancel_reason is not None:
        cause, reason = "cancel", state.cancel_reason
    turn.drop_program()
    for call in list(state.open.values()):
        if call.status is CallStatus.SENT:
            turn.emit(e.CallInDoubt(call.made.number, reason))
        else:
            turn.emit(e.CallFailed(call.made.number, b""))
    turn.emit(e.CompensationStarted(cause, reason))
    _next_undo(turn)


def _next_undo(turn: Turn) -> None:
    """Send the next compensation, one at a time so that their order holds, or end the saga."""
    state = turn.state
    if any(call.undoing for call in state.open.values()):
        return
    waiting = state.to_undo()
    if waiting:
        turn.emit(e.UndoSent(waiting[0].made.number))
        turn.send(waiting[0])
    elif state.cause == "cancel":
        turn.emit(e.SagaCancelled())
    elif state.cause == "fail":
        turn.emit(e.SagaFailed())
    else:
        turn.emit(e.SagaCompensated())


def _signal(turn: Turn, signal: i.SignalArrived) -> None:
    state = turn.state
    if state.ended:
        raise Rejected(f"expected a saga under way, got a signal {signal.name!r} for one that is {state.status}")
    if signal.signal_id in state.signal_ids:
        return
    waits = any(r.name == signal.name for r in state.receives.values())
    program = turn.running() if waits and state.hold is None else None
    turn.emit(e.SignalKept(signal.name, signal.signal_id, signal.payload))
    if program is not None:
        _hand_over(turn, program, signal.name)
        _advance(turn, program)


def _cancel(turn: Turn, asked: i.CancelAsked) -> None:
    state = turn.state
    if state.status in (None, Status.PENDING):
        raise Rejected("expected a saga that has started, got a cancel for one that has not")
    _expect_under_way(state, "cancel")
    if state.status is not Status.RUNNING:
        return  # it is going back already
    if state.pivot is CallStatus.DONE:
        turn.emit(e.CancelRefused(asked.reason))
    elif state.pivot_out:
        if state.cancel_reason is None:
            turn.emit(e.CancelRequested(asked.reason))
    else:
        if state.hold is not None:
            turn.emit(e.SagaResumed(f"to cancel: {asked.reason}"))
        _turn_back(turn, "cancel", asked.reason)


def _cancel_pending(turn: Turn) -> None:
    """The pivot was answered while a cancel waited for it."""
    state = turn.state
    if state.cancel_reason is None or state.status is not Status.RUNNING or state.hold is not None:
        return
    if state.pivot is CallStatus.DONE:
        turn.emit(e.CancelRefused(state.cancel_reason))
    elif not state.pivot_out:
        _turn_back(turn, "cancel", state.cancel_reason)


def _pause(turn: Turn, asked: i.PauseAsked) -> None:
    _expect_under_way(turn.state, "pause")
    if turn.state.hold is None:
        turn.emit(e.SagaPaused(asked.reason))
        turn.drop_program()


def _resume(turn: Turn, asked: i.ResumeAsked) -> None:
    state = turn.state
    _expect_under_way(state, "resume")
    if state.hold is None:
        return
    problem, program = None, None
    if state.status is Status.RUNNING:
        try:
            program = turn.replay()
        except (Nondeterminism, ValueError, LookupError) as error:
            problem = str(error)
    turn.emit(e.SagaResumed(asked.reason))
    if problem is not None:
        turn.quarantine(problem)
    elif program is not None:
        turn.execution.program = program
        for receive in list(state.receives.values()):
            _hand_over(turn, program, receive.name)
        _advance(turn, program)
    elif state.status is Status.COMPENSATING:
        _next_undo(turn)


def _expect_under_way(state: SagaState, verb: str) -> None:
    if state.status is None or state.ended:
        found = f"is {state.status}" if state.status else "does not exist"
        raise Rejected(f"expected a saga under way, got a {verb} for one that {found}")


def _timers(turn: Turn) -> None:
    """Whatever is due by now, the earliest first; each is looked at again, for one may settle another.

    What begins in this turn is not due in it, so that a program that sleeps for no time holds nobody up.
    """
    state, now = turn.state, turn.time
    newest = max((*state.sleeps, *state.receives), default=0)
    while state.hold is None and not state.ended:
        due = [(until, n, "sleep") for n, until in state.sleeps.items() if n <= newest]
        due += [(r.until, n, "receive") for n, r in state.receives.items() if r.until is not None and n <= newest]
        due += [(c.timeout_at, n, "timeout") for n, c in state.open.items() if c.timeout_at is not None]
        due += [(c.due, n, "call") for n, c in state.open.items() if c.due is not None]
        if not due or min(due)[0] > now:
            return
        _, number, what = min(due)
        if what == "sleep":
            _settle(turn, e.SleepEnded(number))
        elif what == "receive":
            _settle(turn, e.ReceiveTimedOut(number))
        elif what == "timeout":
            _timed_out(turn, state.open[number])
        else:
            _call_due(turn, state.open[number])


def _timed_out(turn: Turn, call: Call) -> None:
    number, timeout = call.made.number, call.made.policy.timeout
    if call.made.kind != "compensatable":
        turn.quarantine(f"{call.made.kind} step {call.made.step!r}: expected an answer within {timeout} ms, got none")
    elif call.status is CallStatus.SENT:
        _settle(turn, e.CallInDoubt(number, f"no answer within {timeout} ms"))
    else:
        _settle(turn, e.CallFailed(number, b'{"reason": "timed out between two attempts"}'))


def _call_due(turn: Turn, call: Call) -> None:
    number = call.made.number
    match call.status:
        case CallStatus.SENT | CallStatus.UNDOING:
            turn.emit(e.CommandResent(number))
        case CallStatus.WAITING:
            turn.emit(e.AttemptMade(number))
        case _:
            turn.emit(e.UndoSent(number))
    turn.send(call)
