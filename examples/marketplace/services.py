"""The three services, each with a database of its own.

    kompensate participant examples.marketplace.services:inventory --dsn postgresql://…/inventory

`movement`, `change` and `parcel` have a row for each effect, and no constraint that would stop one from being booked
twice: that the inbox does.
"""

from sqlalchemy import Connection, text

from examples.marketplace.contracts import (
    Cancel,
    Create,
    HandOver,
    MarkDispatched,
    MarkPaid,
    Pack,
    Packed,
    Release,
    Reserve,
)
from kompensate.participants import Participant, Refused

inventory, orders, warehouse = Participant("inventory"), Participant("orders"), Participant("warehouse")
TABLES = {
    "inventory": (
        "CREATE TABLE stock (sku text PRIMARY KEY, available int NOT NULL, reserved int NOT NULL)",
        "CREATE TABLE movement (order_id text NOT NULL, kind text NOT NULL, quantity int NOT NULL)",
        "INSERT INTO stock VALUES ('lamp', 10, 0)",
    ),
    "orders": (
        "CREATE TABLE purchase (order_id text PRIMARY KEY, cents bigint NOT NULL, status text NOT NULL)",
        "CREATE TABLE change (order_id text NOT NULL, status text NOT NULL, what text NOT NULL)",
    ),
    "warehouse": ("CREATE TABLE parcel (parcel text NOT NULL, sku text NOT NULL, quantity int NOT NULL)",),
}


def create(connection: Connection, service: str) -> None:
    """Make that service's tables; there are ten lamps. The caller commits."""
    for statement in TABLES[service]:
        connection.execute(text(statement))


@inventory.handles
def reserve(command: Reserve, connection: Connection) -> None:
    _move(connection, "reserve", command, -command.quantity, command.quantity)


@inventory.handles
def release(command: Release, connection: Connection) -> None:
    _move(connection, "release", command, command.quantity, -command.quantity)


@inventory.handles
def hand_over(command: HandOver, connection: Connection) -> None:
    _move(connection, "hand over", command, 0, -command.quantity)


def _move(
    connection: Connection, kind: str, command: Reserve | Release | HandOver, available: int, reserved: int
) -> None:
    moved = connection.execute(
        text(
            "UPDATE stock SET available = available + :available, reserved = reserved + :reserved"
            " WHERE sku = :sku AND available + :available >= 0"
        ),
        {"sku": command.sku, "available": available, "reserved": reserved},
    )
    if moved.rowcount == 0:
        raise Refused("out of stock", sku=command.sku)
    row = {"order_id": command.order_id, "kind": kind, "quantity": command.quantity}
    connection.execute(text("INSERT INTO movement VALUES (:order_id, :kind, :quantity)"), row)


@orders.handles
def create_order(command: Create, connection: Connection) -> None:
    row = {"order_id": command.order_id, "cents": command.cents}
    connection.execute(text("INSERT INTO purchase VALUES (:order_id, :cents, 'PENDING')"), row)
    _change(connection, command.order_id, "PENDING")


@orders.handles
def cancel(command: Cancel, connection: Connection) -> None:
    _change(connection, command.order_id, "CANCELLED")


@orders.handles
def mark_paid(command: MarkPaid, connection: Connection) -> None:
    _change(connection, command.order_id, "PAID", command.payment_id)


@orders.handles
def mark_dispatched(command: MarkDispatched, connection: Connection) -> None:
    _change(connection, command.order_id, "DISPATCHED", command.parcel)


def _change(connection: Connection, order_id: str, status: str, what: str = "") -> None:
    row = {"order_id": order_id, "status": status, "what": what}
    connection.execute(text("UPDATE purchase SET status = :status WHERE order_id = :order_id"), row)
    connection.execute(text("INSERT INTO change VALUES (:order_id, :status, :what)"), row)


@warehouse.handles
def pack(command: Pack, connection: Connection) -> Packed:
    parcel = f"parcel-{command.order_id}"
    row = {"parcel": parcel, "sku": command.sku, "quantity": command.quantity}
    connection.execute(text("INSERT INTO parcel VALUES (:parcel, :sku, :quantity)"), row)
    return Packed(parcel)
