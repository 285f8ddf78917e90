"""A parent that turns back, and its child that ends before, while or after its cancel travels, in every mode."""

from collections.abc import Callable

import pytest

from kompensate.orchestrator import Application, Context, StepRefused, saga
from kompensate.orchestrator.testing import SagaTest, done, late, refused
from tests.fixtures.driving import Charge, Order, Refund, Release, Reserve, inventory, payments


@saga("kid")
async def kid(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve(order.order_id), undo=Release(order.order_id))
    return "packed"


@saga("asking")
async def asking(ctx: Context, order: Order) -> None:
    await ctx.gather(
        ctx.child(kid, order, on_close="request_cancel"),
        ctx.call(payments, Charge(order.order_id), undo=Refund(order.order_id)),
    )


@saga("cancelling")
async def cancelling(ctx: Context, order: Order) -> None:
    await ctx.gather(ctx.child(kid, order), ctx.call(payments, Charge(order.order_id), undo=Refund(order.order_id)))


@saga("recalling")
async def recalling(ctx: Context, order: Order) -> None:
    """Registered before the child: it runs whenever the child completed."""
    ctx.compensate(payments, Refund("recalled"))
    await ctx.gather(ctx.child(kid, order), ctx.call(payments, Charge(order.order_id), undo=Refund(order.order_id)))


@saga("trying")
async def trying(ctx: Context, order: Order) -> str:
    async def packed_and_paid() -> None:
        ctx.compensate(payments, Refund("recalled"))
        await ctx.child(kid, order)
        await ctx.call(payments, Charge(order.order_id), undo=Refund(order.order_id))

    try:
        await ctx.block(packed_and_paid, attempts=2)
    except StepRefused:
        return "given up"
    return "packed"


APP = Application("shop", [kid, asking, cancelling, recalling, trying], services=[inventory, payments])


@pytest.fixture
def shop(saga_test: Callable[..., SagaTest]) -> SagaTest:
    return saga_test(APP)


@pytest.mark.parametrize("packing", [0, 1, 5])
@pytest.mark.parametrize("charging", [0, 1, 2, 5, 6])
@pytest.mark.parametrize("name", ["asking", "cancelling", "recalling"])
def test_a_child_that_completed_stands_whenever_it_did(shop: SagaTest, name: str, packing: int, charging: int) -> None:
    """Before its parent turned back or while its cancel travelled: nobody is held or stuck, and the history says so."""
    shop.on(Reserve, late(packing, done()))
    shop.on(Charge, late(charging, refused("no")))
    found = shop.start(name, Order("o1"), saga_id="o1")

    shop.run()

    found.assert_compensated()
    child = next(shop.saga(id_) for id_ in shop.saga_ids if id_ != "o1")
    stands = child.status == "completed"
    assert stands or child.status == "cancelled"
    assert ("kid" in found.done, "kid" in found.undone) == (stands, not stands)
    assert child.undone == ([] if stands else ["Reserve"])
    raced = stands and "CallInDoubt" in found.events
    assert ("completed before its cancel came: it stands" in found.story) == raced
    assert found.messages(Refund) == ([Refund("recalled")] if name == "recalling" else [])


def test_a_block_has_its_completed_child_undone_by_what_was_registered(shop: SagaTest) -> None:
    """Once for each attempt."""
    shop.on(Charge, refused("no"))
    found = shop.start(trying, Order("o1"), saga_id="o1")

    shop.run()

    found.assert_completed("given up")
    assert [shop.saga(id_).status for id_ in shop.saga_ids] == ["completed"] * 3
    assert found.messages(Refund) == [Refund("recalled")] * 2
