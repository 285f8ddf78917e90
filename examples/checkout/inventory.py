"""The inventory service: discs are available, reserved, or sold.

    kompensate participant examples.checkout.inventory:inventory --dsn postgresql://…/inventory

Its database holds one row a title and one movement for each effect. No constraint here stops a movement from
being booked twice: that the inbox does, and the demo's checker looks.
"""

from collections.abc import Iterable

from sqlalchemy import BigInteger, CheckConstraint, Connection, Integer, String, bindparam, insert, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from examples.checkout.contracts import Confirm, Release, Reserve
from kompensate.participants import Call, Participant, Refused

inventory = Participant("inventory")


class Base(DeclarativeBase):
    """This service's tables."""


class Stock(Base):
    """A title's discs."""

    __tablename__ = "stock"
    __table_args__ = (CheckConstraint("available >= 0 AND reserved >= 0 AND sold >= 0"),)

    sku: Mapped[str] = mapped_column(primary_key=True)
    available: Mapped[int]
    reserved: Mapped[int] = mapped_column(default=0)
    sold: Mapped[int] = mapped_column(default=0)


class Movement(Base):
    """One effect on a title's discs: reserve, release or sell."""

    __tablename__ = "movement"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    command_id: Mapped[str]
    order_id: Mapped[str]
    kind: Mapped[str]
    sku: Mapped[str]
    quantity: Mapped[int]


def create(connection: Connection, stock: Iterable[tuple[str, int]]) -> None:
    """Make the tables and fill the shelves: (sku, discs). The caller commits."""
    Base.metadata.create_all(connection)
    connection.execute(insert(Stock), [{"sku": sku, "available": discs} for sku, discs in stock])


# Statements are built once: building them costs as much as PostgreSQL takes to execute them.
_TITLE, _DISCS = bindparam("title", type_=String()), bindparam("discs", type_=Integer())
TAKE = (
    update(Stock)
    .where(Stock.sku == _TITLE, Stock.available >= _DISCS)
    .values(available=Stock.available - _DISCS, reserved=Stock.reserved + _DISCS)
    .returning(Stock.sku)
)
PUT_BACK = (
    update(Stock)
    .where(Stock.sku == _TITLE)
    .values(available=Stock.available + _DISCS, reserved=Stock.reserved - _DISCS)
)
SELL = update(Stock).where(Stock.sku == _TITLE).values(reserved=Stock.reserved - _DISCS, sold=Stock.sold + _DISCS)
BOOK = insert(Movement)


@inventory.handles
def reserve(command: Reserve, connection: Connection, call: Call) -> None:
    """Put discs aside for an order, or refuse."""
    if connection.scalar(TAKE, {"title": command.sku, "discs": command.quantity}) is None:
        raise Refused("out of stock", sku=command.sku)
    _book(connection, call, "reserve", command)


@inventory.handles
def release(command: Release, connection: Connection, call: Call) -> None:
    """Undo a reservation."""
    connection.execute(PUT_BACK, {"title": command.sku, "discs": command.quantity})
    _book(connection, call, "release", command)


@inventory.handles
def confirm(command: Confirm, connection: Connection, call: Call) -> None:
    """Turn a reservation into a sale."""
    connection.execute(SELL, {"title": command.sku, "discs": command.quantity})
    _book(connection, call, "sell", command)


def _book(connection: Connection, call: Call, kind: str, command: Reserve | Release | Confirm) -> None:
    connection.execute(
        BOOK,
        {
            "command_id": call.id,
            "order_id": command.order_id,
            "kind": kind,
            "sku": command.sku,
            "quantity": command.quantity,
        },
    )
