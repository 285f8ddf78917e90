"""A parent that turns back, and its child that ends before, while or after its cancel travels, in every mode."""

from collections.abc import Callable

import pytest

from kompensate.orchestrator import Application, Context, saga
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


@saga("paying")
async def paying(ctx: Context, order: Order) -> None:
    await ctx.call(payments, Charge(order.order_id), kind="pivot")


@saga("dropping")
async def dropping(ctx: Context, order: Order) -> None:
    await ctx.select(go=ctx.receive("go"), kid=ctx.child(paying, order), cancel_losers=True)
    await ctx.call(inventory, Reserve(order.order_id), undo=Release(order.order_id))


APP = Application("shop", [kid, asking, paying, dropping], services=[inventory, payments])


@pytest.fixture
def shop(saga_test: Callable[..., SagaTest]) -> SagaTest:
    return saga_test(APP)


@pytest.mark.parametrize("packing", [0, 1, 5])
@pytest.mark.parametrize("charging", [0, 1, 2, 5, 6])
def test_a_parent_is_not_stuck_whenever_its_child_ends(shop: SagaTest, packing: int, charging: int) -> None:
    shop.on(Reserve, late(packing, done()))
    shop.on(Charge, late(charging, refused("no")))
    found = shop.start(asking, Order("o1"), saga_id="o1")

    shop.run()

    found.assert_compensated()


@pytest.mark.parametrize("verb", ["cancel", "compensate", "resume"])
def test_a_parent_that_turns_back_from_a_hold_is_not_stuck(shop: SagaTest, verb: str) -> None:
    shop.on(Charge, late(10, done()))
    found = shop.start(dropping, Order("o1"), saga_id="o1")
    found.signal("go", None, delay=5)
    shop.advance(50)
    found.assert_held("past its pivot")

    getattr(found, verb)()
    shop.run()

    found.assert_held("past its pivot")
