"""Food delivery: an order that a customer has placed is cooked, paid and brought, or all of it is undone.

    kompensate intake --app examples.food.app:app --begin earliest
    kompensate worker --app examples.food.app:app

Nobody asks for the saga: the orders service tells that an order was placed, and each such event starts one.
"""

from examples.food.contracts import Abandon, Accept, Assign, Assigned, Cancel, Charge, Deliver, OrderPlaced, Refund
from examples.food.topic import ORDER_EVENTS
from kompensate.orchestrator import Application, Context, FromTopic, Incoming, Service, saga

orders, restaurant = Service("orders"), Service("restaurant")
payments, couriers = Service("payments"), Service("couriers")


@saga("delivery")
async def delivery(ctx: Context, order: OrderPlaced) -> str:
    """Who brought it."""
    id_, customer, cents = order.order_id, order.customer, order.cents
    ctx.compensate(orders, Cancel(id_))  # whatever goes wrong before the pivot, the customer is told last
    await ctx.call(restaurant, Accept(id_, order.dish), undo=Abandon(id_))
    await ctx.call(payments, Charge(id_, customer, cents), undo=Refund(id_, customer, cents))
    assigned = await ctx.call(couriers, Assign(id_, order.area), returns=Assigned, kind="pivot")
    await ctx.call(orders, Deliver(id_, assigned.courier))
    return str(assigned.courier)


def is_placed(record: Incoming) -> bool:
    """The topic tells of deliveries and cancellations, too."""
    return record.headers["ce_type"] == b"orders.OrderPlaced"


def order_id(record: Incoming) -> str:
    """The saga has the order's id: an event that is told twice starts one."""
    return str(record.value.order_id)


app = Application(
    "food",
    [delivery],
    services=[orders, restaurant, payments, couriers],
    partitions=2,
    intake=[FromTopic(ORDER_EVENTS.name, start="delivery", when=is_placed, type=OrderPlaced, saga_id=order_id)],
)
