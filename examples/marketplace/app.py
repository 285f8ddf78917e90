"""A checkout that waits a minute for the customer's payment, and a dispatch that is a saga of its own.

kompensate worker --app examples.marketplace.app:app
"""

from examples.marketplace.contracts import (
    Cancel,
    Create,
    HandOver,
    MarkDispatched,
    MarkPaid,
    Order,
    Pack,
    Packed,
    Payment,
    Release,
    Reserve,
)
from kompensate.orchestrator import Application, Context, FailSaga, Service, saga

inventory, orders, warehouse = Service("inventory"), Service("orders"), Service("warehouse")
PAYMENT_SECONDS = 60


@saga("purchase")
async def purchase(ctx: Context, order: Order) -> str:
    """The parcel's number. Not paid in time, the order is cancelled and the goods are released."""
    id_, sku, quantity = order.order_id, order.sku, order.quantity
    await ctx.call(inventory, Reserve(id_, sku, quantity), undo=Release(id_, sku, quantity))
    await ctx.call(orders, Create(id_, order.cents), undo=Cancel(id_))
    ctx.publish("status", "waits for payment")
    try:
        payment = await ctx.receive("payment", timeout=PAYMENT_SECONDS, type=Payment)
    except TimeoutError:
        ctx.publish("status", "cancelled")
        raise FailSaga(f"not paid within {PAYMENT_SECONDS} seconds") from None
    if not payment.paid:
        ctx.publish("status", "cancelled")
        raise FailSaga("payment failed")
    ctx.pivot()  # the customer has paid: from here it only goes forward
    await ctx.call(orders, MarkPaid(id_, payment.payment_id))
    ctx.publish("status", "paid")
    parcel = await ctx.child(dispatch, order, returns=str)
    ctx.publish("status", "dispatched")
    return str(parcel)


@saga("dispatch")
async def dispatch(ctx: Context, order: Order) -> str:
    """What is paid for leaves: every call is tried until it is done."""
    ctx.pivot()
    packed = await ctx.call(warehouse, Pack(order.order_id, order.sku, order.quantity), returns=Packed)
    await ctx.gather(
        ctx.call(inventory, HandOver(order.order_id, order.sku, order.quantity)),
        ctx.call(orders, MarkDispatched(order.order_id, packed.parcel)),
    )
    return str(packed.parcel)


app = Application("market", [purchase, dispatch], services=[inventory, orders, warehouse], partitions=2)
