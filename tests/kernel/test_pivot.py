"""Stories of the pivot: never given up, never undone, and only forward after it."""

import pytest

from kompensate.orchestrator import Context, FailSaga, Policy, RetryPolicy, Saga, Step, saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.policy import DEFAULT_POLICIES
from kompensate.orchestrator.kernel.tables import Hold
from tests.fixtures.driving import (
    Charge,
    Confirm,
    Driven,
    Order,
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


def test_a_refused_pivot_turns_back() -> None:
    """The pivot's no is a definite answer: what was done before is undone."""
    driven = Driven()
    driven.start()
    driven.reply()
    driven.reply()

    decision = driven.no("no such address")

    assert kinds(decision) == ["CallRefused", "CompensationStarted", "UndoSent"]
    assert commands(decision) == ["compensate charge#1"]


def test_the_pivot_is_never_given_up() -> None:
    """A pivot without an answer is sent again for ever: no deadline, no doubt."""
    driven = Driven()
    driven.start()
    driven.reply()
    driven.reply()
    ids = {driven.sent[-1].id}

    for _ in range(20):
        decision = driven.wait_until_due()
        assert kinds(decision) == ["CommandResent"]
        ids |= {command.id for command in sends(decision)}

    assert len(ids) == 1
    assert driven.sent[-1].expires_at is None


def test_a_pivot_past_its_limit_is_held() -> None:
    """A pivot with a time-out is held when it passes, and has its whole time again when it is released."""
    definition = Saga("limited", Order, [Step("ship", shipping, Ship, kind="pivot", timeout=20, resend_after=60)])
    driven = Driven(definition)
    driven.start()

    decision = driven.wait(20_000)
    assert kinds(decision) == ["SagaQuarantined"]
    assert driven.state.hold_reason == "pivot step 'ship': expected an answer within 20000 ms, got none"
    driven.now += 5_000
    assert kinds(driven.resume()) == ["SagaResumed"]
    assert driven.state.next_due() == driven.now + 20_000
    assert kinds(driven.reply()) == ["CallSucceeded", "SagaCompleted"]


@pytest.mark.parametrize("outcome", ["refused", "failed", "expired"])
def test_past_the_pivot_it_only_goes_forward(outcome: str) -> None:
    """Whatever a retriable step answers, a new attempt goes out, with no limit by default."""
    driven = Driven()
    driven.start()
    for _ in range(3):
        driven.reply()

    for attempt in range(2, 30):
        assert kinds(driven.no(outcome=outcome)) == ["AttemptFailed"]
        assert commands(driven.wait_until_due()) == [f"forward confirm#{attempt}"]

    assert kinds(driven.reply()) == ["CallSucceeded", "SagaCompleted"]


def test_a_retriable_step_with_a_limit_is_held_at_it() -> None:
    """Past its attempts a retriable step holds the saga; each release gives it one more."""
    steps = [
        Step("ship", shipping, Ship, kind="pivot"),
        Step("confirm", inventory, Confirm, kind="retriable", retry=RetryPolicy(maximum_attempts=2)),
    ]
    driven = Driven(Saga("limited", Order, steps))
    driven.start()
    driven.reply()
    driven.no(outcome="failed")
    driven.wait_until_due()

    for attempt in (3, 4):
        assert kinds(driven.no("still broken")) == ["AttemptFailed", "SagaQuarantined"]
        assert "expected done within 2 attempts, got refused" in driven.state.hold_reason
        assert driven.state.next_due() is None
        assert kinds(driven.resume()) == ["SagaResumed"]
        assert commands(driven.wait_until_due()) == [f"forward confirm#{attempt}"]

    assert driven.reply().events[-1] == e.SagaCompleted(b"null")


@saga("two-pivots")
async def two_pivots(ctx: Context, order: Order) -> None:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    await ctx.call(shipping, Ship("o1"), kind="pivot")
    await ctx.call(shipping, Ship("o2"), kind="pivot", step="ship again")


def test_a_second_pivot_is_past_the_first() -> None:
    """Past the pivot every call is retriable, another pivot too: its refusal undoes nothing."""
    driven = Driven(two_pivots)
    driven.start()
    driven.reply()
    driven.reply()

    assert driven.state.calls[3].made.kind == "retriable"
    assert kinds(driven.no()) == ["AttemptFailed"]


@saga("pivots-at-once")
async def pivots_at_once(ctx: Context, order: Order) -> None:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    first = ctx.call(shipping, Ship("o1"), kind="pivot", step="first")
    ctx.call(payments, Charge("o1"), kind="pivot", step="second")
    await first


def test_a_pivot_that_is_out_forbids_turning_back() -> None:
    """While one pivot is out, another's refusal waits for its answer; done, the saga is held."""
    driven = Driven(pivots_at_once)
    driven.start()
    driven.reply()

    assert kinds(driven.no(command=driven.command("first"))) == ["CallRefused"]
    assert kinds(driven.wait_until_due()) == ["CommandResent"]
    assert kinds(driven.reply(driven.command("second"))) == ["CallSucceeded", "SagaQuarantined"]
    assert "expected to go forward only" in driven.state.hold_reason


def test_a_refusal_of_the_last_pivot_out_turns_back() -> None:
    """When no pivot was done in the end, the saga turns back as it wanted to."""
    driven = Driven(pivots_at_once)
    driven.start()
    driven.reply()
    driven.no(command=driven.command("first"))

    decision = driven.no(command=driven.command("second"))

    assert kinds(decision) == ["CallRefused", "CompensationStarted", "UndoSent"]


@saga("failing")
async def failing(ctx: Context, order: Order) -> None:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    ctx.call(shipping, Ship("o1"), kind="pivot")
    await ctx.sleep(1)
    raise FailSaga("nobody wants it")


def test_failing_while_the_pivot_is_out_waits_for_it() -> None:
    """A saga that wants to fail turns back only once the pivot was refused; meanwhile it is sent again."""
    for cached in (True, False):
        driven = Driven(failing, cached=cached)
        driven.start()
        assert kinds(driven.reply()) == ["CallSucceeded", "CallMade", "SleepStarted"]
        assert kinds(driven.wait_until_due()) == ["SleepEnded"]
        assert kinds(driven.wait_until_due()) == ["CommandResent"]

        decision = driven.no()

        assert kinds(decision) == ["CallRefused", "CompensationStarted", "UndoSent"]
        assert kinds(driven.reply()) == ["CallUndone", "SagaFailed"]


@saga("unsaid")
async def unsaid(ctx: Context, order: Order) -> None:
    await ctx.call(shipping, Ship("o1"), kind="pivot")
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    await ctx.call(inventory, Reserve("o2"), undo=Release("o1"), policy=Policy(attempts=5))


def test_past_the_pivot_a_call_is_retriable_with_a_retriable_policy() -> None:
    """A plain call past the pivot has no undo and is tried for ever, unless its policy was given."""
    driven = Driven(unsaid)
    driven.start()
    driven.reply()
    driven.reply()

    second, third = (driven.state.calls[n].made for n in (2, 3))
    assert (second.kind, second.undo_type, second.policy) == ("retriable", None, DEFAULT_POLICIES["retriable"])
    assert (third.kind, third.policy.attempts) == ("retriable", 5)
    assert driven.state.hold is not Hold.QUARANTINED


@saga("twice")
async def twice(ctx: Context, order: Order) -> None:
    shipped = ctx.call(shipping, Ship("o1"), kind="pivot")
    ctx.pivot()
    await ctx.receive("never")
    await shipped


def test_what_is_asked_for_after_a_mistake_is_not_recorded() -> None:
    """The saga is held at the mistake, and its history is whole."""
    driven = Driven(twice)

    assert kinds(driven.start()) == ["SagaStarted", "CallMade", "SagaQuarantined"]
    assert "expected no pivot step to be out" in driven.state.hold_reason


@saga("in-one-stretch")
async def in_one_stretch(ctx: Context, order: Order) -> str:
    held = ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    charged = ctx.call(payments, Charge("o1"), kind="pivot")
    if order.order_id == "undo":
        await held
        ctx.undo(held)
    else:
        ctx.pivot()
    ctx.publish("progress", "charged")
    await charged
    return "charged"


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])
@pytest.mark.parametrize("what", ["undo", "pivot"])
def test_what_follows_a_refused_operation_waits_with_it(cached: bool, what: str) -> None:
    """In one stretch: the saga is held where it cannot go on while a pivot is out; the rest is not recorded."""
    driven = Driven(in_one_stretch, cached=cached)
    driven.start(Order(what))
    driven.reply(driven.command("Reserve"))

    assert driven.state.hold is Hold.QUARANTINED
    assert driven.state.operations == 2
    assert driven.state.published == {}

    driven.reply(driven.command("Charge"))
    released = kinds(driven.resume())
    if what == "pivot":
        assert released == ["SagaResumed", "PivotPassed", "ValuePublished", "SagaCompleted"]
    else:
        assert released == ["SagaResumed", "SagaQuarantined"]
        assert "expected to go forward only" in driven.state.hold_reason
