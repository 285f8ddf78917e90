"""A saga's state, and `evolve`, the one function that changes it.

The state is the fold of the events and holds no more than deciding needs: statuses by the tables, open
calls with their due times, kept signals. It never holds the program: that is a cache beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.errors import IllegalTransition
from kompensate.orchestrator.kernel.policy import command_id
from kompensate.orchestrator.kernel.tables import CALL, CALL_EVENTS, ENDS, SAGA, CallStatus, Hold, Status

OPEN = frozenset({CallStatus.SENT, CallStatus.WAITING, CallStatus.UNDOING, CallStatus.UNDO_WAITING})
"""Calls that something is still expected of: a reply, or the time for the next attempt."""


@dataclass(slots=True)
class Call:
    """One forward command with, where it can be undone, its compensation.

    `due` is when it is to be looked at again (resend or next attempt), `timeout_at` when it is given up,
    `rank` its place in the order of completion (0: not completed), `id` the command that is out,
    `doubted` that it was once in doubt, `late` that its answer came after that.
    """

    made: e.CallMade
    status: CallStatus
    id: str
    forward_id: str
    due: int | None
    timeout_at: int | None
    attempt: int = 1
    resends: int = 0
    rank: int = 0
    doubted: bool = False
    late: bool = False

    @property
    def undoable(self) -> bool:
        return self.made.undo_type is not None

    @property
    def undoing(self) -> bool:
        return self.status in (CallStatus.UNDOING, CallStatus.UNDO_WAITING)


@dataclass(slots=True)
class SagaState:
    """One saga, folded. What grows with the history: `calls`, `commands` (by the id of every command ever
    sent) and `signal_ids`; the other lists and dictionaries hold what is still open. `operations` is the
    number of the last one that the program asked for.

    `pivot` is the status that counts: done if any pivot is done, else sent or waiting if any is out.
    """

    app: str
    saga_id: str
    run: str
    status: Status | None = None
    hold: Hold | None = None
    hold_reason: str = ""
    started: e.SagaStarted | None = None
    started_at: int = 0
    updated_at: int = 0
    operations: int = 0
    calls: dict[int, Call] = field(default_factory=dict)
    commands: dict[str, Call] = field(default_factory=dict)
    open: dict[int, Call] = field(default_factory=dict)
    sleeps: dict[int, int] = field(default_factory=dict)
    receives: dict[int, e.ReceiveStarted] = field(default_factory=dict)
    signals: list[e.SignalKept] = field(default_factory=list)
    signal_ids: set[str] = field(default_factory=set)
    completions: int = 0
    pivot: CallStatus | None = None
    cancel_reason: str | None = None
    cause: str | None = None
    reason: str = ""
    result: bytes | None = None
    events: int = 0

    @property
    def ended(self) -> bool:
        return self.status in ENDS

    @property
    def pivot_out(self) -> bool:
        """The pivot's answer is still to come: nobody may turn back before it."""
        return self.pivot in (CallStatus.SENT, CallStatus.WAITING)

    def next_due(self) -> int | None:
        """When this saga has to be looked at though nothing arrives; None: never, or it is held."""
        if self.hold is not None or self.ended:
            return None
        due = min(self.sleeps.values()) if self.sleeps else None
        for receive in self.receives.values():
            due = _earlier(due, receive.until)
        for call in self.open.values():
            due = _earlier(_earlier(due, call.due), call.timeout_at)
        return due

    def to_undo(self) -> list[Call]:
        """Calls whose undo is still to be sent, the last completed first."""
        found = [
            call
            for call in self.calls.values()
            if call.undoable and call.status in (CallStatus.DONE, CallStatus.IN_DOUBT)
        ]
        return sorted(found, key=lambda call: call.rank, reverse=True)


def _earlier(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return b if a is None else a
    return a if a < b else b


def evolve(state: SagaState, event: e.Event, time: int) -> None:
    """Apply `event`, which happened at `time` (ms since the epoch), to `state`.

    Raises IllegalTransition and leaves the state untouched where the tables do not allow it.
    """
    kind = type(event)
    status = SAGA.get((state.status, kind))
    if status is None:
        raise IllegalTransition(f"saga {state.saga_id!r}: {kind.__name__} is not allowed while {state.status or 'new'}")
    if kind in CALL_EVENTS:
        _evolve_call(state, event, kind, time)  # type: ignore[arg-type]  # CALL_EVENTS names just these
    else:
        _APPLY[kind](state, event, time)
    state.status = status
    state.events += 1
    state.updated_at = time


_CallEvent = (
    e.CallMade
    | e.CommandResent
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
)


def _evolve_call(state: SagaState, event: _CallEvent, kind: type, time: int) -> None:
    call = state.calls.get(event.number)
    status = CALL.get((call.status if call else None, kind))
    if status is None:
        was = call.status if call else "not made"
        raise IllegalTransition(
            f"saga {state.saga_id!r}: {kind.__name__} is not allowed for call {event.number}, which is {was}"
        )
    if isinstance(event, e.CallMade):
        _next_operation(state, event)
        _call_made(state, event, time)
        return
    assert call is not None  # CALL has no other event for a call that was not made
    _CALL_APPLY[kind](state, call, event, time)
    call.status = status
    if event.number in state.open and status not in OPEN:
        del state.open[event.number]
        call.due = call.timeout_at = None
    elif status in OPEN:
        state.open[event.number] = call
    if call.made.kind == "pivot":
        state.pivot = _pivot(state)


def _pivot(state: SagaState) -> CallStatus:
    statuses = [call.status for call in state.calls.values() if call.made.kind == "pivot"]
    return next((s for s in (CallStatus.DONE, CallStatus.SENT, CallStatus.WAITING) if s in statuses), statuses[-1])


def _call_made(state: SagaState, event: e.CallMade, time: int) -> None:
    id_ = command_id(state.app, state.saga_id, state.run, event.number, "forward", 1)
    timeout = event.policy.timeout
    call = Call(
        made=event,
        status=CallStatus.SENT,
        id=id_,
        forward_id=id_,
        due=time + event.policy.resend_after,
        timeout_at=None if timeout is None else time + timeout,
    )
    state.calls[event.number] = state.open[event.number] = state.commands[id_] = call
    if event.kind == "pivot":
        state.pivot = _pivot(state)


def _next_attempt(state: SagaState, call: Call, phase: str, attempt: int, time: int) -> None:
    call.attempt = attempt
    call.resends = 0
    call.id = command_id(state.app, state.saga_id, state.run, call.made.number, phase, attempt)
    state.commands[call.id] = call
    if phase == "forward":
        call.forward_id = call.id
    call.due = call.made.policy.resend_at(time, 0)


def _resent(_: SagaState, call: Call, __: e.CommandResent, time: int) -> None:
    call.resends += 1
    call.due = call.made.policy.resend_at(time, call.resends)


def _retry_at(_: SagaState, call: Call, event: e.AttemptFailed | e.UndoFailed, __: int) -> None:
    call.due = event.retry_at


def _attempt_made(state: SagaState, call: Call, _: e.AttemptMade, time: int) -> None:
    _next_attempt(state, call, "forward", call.attempt + 1, time)


def _completed(state: SagaState, call: Call, event: e.CallSucceeded | e.CallInDoubt, __: int) -> None:
    state.completions += 1
    call.rank = state.completions
    call.doubted = isinstance(event, e.CallInDoubt)


def _undo_sent(state: SagaState, call: Call, _: e.UndoSent, time: int) -> None:
    again = call.status is CallStatus.UNDO_WAITING
    _next_attempt(state, call, "compensate", call.attempt + 1 if again else 1, time)


def _late(_: SagaState, call: Call, __: e.LateReplyArrived, ___: int) -> None:
    call.late = True


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
}


def _started(state: SagaState, event: e.SagaStarted, time: int) -> None:
    state.started = event
    state.started_at = time


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
    state.signal_ids.add(event.signal_id)


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


def _next_operation(state: SagaState, event: e.CallMade | e.SleepStarted | e.ReceiveStarted) -> None:
    if event.number != state.operations + 1:
        raise IllegalTransition(
            f"saga {state.saga_id!r}: {type(event).__name__} is not allowed for operation {event.number}, "
            f"expected number {state.operations + 1}"
        )
    state.operations = event.number


def _known(
    state: SagaState,
    waiting: dict[int, int] | dict[int, e.ReceiveStarted],
    event: e.SleepEnded | e.SignalReceived | e.ReceiveTimedOut,
) -> None:
    if event.number not in waiting:
        raise IllegalTransition(
            f"saga {state.saga_id!r}: {type(event).__name__} for operation {event.number}, which is not waiting"
        )


def _cancel_requested(state: SagaState, event: e.CancelRequested, _: int) -> None:
    state.cancel_reason = event.reason


def _cancel_refused(state: SagaState, _: e.CancelRefused, __: int) -> None:
    state.cancel_reason = None


def _turned_back(state: SagaState, event: e.CompensationStarted, _: int) -> None:
    state.cause, state.reason = event.cause, event.reason
    state.sleeps.clear()
    state.receives.clear()


def _saga_completed(state: SagaState, event: e.SagaCompleted, _: int) -> None:
    state.result = event.result


def _held(state: SagaState, event: e.SagaPaused | e.SagaQuarantined, _: int) -> None:
    state.hold = Hold.PAUSED if isinstance(event, e.SagaPaused) else Hold.QUARANTINED
    state.hold_reason = event.reason


def _released(state: SagaState, _: e.SagaResumed, time: int) -> None:
    if state.hold is None:
        raise IllegalTransition(f"saga {state.saga_id!r}: SagaResumed is not allowed, it is not held")
    state.hold, state.hold_reason = None, ""
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
}
