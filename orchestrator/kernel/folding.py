"""`evolve`, the one function that changes a saga's state: one event, by the tables.

What a status becomes is the tables' to say; here is the rest of what an event means.
"""

from collections.abc import Callable, Mapping

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.errors import IllegalTransition
from kompensate.orchestrator.kernel.policy import command_id
from kompensate.orchestrator.kernel.state import OPEN, Call, Fork, SagaState
from kompensate.orchestrator.kernel.tables import CALL, CHILD, SAGA, WORKER, CallStatus, Hold

_OUT = frozenset({CallStatus.SENT, CallStatus.UNDOING})
_LIMITED = _OUT | {CallStatus.QUEUED}
_OURS = frozenset({WORKER, CHILD})
_SENT, _DONE, _WAITING = CALL[None, e.CallMade], CallStatus.DONE, CallStatus.WAITING


def evolve(state: SagaState, event: e.Event, time: int) -> None:
    """Apply `event`, which happened at `time` (ms since the epoch), to `state`.

    Raises IllegalTransition and leaves the state untouched where the tables do not allow it.
    """
    kind = type(event)
    status = SAGA.get((state.status, kind))
    if status is None:
        raise IllegalTransition(f"saga {state.saga_id!r}: {kind.__name__} is not allowed while {state.status or 'new'}")
    _APPLY[kind](state, event, time)
    state.status = status
    state.events += 1
    state.updated_at = time


_CallEvent = (
    e.CommandResent
    | e.AttemptFailed
    | e.AttemptMade
    | e.CallSucceeded
    | e.CallRefused
    | e.CallFailed
    | e.CallInDoubt
    | e.LateReplyArrived
    | e.UndoSent
    | e.UndoFailed
    | e.CallUndone
    | e.CallQueued
    | e.CallAdmitted
    | e.CallKeyed
)


def _evolve_call(state: SagaState, event: _CallEvent, time: int) -> None:
    kind, number = type(event), event.number
    call = state.calls.get(number)
    status = None if call is None else CALL.get((call.status, kind))
    if call is None or status is None:
        raise _not_allowed(state, event, call)
    was, call.status = call.status, status
    _CALL_APPLY[kind](state, call, event, time)
    if status in OPEN:
        state.open[number] = call
    elif state.open.pop(number, None) is not None:
        call.due = call.timeout_at = None
    made = call.made
    if made.service == WORKER:
        _note_local(state, call)
    if call.limit:
        _note_limited(state, call)
    if made.kind == "pivot":
        _note_pivot(state, call, was)


def _not_allowed(state: SagaState, event: _CallEvent | e.CallMade, call: Call | None) -> IllegalTransition:
    was = call.status if call else "not made"
    return IllegalTransition(
        f"saga {state.saga_id!r}: {type(event).__name__} is not allowed for call {event.number}, which is {was}"
    )


def _note_local(state: SagaState, call: Call) -> None:
    if call.status in _OUT:
        state.local[call.made.number] = call
    else:
        state.local.pop(call.made.number, None)


def _note_limited(state: SagaState, call: Call) -> None:
    """What undoes a call does not wait for room, but takes it."""
    if call.status in _LIMITED:
        state.limited[call.made.number] = call
    else:
        state.limited.pop(call.made.number, None)


def _note_pivot(state: SagaState, call: Call, was: CallStatus | None) -> None:
    """A pivot's status was `was`: what counts now of all of them."""
    state.pivots_done += (call.status is _DONE) - (was is _DONE)
    if state.pivot_passed or state.pivots_done:
        state.pivot = _DONE
    elif call.status is _SENT:
        state.pivot = _SENT
    else:
        out = [each.status for each in state.open.values() if each.made.kind == "pivot"]
        state.pivot = next((status for status in (_SENT, _WAITING) if status in out), call.status)


def _call_made(state: SagaState, event: e.CallMade, time: int) -> None:
    number = event.number
    if number in state.calls:
        raise _not_allowed(state, event, state.calls[number])
    _next_operation(state, event)
    id_ = _command_id(state, number, "forward", 1)
    timeout = event.policy.timeout
    timeout_at = None if timeout is None else time + timeout
    call = Call(event, _SENT, id_, id_, _resend_at(event, time, 0), timeout_at)
    if event.service == WORKER:
        state.local[number] = call
    state.calls[number] = state.open[number] = state.commands[id_] = call
    if event.kind == "pivot":
        _note_pivot(state, call, None)


def _command_id(state: SagaState, number: int, phase: str, attempt: int) -> str:
    saga_id, run = state.owner(number) if state.forks else (state.saga_id, state.run)
    return command_id(state.app, saga_id, run, number, phase, attempt)


def _resend_at(made: e.CallMade, sent: int, resends: int) -> int | None:
    """Only participants are asked again: a worker knows what it runs, and a child was started for good."""
    return None if made.service in _OURS else made.policy.resend_at(sent, resends)


def _next_attempt(state: SagaState, call: Call, phase: str, attempt: int, time: int) -> None:
    call.attempt = attempt
    call.resends = 0
    call.id = _command_id(state, call.made.number, phase, attempt)
    state.commands[call.id] = call
    if phase == "forward":
        call.forward_id = call.id
    call.due = _resend_at(call.made, time, 0)


def _resent(_: SagaState, call: Call, __: e.CommandResent, time: int) -> None:
    call.resends += 1
    call.due = _resend_at(call.made, time, call.resends)


def _retry_at(_: SagaState, call: Call, event: e.AttemptFailed | e.UndoFailed, __: int) -> None:
    call.due = event.retry_at


def _attempt_made(state: SagaState, call: Call, _: e.AttemptMade, time: int) -> None:
    _next_attempt(state, call, "forward", call.attempt + 1, time)


def _queued(_: SagaState, call: Call, event: e.CallQueued, time: int) -> None:
    call.limit, call.priority, call.queued_at = event.limit, event.priority, time
    call.attributes = event.attributes
    call.left = None if call.timeout_at is None else max(0, call.timeout_at - time)
    call.due = call.timeout_at = None


def _admitted(_: SagaState, call: Call, __: e.CallAdmitted, time: int) -> None:
    call.due = _resend_at(call.made, time, 0)
    call.timeout_at = None if call.left is None else time + call.left
    call.left = None


def _keyed(_: SagaState, call: Call, event: e.CallKeyed, __: int) -> None:
    call.key = event.key


def _completed(state: SagaState, call: Call, event: e.CallSucceeded | e.CallInDoubt, __: int) -> None:
    state.completions += 1
    call.rank = state.completions
    call.doubted = type(event) is e.CallInDoubt
    if call.made.undo_type is not None and call.undoable:
        state.done[event.number] = call


def _undo_sent(state: SagaState, call: Call, event: e.UndoSent, time: int) -> None:
    again = event.number not in state.done
    if not again and next(reversed(state.done)) == event.number:
        state.done.popitem()  # a dictionary looks past what was deleted at its end, each time, unless it goes so
    elif not again:
        del state.done[event.number]
    _next_attempt(state, call, "compensate", call.attempt + 1 if again else 1, time)


def _late(_: SagaState, call: Call, event: e.LateReplyArrived, __: int) -> None:
    call.late = event.outcome


def _nothing(*_: object) -> None:
    """The tables say all there is to it."""


_CALL_APPLY: dict[type, Callable[..., None]] = {  # each is called with its own kind of event
    e.CommandResent: _resent,
    e.AttemptFailed: _retry_at,
    e.AttemptMade: _attempt_made,
    e.CallSucceeded: _completed,
    e.CallRefused: _nothing,
    e.CallFailed: _nothing,
    e.CallInDoubt: _completed,
    e.LateReplyArrived: _late,
    e.UndoSent: _undo_sent,
    e.UndoFailed: _retry_at,
    e.CallUndone: _nothing,
    e.CallQueued: _queued,
    e.CallAdmitted: _admitted,
    e.CallKeyed: _keyed,
}


def _started(state: SagaState, event: e.SagaStarted, time: int) -> None:
    state.started = event
    state.started_at = time
    state.delayed = None


def _sleep_started(state: SagaState, event: e.SleepStarted, _: int) -> None:
    _next_operation(state, event)
    state.sleeps[event.number] = event.until


def _sleep_ended(state: SagaState, event: e.SleepEnded, _: int) -> None:
    _known(state, state.sleeps, event)
    del state.sleeps[event.number]


def _receive_started(state: SagaState, event: e.ReceiveStarted, _: int) -> None:
    _next_operation(state, event)
    state.receives[event.number] = event


def _signal_kept(state: SagaState, event: e.SignalKept, _: int) -> None:
    state.signals.append(event)
    state.signal_ids[event.signal_id] = None


def _signals_remembered(state: SagaState, event: e.SignalsRemembered, _: int) -> None:
    # The signals that were kept over the runs came later, though they are noted before this.
    state.signal_ids = {**dict.fromkeys(event.signal_ids), **state.signal_ids}


def _signal_received(state: SagaState, event: e.SignalReceived, _: int) -> None:
    _known(state, state.receives, event)
    kept = next((s for s in state.signals if s.signal_id == event.signal_id), None)
    if kept is None:
        raise IllegalTransition(f"saga {state.saga_id!r}: signal {event.signal_id!r} was received but never kept")
    state.signals.remove(kept)
    del state.receives[event.number]


def _receive_timed_out(state: SagaState, event: e.ReceiveTimedOut, _: int) -> None:
    _known(state, state.receives, event)
    del state.receives[event.number]


def _forked(state: SagaState, event: e.SagaForked, _: int) -> None:
    """Of a fork's fork both events stand in the history, the newer one first."""
    if not state.forks:
        state.version = event.version
    operations = min(event.operations, state.forks[0].operations) if state.forks else event.operations
    state.forks.insert(0, Fork(operations, event.origin, event.run))


def _fork_held(state: SagaState, event: e.ForkHeld, _: int) -> None:
    state.hold, state.hold_reason, state.waits_for = Hold.PAUSED, event.reason, event.origin


def _reset(state: SagaState, event: e.SagaReset, _: int) -> None:
    state.reset_into, state.deadline = event.into, None
    for number in [number for number in state.done if number <= event.operations]:
        del state.done[number]


def _configured(state: SagaState, event: e.SagaConfigured, _: int) -> None:
    if state.forks:
        return  # what the start of another saga asked for: nobody waits for this one, and its time is its own
    state.version, state.deadline = event.version, event.deadline
    state.parent, state.parent_command = event.parent, event.parent_command


def _delayed(state: SagaState, event: e.StartDelayed, _: int) -> None:
    state.delayed = event


def _pivot_declared(state: SagaState, event: e.PivotPassed, _: int) -> None:
    _next_operation(state, event)
    state.pivot_passed, state.pivot = True, CallStatus.DONE


def _published(state: SagaState, event: e.ValuePublished, _: int) -> None:
    _next_operation(state, event)
    state.published[event.name] = event.value


def _attributes_set(state: SagaState, event: e.AttributesSet, _: int) -> None:
    if event.number:
        _next_operation(state, event)
    state.attributes = event.attributes


def _patch_marked(state: SagaState, event: e.PatchMarked, _: int) -> None:
    _next_operation(state, event)


def _undo_started(state: SagaState, event: e.UndoStarted, _: int) -> None:
    _next_operation(state, event)
    state.undos[event.number] = (event.first, event.last)
    for number in dropped(state, event):
        state.sleeps.pop(number, None)
        state.receives.pop(number, None)


def dropped(state: SagaState, event: e.UndoStarted) -> list[int]:
    """The sleeps and receives that an undo ends; asked before it is applied."""
    return [number for number in sorted((*state.sleeps, *state.receives)) if event.first <= number <= event.last]


def _undo_ended(state: SagaState, event: e.UndoEnded, _: int) -> None:
    _known(state, state.undos, event)
    del state.undos[event.number]


def _next_operation(state: SagaState, event: e.Asked) -> None:
    if event.number != state.operations + 1:
        raise IllegalTransition(
            f"saga {state.saga_id!r}: {type(event).__name__} is not allowed for operation {event.number}, "
            f"expected number {state.operations + 1}"
        )
    state.operations = event.number


def _known(
    state: SagaState,
    waiting: Mapping[int, object],
    event: e.SleepEnded | e.SignalReceived | e.ReceiveTimedOut | e.UndoEnded,
) -> None:
    if event.number not in waiting:
        raise IllegalTransition(
            f"saga {state.saga_id!r}: {type(event).__name__} for operation {event.number}, which is not waiting"
        )


def _cancel_requested(state: SagaState, event: e.CancelRequested, _: int) -> None:
    state.cancel_reason, state.deadline = event.reason, None


def _cancel_refused(state: SagaState, _: e.CancelRefused, __: int) -> None:
    state.cancel_reason = state.deadline = None


def _turned_back(state: SagaState, event: e.CompensationStarted, _: int) -> None:
    state.cause, state.reason = event.cause, event.reason
    state.deadline = None
    state.sleeps.clear()
    state.receives.clear()
    state.undos.clear()


def _ordered(state: SagaState, event: e.OperatorActed, _: int) -> None:
    if event.verb == "close":
        state.cause, state.reason = "operator", f"closed by {event.who}: {event.reason}"


def _saga_completed(state: SagaState, event: e.SagaCompleted, _: int) -> None:
    state.result = event.result


def _held(state: SagaState, event: e.SagaPaused | e.SagaQuarantined, _: int) -> None:
    state.hold = Hold.PAUSED if isinstance(event, e.SagaPaused) else Hold.QUARANTINED
    state.hold_reason = event.reason


def _released(state: SagaState, _: e.SagaResumed, time: int) -> None:
    if state.hold is None:
        raise IllegalTransition(f"saga {state.saga_id!r}: SagaResumed is not allowed, it is not held")
    state.hold, state.hold_reason = None, ""
    if state.cause is None:  # one that is closed has never owned its steps
        state.waits_for = ""
    for call in state.open.values():
        # A pivot held for its time-out would be held again at once: it gets its whole time anew.
        if call.timeout_at is not None and call.timeout_at <= time and call.made.kind != "compensatable":
            call.timeout_at = time + (call.made.policy.timeout or 0)


_APPLY: dict[type, Callable[..., None]] = {  # each is called with its own kind of event
    e.SagaStarted: _started,
    e.SleepStarted: _sleep_started,
    e.SleepEnded: _sleep_ended,
    e.ReceiveStarted: _receive_started,
    e.SignalKept: _signal_kept,
    e.SignalReceived: _signal_received,
    e.ReceiveTimedOut: _receive_timed_out,
    e.CancelRequested: _cancel_requested,
    e.CancelRefused: _cancel_refused,
    e.CompensationStarted: _turned_back,
    e.SagaCompleted: _saga_completed,
    e.SagaCompensated: _nothing,
    e.SagaCancelled: _nothing,
    e.SagaFailed: _nothing,
    e.SagaPaused: _held,
    e.SagaQuarantined: _held,
    e.SagaResumed: _released,
    e.SagaConfigured: _configured,
    e.StartDelayed: _delayed,
    e.PivotPassed: _pivot_declared,
    e.ValuePublished: _published,
    e.PatchMarked: _patch_marked,
    e.UndoStarted: _undo_started,
    e.UndoEnded: _undo_ended,
    e.SagaContinued: _nothing,
    e.OperatorActed: _ordered,
    e.SagaForked: _forked,
    e.ForkHeld: _fork_held,
    e.SagaReset: _reset,
    e.SignalsRemembered: _signals_remembered,
    e.AttributesSet: _attributes_set,
    e.CallMade: _call_made,
    **dict.fromkeys(_CALL_APPLY, _evolve_call),
}
