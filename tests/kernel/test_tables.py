"""The two tables, pair by pair: what they allow happens, what they do not raises and leaves no trace."""

from copy import deepcopy
from typing import get_args

import pytest

from kompensate.orchestrator import Policy
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.errors import IllegalTransition
from kompensate.orchestrator.kernel.folding import evolve
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.kernel.tables import CALL, CALL_EVENTS, ENDS, SAGA, CallStatus, Hold, Status
from tests.fixtures.driving import APP, RUN, SAGA_ID, dump

POLICY = Policy(timeout=5_000)
MADE = e.CallMade(
    1, "reserve", "inventory", "inventory.Reserve", "compensatable", b"1", "inventory.Release", b"2", POLICY
)

SAMPLES: dict[type, e.Event] = {
    type(event): event
    for event in (
        e.SagaStarted("checkout", None, b"{}", None, None),
        MADE,
        e.CommandResent(1),
        e.AttemptFailed(1, 9, b"e"),
        e.AttemptMade(1),
        e.CallSucceeded(1, b"r"),
        e.CallRefused(1, b"e"),
        e.CallFailed(1, b"e"),
        e.CallInDoubt(1, "why"),
        e.LateReplyArrived(1, "done", b"r"),
        e.SleepStarted(5, 9),
        e.SleepEnded(2),
        e.ReceiveStarted(5, "paid", None),
        e.SignalKept("paid", "s2", b"p"),
        e.SignalReceived(4, "s1"),
        e.ReceiveTimedOut(4),
        e.CancelRequested("why"),
        e.CancelRefused("why"),
        e.CompensationStarted("step", "why"),
        e.UndoSent(1),
        e.UndoFailed(1, 9, b"e"),
        e.CallUndone(1),
        e.SagaCompleted(b"r"),
        e.SagaCompensated(),
        e.SagaCancelled(),
        e.SagaFailed(),
        e.SagaPaused("why"),
        e.SagaQuarantined("why"),
        e.SagaResumed("why"),
        e.SagaConfigured(2, 9, None, None),
        e.StartDelayed("checkout", b"{}", None, None, 9),
        e.PivotPassed(5),
        e.ValuePublished(5, "progress", b"1"),
        e.PatchMarked(5, "new-road"),
        e.UndoStarted(5, 1, 4),
        e.UndoEnded(3),
        e.SagaContinued(b"{}"),
        e.OperatorActed("skip", "ann", "why", 1),
        e.SignalsRemembered(["s0"]),
        e.AttributesSet(5, b'{"customer":"c-7"}'),
        e.CallQueued(1, "narrow", 5, b""),
        e.CallAdmitted(1),
        e.SagaForked("order-0", "0.1", 5, 2, 1, "ann", "why"),
        e.ForkHeld("order-0", "why"),
        e.SagaReset("order-2", 2, "ann", "why"),
        e.CallKeyed(1, "account-7"),
    )
}

# The shortest way to each status of a call.
CALL_WAYS: dict[CallStatus | None, list[type]] = {
    None: [],
    CallStatus.SENT: [e.CallMade],
    CallStatus.QUEUED: [e.CallMade, e.CallQueued],
    CallStatus.WAITING: [e.CallMade, e.AttemptFailed],
    CallStatus.DONE: [e.CallMade, e.CallSucceeded],
    CallStatus.REFUSED: [e.CallMade, e.CallRefused],
    CallStatus.FAILED: [e.CallMade, e.CallFailed],
    CallStatus.IN_DOUBT: [e.CallMade, e.CallInDoubt],
    CallStatus.UNDOING: [e.CallMade, e.CallSucceeded, e.CompensationStarted, e.UndoSent],
    CallStatus.UNDO_WAITING: [e.CallMade, e.CallSucceeded, e.CompensationStarted, e.UndoSent, e.UndoFailed],
    CallStatus.UNDONE: [e.CallMade, e.CallSucceeded, e.CompensationStarted, e.UndoSent, e.CallUndone],
}


def _state(call: CallStatus | None, status: Status | None, *, held: bool = False) -> SagaState:
    """A state with a call, a sleep, a receive and a kept signal; its status then set as the pair asks for."""
    state = SagaState(APP, SAGA_ID, RUN)
    evolve(state, SAMPLES[e.SagaStarted], 1)
    evolve(state, e.SignalKept("paid", "s1", b"p"), 1)
    for kind in CALL_WAYS[call]:
        evolve(state, SAMPLES[kind], 1)
    assert (state.calls[1].status if call else None) is call
    state.sleeps, state.receives = {2: 9}, {4: e.ReceiveStarted(4, "paid", None)}
    state.undos = {3: (1, 2)}
    state.operations = 4 if call else 0
    state.status = status
    if held:
        state.hold, state.hold_reason = Hold.PAUSED, "why"
    return state


def _name(kind: type) -> str:
    return kind.__name__


def test_the_samples_are_every_event() -> None:
    """The enumeration below leaves no kind of event out."""
    assert set(SAMPLES) == set(e.EVENTS)


@pytest.mark.parametrize("kind", e.EVENTS, ids=_name)
@pytest.mark.parametrize("status", [None, *Status], ids=str)
def test_every_event_in_every_status_of_a_saga(status: Status | None, kind: type) -> None:
    """As the table says; where it says nothing, IllegalTransition and the state as it was."""
    operation = kind in get_args(e.Asked)
    ways = (
        [way for way, event in CALL if event is kind]
        if kind in CALL_EVENTS
        else [CallStatus.SENT if operation else None]
    )
    state = _state(ways[0], status, held=kind is e.SagaResumed)
    before = deepcopy(state)
    allowed = SAGA.get((status, kind))

    if allowed is None:
        with pytest.raises(IllegalTransition, match=f"{kind.__name__} is not allowed while {status or 'new'}"):
            evolve(state, SAMPLES[kind], 2)
        assert dump(state) == dump(before)
    else:
        evolve(state, SAMPLES[kind], 2)
        assert state.status is allowed
        assert (state.events, state.updated_at) == (before.events + 1, 2)


@pytest.mark.parametrize("kind", [kind for kind in e.EVENTS if kind in CALL_EVENTS], ids=_name)
@pytest.mark.parametrize("call", CALL_WAYS, ids=str)
def test_every_event_in_every_status_of_a_call(call: CallStatus | None, kind: type) -> None:
    """As the table says; where it says nothing, IllegalTransition and the state as it was."""
    status = next(s for s, event in SAGA if event is kind)
    state = _state(call, status)
    before = deepcopy(state)
    allowed = CALL.get((call, kind))

    if allowed is None:
        was = call or "not made"
        with pytest.raises(IllegalTransition, match=f"{kind.__name__} is not allowed for call 1, which is {was}"):
            evolve(state, SAMPLES[kind], 2)
        assert dump(state) == dump(before)
    else:
        evolve(state, SAMPLES[kind], 2)
        assert state.calls[1].status is allowed


NOT_WAITING = [
    e.SleepEnded(7),
    e.SleepEnded(4),
    e.ReceiveTimedOut(7),
    e.ReceiveTimedOut(2),
    e.SignalReceived(7, "s1"),
    e.SignalReceived(4, "never kept"),
    e.SagaResumed("not held"),
    e.UndoEnded(7),
]


@pytest.mark.parametrize("event", NOT_WAITING, ids=str)
def test_outcomes_of_what_does_not_wait(event: e.Event) -> None:
    """What no table can say is checked too: such an event raises and leaves the state as it was."""
    state = _state(None, Status.RUNNING)
    before = deepcopy(state)

    with pytest.raises(IllegalTransition):
        evolve(state, event, 2)

    assert dump(state) == dump(before)


@pytest.mark.parametrize(
    "event",
    [MADE, e.SleepStarted(2, 5), e.SleepStarted(1, 5), e.ReceiveStarted(1, "paid", None), e.UndoStarted(2, 1, 1)],
    ids=str,
)
def test_a_number_is_given_once(event: e.Event) -> None:
    """Two operations of one number cannot be: the second raises and leaves the state as it was."""
    state = _state(CallStatus.DONE, Status.RUNNING)
    before = deepcopy(state)

    with pytest.raises(IllegalTransition):
        evolve(state, event, 2)

    assert dump(state) == dump(before)


def test_the_ends_absorb() -> None:
    """No event leads out of an end."""
    assert not [pair for pair in SAGA if pair[0] in ENDS]


def test_every_status_is_reached() -> None:
    """Each status is entered by some transition, and each but the ends is left by one."""
    assert set(SAGA.values()) == set(Status)
    assert set(CALL.values()) == set(CallStatus)
    left = {status for (status, _), to in SAGA.items() if to is not status}
    assert left == {None, *Status} - ENDS
