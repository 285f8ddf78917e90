"""decide(execution, input) → events and effects: what each input means for one saga.

Every event is applied to the state the moment it is decided, so each line below sees the state it has
made. Duplicates and latecomers are answered here: an input that changes nothing gives no events.
Nothing in here waits.
"""

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.admission import admit
from kompensate.orchestrator.kernel.answers import take_reply
from kompensate.orchestrator.kernel.due import take_due
from kompensate.orchestrator.kernel.errors import Nondeterminism, Rejected
from kompensate.orchestrator.kernel.forking import expect_own, take_fork, take_reset
from kompensate.orchestrator.kernel.forward import advance, begin, cancel, continue_undos, hand_over
from kompensate.orchestrator.kernel.orders import take_order
from kompensate.orchestrator.kernel.program import Program
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.kernel.tables import Status
from kompensate.orchestrator.kernel.turn import Decision, Execution, Turn
from kompensate.orchestrator.kernel.undoing import next_undo

__all__ = ["Decision", "Execution", "decide"]


def decide(execution: Execution, input_: i.Input) -> Decision:
    """Handle one input; the execution's state has moved on when this returns.

    Raises Rejected, with nothing changed, for an input that this saga cannot take.
    """
    turn = Turn(execution, input_.origin.time)
    match input_:
        case i.ReplyArrived():
            take_reply(turn, input_)
        case i.StartAsked():
            _start(turn, input_)
        case i.TimersDue():
            take_due(turn, input_.running)
        case i.RoomGiven():
            admit(turn, input_)
        case i.SignalArrived():
            _signal(turn, input_)
        case i.CancelAsked():
            _cancel(turn, input_)
        case i.PauseAsked():
            _pause(turn, input_)
        case i.ResumeAsked():
            _resume(turn, input_)
        case i.OrderAsked() | i.ResetAsked() | i.ForkAsked() | i.ForkReleased():
            _order(turn, input_)
    return Decision(turn.events, turn.effects)


def _start(turn: Turn, asked: i.StartAsked) -> None:
    state, definition = turn.state, turn.execution.definition
    if state.status not in (None, Status.PENDING) or state.delayed is not None:
        # A duplicate: the first start stands, and its client reads whose start it was.
        if asked.parent_command is not None and asked.parent_command != state.parent_command:
            turn.refuse_child(asked)
        return
    if definition is None:
        raise Rejected(f"expected the name of a saga of this application, got {asked.definition!r}")
    if asked.not_before is not None and asked.not_before > turn.time:
        _configure(turn, asked)
        turn.emit(e.StartDelayed(definition.name, asked.payload, asked.traceparent, asked.tracestate, asked.not_before))
        return
    try:
        plan = definition.plan_hash()
        started = e.SagaStarted(definition.name, plan, asked.payload, asked.traceparent, asked.tracestate)
        program = Program(definition, state.saga_id, state.run, started, turn.time, attributes=asked.attributes)
    except (ValueError, LookupError) as error:
        raise Rejected(f"saga {definition.name!r} cannot start: {error}") from error
    _configure(turn, asked)
    begin(turn, started, program)


def _configure(turn: Turn, asked: i.StartAsked) -> None:
    definition = turn.execution.definition
    assert definition is not None  # whoever starts has it
    if definition.version != 1 or asked.deadline is not None or asked.parent is not None:
        turn.emit(e.SagaConfigured(definition.version, asked.deadline, asked.parent, asked.parent_command))
    if asked.signal_ids:
        turn.emit(e.SignalsRemembered(asked.signal_ids))
    if asked.attributes:
        turn.emit(e.AttributesSet(0, asked.attributes))


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
        hand_over(turn, program, signal.name)
        advance(turn, program)


def _cancel(turn: Turn, asked: i.CancelAsked) -> None:
    state = turn.state
    if state.status in (None, Status.PENDING):
        if state.status is None:
            raise Rejected("expected a saga that has started, got a cancel for one that has not")
        turn.end(e.SagaCancelled(), "refused", b'{"reason": "cancelled before it started"}')
        return
    _expect_under_way(state, "cancel")
    if state.status is Status.RUNNING:  # else it is going back already
        cancel(turn, asked.reason)


def _pause(turn: Turn, asked: i.PauseAsked) -> None:
    _expect_under_way(turn.state, "pause")
    if turn.state.hold is None:
        turn.emit(e.SagaPaused(asked.reason))
        turn.drop_program()


def _resume(turn: Turn, asked: i.ResumeAsked) -> None:
    _expect_under_way(turn.state, "resume")
    if turn.state.hold is not None:
        go_on(turn, asked.reason)


def _order(turn: Turn, order: i.OrderAsked | i.ResetAsked | i.ForkAsked | i.ForkReleased) -> None:
    if isinstance(order, i.ForkAsked | i.ForkReleased):
        take_fork(turn, order, go_on)
        return
    verb = "reset" if isinstance(order, i.ResetAsked) else order.verb
    _expect_under_way(turn.state, verb)
    if turn.state.status is Status.PENDING:
        raise Rejected(f"expected a saga that has started, got a {verb} for one that has not")
    if isinstance(order, i.ResetAsked):
        take_reset(turn, order)
    else:
        take_order(turn, order, go_on)


def go_on(turn: Turn, reason: str) -> None:
    """Release the hold if there is one, and do what was left undone meanwhile."""
    state = turn.state
    problem, program = None, None
    if state.status is Status.RUNNING:
        try:
            program = turn.replay()
        except (Nondeterminism, ValueError, LookupError) as error:
            problem = str(error)
    if state.hold is not None:
        turn.emit(e.SagaResumed(reason))
    if problem is not None:
        turn.quarantine(problem)
    elif program is not None:
        turn.drop_program()
        turn.execution.program = program
        for receive in list(state.receives.values()):
            hand_over(turn, program, receive.name)
        continue_undos(turn)
        advance(turn, program)
    elif state.status is Status.COMPENSATING:
        next_undo(turn)


def _expect_under_way(state: SagaState, verb: str) -> None:
    if state.status is None or state.ended:
        found = f"is {state.status}" if state.status else "does not exist"
        raise Rejected(f"expected a saga under way, got a {verb} for one that {found}")
    expect_own(state, verb)
