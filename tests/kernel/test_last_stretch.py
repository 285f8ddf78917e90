"""What a program asks for after its last wait and before it raises: recorded, unless it would have to be sent."""

from collections.abc import Callable
from typing import Any

import pytest

from kompensate.orchestrator import Context, FailSaga, StepRefused, saga
from kompensate.orchestrator.definitions.saga import AsyncSaga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.replay import replayed
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.kernel.tables import Hold, Status
from tests.fixtures.driving import (
    APP,
    RUN,
    SAGA_ID,
    Charge,
    Driven,
    Order,
    Refund,
    Release,
    Reserve,
    inventory,
    kinds,
    payments,
    shipping,
)

pytestmark = pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])


def note(number: int) -> int:
    return number


def refused_at(last: Callable[[Context], Any]) -> AsyncSaga:
    """A saga that does this when its only call was refused, and turns back."""

    @saga("last")
    async def found(ctx: Context, order: Order) -> None:
        try:
            await ctx.call(inventory, Reserve(order.order_id))
        except StepRefused:
            last(ctx)
            raise

    return found


@pytest.mark.parametrize(
    ("last", "recorded"),
    [
        (lambda ctx: ctx.publish("seen", 1), ["ValuePublished"]),
        (lambda ctx: ctx.set_attributes(seen=1), ["AttributesSet"]),
        (lambda ctx: ctx.patched("new"), ["PatchMarked"]),
        (lambda ctx: ctx.call(payments, Charge("o1"), kind="notification"), ["CallMade", "CallSucceeded"]),
        (lambda ctx: ctx.sleep(1), ["SleepStarted"]),
    ],
    ids=["publish", "attributes", "patch", "notification", "sleep"],
)
def test_it_is_recorded(cached: bool, last: Callable[[Context], Any], recorded: list[str]) -> None:
    driven = Driven(refused_at(last), cached=cached)
    driven.start()

    assert kinds(driven.no()) == ["CallRefused", *recorded, "CompensationStarted", "SagaCompensated"]


def test_a_compensation_is_run(cached: bool) -> None:
    """A participant's and a function, the one registered last first."""

    def last(ctx: Context) -> None:
        ctx.compensate(inventory, Release("o1"))
        ctx.compensate(note, 7)

    driven = Driven(refused_at(last), cached=cached)
    driven.start()

    driven.no()
    assert driven.work().work.args == (7,)
    driven.execute()
    assert driven.sent[-1].type == "inventory.Release"
    driven.reply()
    assert driven.state.status is Status.COMPENSATED


def test_before_the_first_wait(cached: bool) -> None:
    @saga("at-once")
    async def at_once(ctx: Context, order: Order) -> None:
        ctx.compensate(inventory, Release(order.order_id))
        raise FailSaga("at once")

    driven = Driven(at_once, cached=cached)
    driven.start()
    driven.reply()

    assert [c.type for c in driven.sent] == ["inventory.Release"]
    assert driven.state.status is Status.FAILED


def test_up_to_a_call_that_is_not_sent(cached: bool) -> None:
    """Nobody would wait for it; what comes after it would have its number."""

    def last(ctx: Context) -> None:
        ctx.publish("before", 1)
        ctx.call(payments, Charge("o1"), undo=Refund("o1"))
        ctx.publish("after", 2)

    driven = Driven(refused_at(last), cached=cached)
    driven.start()
    driven.no()

    assert driven.state.published == {"before": b"1"}
    assert [c.type for c in driven.sent] == ["inventory.Reserve"]


def test_a_pivot_and_then_a_failure_holds(cached: bool) -> None:
    """The point of no return was passed: there is no way back."""
    driven = Driven(refused_at(lambda ctx: ctx.pivot()), cached=cached)
    driven.start()

    assert kinds(driven.no()) == ["CallRefused", "PivotPassed", "SagaQuarantined"]
    assert kinds(driven.resume()) == ["SagaResumed", "SagaQuarantined"]


def test_a_history_without_it_is_still_right(cached: bool) -> None:
    """As they were written before: what is not recorded of a saga that turned back is nobody's business."""
    definition = refused_at(lambda ctx: ctx.publish("seen", 1))
    driven = Driven(definition, cached=cached)
    driven.start()
    driven.no()
    old = [(event, time) for event, time in driven.history if not isinstance(event, e.ValuePublished)]

    for history in (driven.history, old):
        assert driven.execution.definition is not None
        replayed(driven.execution.definition, SagaState(APP, SAGA_ID, RUN), history)


@saga("losers")
async def losers(ctx: Context, order: Order) -> None:
    asked = [ctx.call(service, Reserve(order.order_id), undo=Release("o1")) for service in (inventory, payments)]
    try:
        await ctx.at_least(2, *asked, cancel_losers=True)
    except StepRefused:
        ctx.compensate(shipping, Release("o1"))
        raise


def test_after_losers(cached: bool) -> None:
    """They are undone at once, and the compensation that was registered then too."""
    driven = Driven(losers, cached=cached)
    driven.start()
    driven.no(command=driven.sent[0])
    assert driven.sent[-1].type == "payments.Release"
    driven.reply()
    assert driven.sent[-1].type == "shipping.Release"
    driven.reply()

    assert driven.state.status is Status.COMPENSATED


@saga("pivoting")
async def pivoting(ctx: Context, order: Order) -> None:
    ctx.call(shipping, Reserve(order.order_id), kind="pivot")
    try:
        await ctx.call(inventory, Reserve(order.order_id))
    except StepRefused:
        ctx.compensate(inventory, Release("o1"))
        raise


def test_while_the_pivot_is_out(cached: bool) -> None:
    """It is known only then whether the saga turns back: refused, it does."""
    driven = Driven(pivoting, cached=cached)
    driven.start()
    pivot = driven.sent[0]
    assert kinds(driven.no(command=driven.sent[1])) == ["CallRefused"]

    assert kinds(driven.no(command=pivot)) == [
        "CallRefused",
        "CallMade",
        "CallSucceeded",
        "CompensationStarted",
        "UndoSent",
    ]


def test_while_a_pivot_is_out_that_is_done(cached: bool) -> None:
    """It is held, and nothing of the last stretch is recorded: mended code may do something else."""
    driven = Driven(pivoting, cached=cached)
    driven.start()
    pivot = driven.sent[0]
    driven.no(command=driven.sent[1])

    assert kinds(driven.reply(pivot)) == ["CallSucceeded", "SagaQuarantined"]
    assert driven.state.hold is Hold.QUARANTINED
