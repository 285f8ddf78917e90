"""The orders service: takes orders from customers, and says what became of them.

    kompensate participant examples.food.orders:orders --dsn postgresql://…/orders

`place` is for its front (web.py): the order's row and the event that it was placed commit together. `receipt_job` is
the queue of receipts.py: a delivered order and the job to make its receipt commit together, too.
"""

from sqlalchemy import Connection, text

from examples.food.contracts import Cancel, Deliver, OrderCancelled, OrderDelivered, OrderPlaced
from examples.food.topic import ORDER_EVENTS
from kompensate.participants import Call, Participant

orders = Participant("orders", publishes=[ORDER_EVENTS])
TABLES = (
    """CREATE TABLE customer_order (order_id text PRIMARY KEY, customer text NOT NULL, dish text NOT NULL,
       area text NOT NULL, cents bigint NOT NULL, status text NOT NULL DEFAULT 'PLACED')""",
    "CREATE TABLE change (order_id text NOT NULL, status text NOT NULL)",
    "CREATE TABLE receipt_job (order_id text PRIMARY KEY, wanted_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP)",
    "CREATE TABLE receipt (order_id text PRIMARY KEY, cents bigint NOT NULL)",
)
PLACE = text(
    "INSERT INTO customer_order (order_id, customer, dish, area, cents)"
    " VALUES (:order_id, :customer, :dish, :area, :cents) ON CONFLICT DO NOTHING"
)


def create(connection: Connection) -> None:
    """Make the tables. The caller commits."""
    for table in TABLES:
        connection.execute(text(table))


def place(connection: Connection, order: OrderPlaced) -> bool:
    """Keep the order and tell of it; False, and nothing told, where it was placed before. The caller commits."""
    row = {name: getattr(order, name) for name in ("order_id", "customer", "dish", "area", "cents")}
    if connection.execute(PLACE, row).rowcount == 0:
        return False
    ORDER_EVENTS.publish(connection, order, key=order.order_id)
    return True


@orders.handles
def deliver(command: Deliver, connection: Connection, call: Call) -> None:
    customer, cents = _change(connection, command.order_id, "DELIVERED")
    connection.execute(text("INSERT INTO receipt_job (order_id) VALUES (:id)"), {"id": command.order_id})
    delivered = OrderDelivered(command.order_id, customer, cents)
    ORDER_EVENTS.publish(connection, delivered, key=command.order_id, call=call)


@orders.handles
def cancel(command: Cancel, connection: Connection, call: Call) -> None:
    _change(connection, command.order_id, "CANCELLED")
    ORDER_EVENTS.publish(connection, OrderCancelled(command.order_id), key=command.order_id, call=call)


def _change(connection: Connection, order_id: str, status: str) -> tuple[str, int]:
    """Whose order it is, and what it costs."""
    row = {"id": order_id, "status": status}
    connection.execute(text("INSERT INTO change VALUES (:id, :status)"), row)
    changed = text("UPDATE customer_order SET status = :status WHERE order_id = :id RETURNING customer, cents")
    customer, cents = connection.execute(changed, row).one()
    return customer, cents
