"""Stories of turning back: exactly what was done or is in doubt is undone, the last completed first, each once."""

import pytest

from kompensate.orchestrator import NOTHING, Context, FailSaga, Policy, Saga, Step, saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.decide import Decision
from kompensate.orchestrator.kernel.errors import Rejected, StepInDoubt
from kompensate.orchestrator.kernel.tables import CallStatus, Hold, Status
from tests.fixtures.driving import (
    Charge,
    Driven,
    Order,
    Refund,
    Release,
    Reserve,
    Ship,
    commands,
    inventory,
    kinds,
    payments,
    sends,
    shipping,
)


def test_a_refusal_undoes_what_was_done_in_reverse() -> None:
    """One compensation at a time, each names the forward command that it undoes."""
    driven = Driven()
    driven.start()
    driven.reply()
    driven.reply()
    driven.no("no such address")
    refund = driven.sent[-1]

    second = driven.reply()
    release = driven.sent[-1]
    last = driven.reply()

    assert (refund.type, refund.compensates) == ("payments.Refund", driven.command("charge").id)
    assert kinds(second) == ["CallUndone", "UndoSent"]
    assert (release.type, release.compensates) == ("inventory.Release", driven.command("reserve").id)
    assert release.expires_at is None
    assert kinds(last) == ["CallUndone", "SagaCompensated"]
    assert (driven.state.cause, driven.state.reason) == ("step", "ship: no such address")


def test_a_first_refusal_has_nothing_to_undo() -> None:
    """When nothing was done, turning back is the end."""
    driven = Driven()
    driven.start()

    assert driven.no("sold out").events == [
        e.CallRefused(1, b'{"reason":"sold out"}'),
        e.CompensationStarted("step", "reserve: sold out"),
        e.SagaCompensated(),
    ]


def test_a_step_without_undo_is_left_as_it_is() -> None:
    """Only steps that name an undo are undone."""
    steps = [
        Step("reserve", inventory, Reserve, undo=NOTHING),
        Step("charge", payments, Charge, undo=Refund),
        Step("s", shipping, Ship, undo=NOTHING),
    ]
    driven = Driven(Saga("partly", Order, steps))
    driven.start()
    driven.reply()
    driven.reply()

    assert commands(driven.no()) == ["compensate charge#1"]
    assert kinds(driven.reply())[-1] == "SagaCompensated"


def test_a_step_in_doubt_is_undone_first() -> None:
    """A step that nobody answered in time may have been done: it ranks as completed last, and is undone."""
    driven = Driven()
    driven.start()
    driven.reply()

    decision = driven.wait(300_000)

    assert kinds(decision)[-3:] == ["CallInDoubt", "CompensationStarted", "UndoSent"]
    assert commands(decision)[-1] == "compensate charge#1"
    assert driven.state.reason == "charge: no answer within 300000 ms"
    assert driven.sent[-1].compensates == driven.command("charge").id


@pytest.mark.parametrize("outcome", ["done", "refused"])
@pytest.mark.parametrize("undo", ["out", "failed", "done"])
def test_a_late_answer_to_a_step_in_doubt(outcome: str, undo: str) -> None:
    """However far its compensation is, a late answer only adds an event, and only once."""
    driven = Driven()
    driven.start()
    driven.reply()
    charge = driven.command("charge")
    driven.wait(300_000)
    if undo != "out":
        driven.reply(outcome=undo)

    decision = driven.reply(charge, outcome)

    assert decision == Decision([e.LateReplyArrived(2, outcome, b"null")])
    assert driven.reply(charge, outcome) == Decision()
    if undo == "failed":
        driven.wait_until_due()
    while not driven.state.ended:
        driven.reply()
    assert driven.state.status is Status.COMPENSATED


@saga("carries-on")
async def carries_on(ctx: Context, order: Order) -> str:
    try:
        await ctx.call(inventory, Reserve("o1"), undo=Release("o1"), policy=Policy(timeout=1_000))
    except StepInDoubt as error:
        await ctx.receive("anyway")
        return error.reason
    return "done"


def test_a_late_answer_while_the_saga_goes_on() -> None:
    """A program may go on after a step in doubt; the answer is noted, and a later cancel undoes the step."""
    driven = Driven(carries_on)
    driven.start()
    reserve = driven.sent[-1]
    assert kinds(driven.wait(1_000)) == ["CallInDoubt", "ReceiveStarted"]
    assert kinds(driven.reply(reserve)) == ["LateReplyArrived"]
    assert driven.state.calls[1].status is CallStatus.IN_DOUBT

    assert kinds(driven.cancel()) == ["CompensationStarted", "UndoSent"]
    assert kinds(driven.reply()) == ["CallUndone", "SagaCancelled"]


def test_a_step_that_times_out_between_two_attempts_is_not_in_doubt() -> None:
    """It failed definitely before: nothing is out, so nothing may have been done."""
    steps = [Step("reserve", inventory, Reserve, undo=Release, timeout=0.4)]
    driven = Driven(Saga("short", Order, steps))
    driven.start()
    driven.no(outcome="failed")

    assert kinds(driven.wait(400)) == ["CallFailed", "CompensationStarted", "SagaCompensated"]
    assert driven.state.reason == "reserve: timed out between two attempts"


def test_an_undo_is_tried_again_then_held_then_tried_again() -> None:
    """A compensation that fails for ever holds the saga at its limit, with the reason; released, it goes on."""
    driven = Driven()
    driven.start()
    driven.reply()
    driven.no()

    for attempt in range(2, 11):
        assert kinds(driven.no("cannot", outcome="failed")) == ["UndoFailed"]
        assert commands(driven.wait_until_due()) == [f"compensate reserve#{attempt}"]
    assert kinds(driven.no("cannot", outcome="refused")) == ["UndoFailed", "SagaQuarantined"]
    assert driven.state.hold_reason == (
        'compensation of step \'reserve\': expected done within 10 attempts, got refused {"reason":"cannot"}'
    )
    assert driven.state.next_due() is None
    assert driven.wait(1_000_000) == Decision()
    assert kinds(driven.resume()) == ["SagaResumed"]
    assert commands(driven.wait_until_due()) == ["compensate reserve#11"]
    assert kinds(driven.reply()) == ["CallUndone", "SagaCompensated"]
    assert len({c.id for c in driven.sent if c.phase == "compensate"}) == 11


def test_an_undo_without_an_answer_is_sent_again() -> None:
    """The same id, later each time; it has no time-out."""
    driven = Driven()
    driven.start()
    driven.reply()
    driven.no()
    ids = {driven.sent[-1].id}

    for _ in range(5):
        decision = driven.wait_until_due()
        assert kinds(decision) == ["CommandResent"]
        ids |= {c.id for c in sends(decision)}

    assert len(ids) == 1


@saga("parallel")
async def parallel(ctx: Context, order: Order) -> None:
    first = ctx.call(inventory, Reserve("o1"), undo=Release("o1"), step="first")
    second = ctx.call(payments, Charge("o1"), undo=Refund("o1"), step="second")
    third = ctx.call(shipping, Ship("o1"), undo=Release("o1"), step="third")
    await first
    await second
    await third


def test_the_order_is_that_of_completion() -> None:
    """Not the order of the calls but that of their answers is reversed; whatever is out is in doubt, and first."""
    driven = Driven(parallel)
    driven.start()
    driven.reply(driven.command("second"))
    driven.reply(driven.command("first"))

    decision = driven.cancel()

    assert kinds(decision) == ["CallInDoubt", "CompensationStarted", "UndoSent"]
    order = [sends(decision)[0].step]
    while not driven.state.ended:
        order += [c.step for c in sends(driven.reply())]
    assert order == ["third", "first", "second"]


def test_a_call_between_two_attempts_is_not_undone_on_cancel() -> None:
    """It failed: nothing is out, so it just ends."""
    driven = Driven()
    driven.start()
    driven.no(outcome="failed")

    assert driven.cancel("enough").events == [
        e.CallFailed(1, b""),
        e.CompensationStarted("cancel", "enough"),
        e.SagaCancelled(),
    ]


@saga("fails")
async def fails(ctx: Context, order: Order) -> None:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    raise FailSaga("nobody wants it")


def test_a_saga_that_fails_is_undone_first() -> None:
    """FailSaga ends as failed, after what was done is undone."""
    driven = Driven(fails)
    driven.start()

    assert kinds(driven.reply()) == ["CallSucceeded", "CompensationStarted", "UndoSent"]
    assert kinds(driven.reply()) == ["CallUndone", "SagaFailed"]
    assert (driven.state.status, driven.state.reason) == (Status.FAILED, "nobody wants it")


def test_cancel_before_the_pivot() -> None:
    """What is out is in doubt; everything is undone; the end is cancelled, with the reason."""
    driven = Driven()
    driven.start()
    driven.reply()

    assert driven.cancel("too slow").events == [
        e.CallInDoubt(2, "too slow"),
        e.CompensationStarted("cancel", "too slow"),
        e.UndoSent(2),
    ]
    driven.reply()
    assert kinds(driven.reply()) == ["CallUndone", "SagaCancelled"]
    assert driven.state.reason == "too slow"


def _at_pivot(*, cached: bool = True) -> Driven:
    driven = Driven(cached=cached)
    driven.start()
    driven.reply()
    driven.reply()
    return driven


def test_cancel_at_the_pivot_waits_for_its_answer() -> None:
    """While the pivot is out its answer decides: done, cancelling is refused."""
    driven = _at_pivot()

    assert driven.cancel("too slow").events == [e.CancelRequested("too slow")]
    assert driven.cancel("again") == Decision()
    assert kinds(driven.reply()) == ["CallSucceeded", "CancelRefused", "CallMade"]
    assert driven.state.cancel_reason is None


@pytest.mark.parametrize("cached", [True, False])
def test_cancel_at_a_pivot_that_is_refused(cached: bool) -> None:
    """Refused, the saga turns back, and by the cancel: its end is cancelled."""
    driven = _at_pivot(cached=cached)
    driven.cancel("too slow")

    assert kinds(driven.no()) == ["CallRefused", "CompensationStarted", "UndoSent"]
    assert (driven.state.cause, driven.state.reason) == ("cancel", "too slow")


def test_cancel_after_the_pivot_is_refused() -> None:
    """Past the pivot there is no way back; the refusal is an event that a client can read."""
    driven = _at_pivot()
    driven.reply()

    assert driven.cancel("too slow").events == [e.CancelRefused("too slow")]
    assert kinds(driven.reply()) == ["CallSucceeded", "SagaCompleted"]


@saga("ends-at-pivot")
async def ends_at_pivot(ctx: Context, order: Order) -> None:
    await ctx.call(shipping, Ship("o1"), kind="pivot")


def test_cancel_at_a_pivot_that_is_the_last_step() -> None:
    """The refusal is recorded before the end."""
    driven = Driven(ends_at_pivot)
    driven.start()
    driven.cancel()

    assert kinds(driven.reply()) == ["CallSucceeded", "CancelRefused", "SagaCompleted"]


def test_cancel_while_it_is_going_back() -> None:
    """It is being undone already: nothing changes, and it ends as it began to."""
    driven = _at_pivot()
    driven.no()

    assert driven.cancel() == Decision()
    driven.reply()
    assert kinds(driven.reply()) == ["CallUndone", "SagaCompensated"]


def test_cancel_of_what_is_not_there() -> None:
    """A saga that has not started, or has ended, cannot be cancelled: told so, and nothing changes."""
    driven = Driven()
    with pytest.raises(Rejected, match="expected a saga that has started, got a cancel for one that has not"):
        driven.cancel()
    driven.start()
    driven.no()
    with pytest.raises(Rejected, match="expected a saga under way, got a cancel for one that is compensated"):
        driven.cancel()


def test_cancel_of_a_saga_that_has_not_started() -> None:
    """Signals that came for a saga that nobody starts are let go by a cancel; a start after it changes nothing."""
    driven = Driven()
    driven.signal()

    assert kinds(driven.cancel()) == ["SagaCancelled"]

    assert driven.state.status is Status.CANCELLED
    assert kinds(driven.start()) == []


def test_cancel_releases_a_hold() -> None:
    """Cancelling a held saga releases it, for it has to undo."""
    driven = Driven()
    driven.start()
    driven.reply()
    driven.pause()

    assert kinds(driven.cancel()) == ["SagaResumed", "CallInDoubt", "CompensationStarted", "UndoSent"]
    assert driven.state.hold is None


def test_cancel_of_a_held_saga_past_its_pivot() -> None:
    """There is no way back, held or not: the hold stays."""
    driven = _at_pivot()
    driven.reply()
    driven.pause()

    assert kinds(driven.cancel()) == ["CancelRefused"]
    assert driven.state.hold is Hold.PAUSED
