"""Time has passed: timers, time-outs, resends, local steps whose worker is gone, delayed starts, deadlines."""

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.admission import try_again
from kompensate.orchestrator.kernel.forward import begin, cancel, settle
from kompensate.orchestrator.kernel.program import Program
from kompensate.orchestrator.kernel.state import Call, SagaState
from kompensate.orchestrator.kernel.tables import CallStatus
from kompensate.orchestrator.kernel.turn import Turn


def take_due(turn: Turn, running: frozenset[str]) -> None:
    """Whatever is due by now, the earliest first; each is looked at again, for one may settle another.

    `running` are the commands of local steps that this worker runs: the others were lost with theirs. What begins in
    this turn is not due in it, so that a program that sleeps for no time holds nobody up.
    """
    state = turn.state
    for call in list(state.local.values()):
        if call.id not in running and state.hold is None:
            _run_again(turn, call)
    for when, number, what in sorted(_dues(state, turn.time)):
        if state.hold is not None or state.ended:
            return
        if number > 0:
            _operation_due(turn, when, number, what)
        elif what == "start" and state.delayed is not None:
            _start_delayed(turn, state.delayed)
        elif what == "deadline" and state.deadline is not None:
            cancel(turn, "its deadline has passed")


def _operation_due(turn: Turn, when: int, number: int, what: str) -> None:
    """It was due, unless something else that was due has settled it meanwhile."""
    state = turn.state
    call = state.open.get(number)
    if what == "sleep" and number in state.sleeps:
        settle(turn, e.SleepEnded(number))
    elif what == "receive" and number in state.receives:
        settle(turn, e.ReceiveTimedOut(number))
    elif what == "timeout" and call is not None and call.timeout_at == when:
        _timed_out(turn, call)
    elif what == "call" and call is not None and call.due == when:
        _call_due(turn, call)


def _dues(state: SagaState, now: int) -> list[tuple[int, int, str]]:
    """(when, operation's number, what) of all whose time has come by `now`."""
    found = [(until, n, "sleep") for n, until in state.sleeps.items()]
    found += [(r.until, n, "receive") for n, r in state.receives.items() if r.until is not None]
    found += [(c.timeout_at, n, "timeout") for n, c in state.open.items() if c.timeout_at is not None]
    found += [(c.due, n, "call") for n, c in state.open.items() if c.due is not None]
    begins = 0
    if state.delayed is not None:
        begins = state.delayed.until
        found.append((begins, -1, "start"))
    if state.deadline is not None:
        found.append((max(state.deadline, begins), 0, "deadline"))  # what has not begun is not cancelled
    return [due for due in found if due[0] <= now]


def _run_again(turn: Turn, call: Call) -> None:
    """Nobody runs this local step any more. It is begun again, unless it must not be."""
    if call.status is CallStatus.SENT and turn.once(call):
        turn.reconcile(call)
    elif turn.state.hold is None:
        turn.emit(e.CommandResent(call.made.number))
        turn.send(call)


def _start_delayed(turn: Turn, delayed: e.StartDelayed) -> None:
    """Its time has come. What is wrong with it by now holds the saga: nobody is left to be told."""
    definition, state = turn.execution.definition, turn.state
    try:
        if definition is None:
            raise LookupError(f"expected a saga definition {delayed.definition!r} in this application, got none")
        started = e.SagaStarted(
            delayed.definition, definition.plan_hash(), delayed.payload, delayed.traceparent, delayed.tracestate
        )
        program = Program(definition, state.saga_id, state.run, started, turn.time, attributes=state.attributes)
    except (ValueError, LookupError) as error:
        turn.quarantine(f"saga {delayed.definition!r} cannot start: {error}")
        return
    begin(turn, started, program)


def _timed_out(turn: Turn, call: Call) -> None:
    number, timeout = call.made.number, call.made.policy.timeout
    if call.made.kind != "compensatable":
        turn.quarantine(f"{call.made.kind} step {call.made.step!r}: expected an answer within {timeout} ms, got none")
    elif call.status is CallStatus.SENT:
        settle(turn, e.CallInDoubt(number, f"no answer within {timeout} ms"))
    else:
        settle(turn, e.CallFailed(number, b'{"reason": "timed out between two attempts"}'))


def _call_due(turn: Turn, call: Call) -> None:
    number = call.made.number
    match call.status:
        case CallStatus.SENT | CallStatus.UNDOING:
            turn.emit(e.CommandResent(number))
            turn.send(call)
        case CallStatus.WAITING if call.limit and call.timeout_at is not None and call.timeout_at <= turn.time:
            _timed_out(turn, call)  # nothing is left of its time to be sent in
        case CallStatus.WAITING:
            try_again(turn, call)
        case _:
            turn.emit(e.UndoSent(number))
            turn.send(call)
