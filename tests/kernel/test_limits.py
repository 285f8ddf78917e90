"""Calls under limits: made, and sent only once there is room."""

import pytest

from kompensate.orchestrator import Context, FailSaga, RetryPolicy, StepFailed, saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.tables import CallStatus, Hold, Status
from tests.fixtures.driving import (
    CHECKOUT,
    SAGA_ID,
    Driven,
    Order,
    Release,
    Reserve,
    commands,
    inventory,
    kinds,
    payments,
    sends,
)

pytestmark = pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])
TIMEOUT = 5_000


@saga("limited")
async def limited(ctx: Context, order: Order) -> str:
    await ctx.call(payments, Reserve("o0"), undo=Release("o0"), step="first")
    found: str = await ctx.call(
        inventory,
        Reserve(order.order_id),
        undo=Release(order.order_id),
        timeout=TIMEOUT / 1000,
        retry=RetryPolicy(initial_interval=2, maximum_attempts=2),
        limit="narrow",
        priority=7,
    )
    return found


def queued(cached: bool) -> Driven:
    driven = Driven(limited, cached=cached)
    driven.start()
    decision = driven.reply()
    assert kinds(decision) == ["CallSucceeded", "CallMade", "CallQueued"]
    assert decision.effects == [], "nothing goes out before there is room"
    return driven


def test_a_call_under_a_limit_goes_out_when_there_is_room(cached: bool) -> None:
    """What is asked of the limit stands in the history; being queued is nothing that the program hears of."""
    driven = queued(cached)
    event = driven.history[-1][0]
    assert event == e.CallQueued(2, "narrow", 7, b"")

    decision = driven.room()

    assert (kinds(decision), commands(decision)) == (["CallAdmitted"], ["forward Reserve#1"])
    assert kinds(driven.room(2)) == [], "no second send"
    assert kinds(driven.reply(value="shelf 3")) == ["CallSucceeded", "SagaCompleted"]
    assert driven.state.limited == {}


def test_no_time_counts_while_it_is_queued(cached: bool) -> None:
    """Neither the next resend nor the time-out: both begin when it is sent."""
    driven = queued(cached)
    assert driven.state.next_due() is None, "nobody has to look at it"
    driven.wait(3_600_000)

    decision = driven.room()

    (sent,) = sends(decision)
    assert sent.expires_at == driven.now + TIMEOUT
    assert kinds(driven.wait(TIMEOUT)) == ["CallInDoubt", "CompensationStarted", "UndoSent"]


def test_each_attempt_waits_for_room_anew(cached: bool) -> None:
    """Between two attempts it takes none; the time that it has in all goes on only while it is not queued."""
    driven = queued(cached)
    driven.room()
    driven.wait(1_000)
    assert kinds(driven.no("busy", "failed")) == ["AttemptFailed"]
    assert driven.state.limited == {}
    waited = (driven.state.next_due() or 0) - driven.now

    decision = driven.wait_until_due()

    assert (kinds(decision), decision.effects) == (["AttemptMade", "CallQueued"], [])
    driven.wait(3_600_000)
    (sent,) = sends(driven.room())
    assert (sent.attempt, sent.expires_at) == (2, driven.now + TIMEOUT - 1_000 - waited)


def test_an_attempt_without_time_is_not_queued(cached: bool) -> None:
    """Its time ran out before the next attempt, or with it: nothing is sent that could not be answered in time."""
    driven = queued(cached)
    driven.room()
    driven.no("busy", "failed")

    decision = driven.wait(TIMEOUT)

    assert kinds(decision) == ["CallFailed", "CompensationStarted", "UndoSent"]
    assert commands(decision) == ["compensate first#1"]


def test_what_was_never_sent_is_not_undone(cached: bool) -> None:
    """A cancel finds it queued: it is known not to be done, so only what came before is undone."""
    driven = queued(cached)

    decision = driven.cancel()

    assert kinds(decision) == ["CallFailed", "CompensationStarted", "UndoSent"]
    assert commands(decision) == ["compensate first#1"]
    assert kinds(driven.room(2)) == []
    assert kinds(driven.reply()) == ["CallUndone", "SagaCancelled"]


def test_what_undoes_a_call_waits_for_no_room(cached: bool) -> None:
    """It takes some, until it is answered."""
    late = queued(cached)
    late.room()

    decision = late.cancel()

    assert kinds(decision) == ["CallInDoubt", "CompensationStarted", "UndoSent"]
    assert list(late.state.limited) == [2]
    late.no("not now", "failed")
    assert late.state.limited == {}, "between two attempts it takes none"
    late.wait_until_due()
    late.reply()
    assert late.state.limited == {}


def test_a_held_saga_sends_nothing_that_was_queued(cached: bool) -> None:
    """It keeps its place: released, it waits on."""
    driven = queued(cached)
    driven.pause()

    assert kinds(driven.room()) == []

    driven.resume()
    assert kinds(driven.room()) == ["CallAdmitted"]


@saga("racing")
async def racing(ctx: Context, _: Order) -> str:
    slow = ctx.call(inventory, Reserve("slow"), undo=Release("slow"), limit="narrow")
    name, _found = await ctx.select(slow=slow, late=ctx.sleep(60), cancel_losers=True)
    await ctx.call(payments, Reserve("after"))
    return name


def test_a_queued_loser_is_dropped(cached: bool) -> None:
    driven = Driven(racing, cached=cached)
    driven.start()

    decision = driven.wait(60_000)

    assert kinds(decision) == ["SleepEnded", "UndoStarted", "CallFailed", "UndoEnded", "CallMade"]
    assert commands(decision) == ["forward Reserve#1"]
    driven.reply()
    assert driven.state.status is Status.COMPLETED
    assert driven.state.result == b'"late"'


@saga("pivoting")
async def pivoting(ctx: Context, _: Order) -> None:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    await ctx.call(payments, Reserve("o1"), kind="pivot", limit="narrow", step="pay")
    await ctx.call(inventory, Reserve("o1"), limit="narrow", step="after")


def test_a_queued_pivot_is_no_point_of_no_return(cached: bool) -> None:
    """Until it is sent nobody need wait for its answer; past it, a retriable step is queued as well."""
    driven = Driven(pivoting, cached=cached)
    driven.start()
    driven.reply()
    assert driven.state.pivot is CallStatus.QUEUED
    assert kinds(driven.cancel()) == ["CallFailed", "CompensationStarted", "UndoSent"]

    other = Driven(pivoting, cached=cached)
    other.start()
    other.reply()
    other.room()
    assert kinds(other.cancel()) == ["CancelRequested"]
    assert kinds(other.reply()) == ["CallSucceeded", "CancelRefused", "CallMade", "CallQueued"]
    other.room()
    other.no("try later")
    assert kinds(other.wait_until_due()) == ["AttemptMade", "CallQueued"]
    other.room()
    assert kinds(other.reply()) == ["CallSucceeded", "SagaCompleted"]


@saga("declares-its-pivot")
async def declares_its_pivot(ctx: Context, _: Order) -> None:
    ctx.call(payments, Reserve("o1"), kind="pivot", limit="narrow")
    ctx.pivot()


@saga("tries-a-pivot-twice")
async def tries_a_pivot_twice(ctx: Context, _: Order) -> None:
    async def body() -> None:
        ctx.call(payments, Reserve("o1"), kind="pivot", limit="narrow", step="pay")
        await ctx.call(inventory, Reserve("o1"), undo=Release("o1"), step="reserve")

    await ctx.block(body, attempts=2)


def test_a_queued_pivot_is_one_that_may_go_out(cached: bool) -> None:
    """Another cannot be declared beside it, and a block that begins anew drops it: two would be done."""
    declared = Driven(declares_its_pivot, cached=cached)
    declared.start()
    assert declared.state.hold is Hold.QUARANTINED

    driven = Driven(tries_a_pivot_twice, cached=cached)
    driven.start()
    decision = driven.no()
    assert kinds(decision)[:4] == ["CallRefused", "UndoStarted", "CallFailed", "UndoEnded"]
    driven.wait(0)
    assert [call.made.step for call in driven.state.limited.values()] == ["pay"]


@pytest.mark.parametrize("verb", ["skip", "complete"])
def test_an_operator_says_that_a_queued_step_is_done(cached: bool, verb: str) -> None:
    driven = queued(cached)

    decision = driven.order(verb, payload=b'"by hand"' if verb == "complete" else b"")

    assert kinds(decision) == ["OperatorActed", "CallSucceeded", "SagaCompleted"]


def test_an_operators_retry_goes_past_the_limit(cached: bool) -> None:
    """Somebody wants it now; it takes room like the others."""
    driven = queued(cached)

    decision = driven.order("retry")

    assert (kinds(decision), commands(decision)) == (["OperatorActed", "CallAdmitted"], ["forward Reserve#1"])
    assert list(driven.state.limited) == [2]


@saga("with-child")
async def with_child(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    try:
        found: str = await ctx.child(CHECKOUT, order, returns=str, limit="narrow", attributes={"customer": "c-7"})
    except StepFailed as error:
        raise FailSaga(error.reason) from error
    return found


def test_a_child_under_a_limit_starts_when_there_is_room(cached: bool) -> None:
    driven = Driven(with_child, cached=cached, others=[CHECKOUT])
    driven.start()
    decision = driven.reply()
    assert (kinds(decision), decision.effects) == (["CallSucceeded", "CallMade", "CallQueued"], [])

    driven.room()

    assert driven.child().saga_id == f"{SAGA_ID}.2"
    assert driven.child().attributes == b'{"customer":"c-7"}'
    assert list(driven.state.limited) == [2], "until it has ended"
    assert kinds(driven.child_ended(value="shipped")) == ["CallSucceeded", "SagaCompleted"]
    assert driven.state.limited == {}


def test_a_child_that_never_started_is_not_cancelled(cached: bool) -> None:
    driven = Driven(with_child, cached=cached, others=[CHECKOUT])
    driven.start()
    driven.reply()

    assert kinds(driven.cancel()) == ["CallFailed", "CompensationStarted", "UndoSent"]

    assert driven.children() == []
    assert kinds(driven.reply()) == ["CallUndone", "SagaCancelled"]

    by_hand = Driven(with_child, cached=cached, others=[CHECKOUT])
    by_hand.start()
    by_hand.reply()
    assert kinds(by_hand.order("retry")) == ["OperatorActed", "CallAdmitted"]
    assert len(by_hand.children()) == 1


@saga("asks-wrongly")
async def asks_wrongly(ctx: Context, how: str) -> None:
    match how:
        case "unknown":
            ctx.call(inventory, Reserve("o1"), limit="none such")
        case "child":
            ctx.child(CHECKOUT, None, limit="none such")
        case "detached":
            ctx.child(CHECKOUT, None, detached=True, limit="narrow")
        case "notification":
            ctx.call(inventory, Reserve("o1"), kind="notification", limit="narrow")
        case "priority":
            ctx.call(inventory, Reserve("o1"), priority=3)
        case _:
            ctx.call(inventory, Reserve("o1"), limit="narrow", priority=0.5)  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("unknown", "call: expected a limit of this application (narrow, wide), got 'none such'"),
        ("child", "child: expected a limit of this application (narrow, wide), got 'none such'"),
        ("detached", "child: expected no limit where nobody waits for an answer"),
        ("notification", "call: expected no limit where nobody waits for an answer"),
        ("priority", "expected a limit with the priority 3"),
        ("float", "expected a whole number up to 1000000 as priority, got 0.5"),
    ],
)
def test_what_cannot_be_asked_for_holds_the_saga(cached: bool, how: str, said: str) -> None:
    """With what was expected and got."""
    driven = Driven(asks_wrongly, cached=cached, others=[CHECKOUT])

    driven.start(how)

    assert said in driven.state.hold_reason


def test_a_limit_may_come_and_go_in_the_code(cached: bool) -> None:
    """It is not compared: a saga that is under way goes on with new code, queued or not."""

    @saga("limited")
    async def without(ctx: Context, order: Order) -> str:
        await ctx.call(payments, Reserve("o0"), undo=Release("o0"), step="first")
        found: str = await ctx.call(inventory, Reserve(order.order_id), undo=Release("o1"), returns=str)
        return found

    driven = queued(cached)
    driven.deploy(without)
    driven.room()
    assert kinds(driven.reply(value="x")) == ["CallSucceeded", "SagaCompleted"]

    back = Driven(without, cached=cached)
    back.start()
    back.reply()
    back.deploy(limited)
    assert kinds(back.reply(value="x")) == ["CallSucceeded", "SagaCompleted"]
