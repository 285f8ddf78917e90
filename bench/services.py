"""The bench's participants: three services, each command one UPDATE of a row in the service's own database."""

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from bench.sagas import Charge, Confirm, Refund, Release, Reserve, Ship
from kompensate.participants import Participant

ROWS = 1_000
_UPDATE = text("UPDATE booked SET amount = amount + :amount, commands = commands + 1 WHERE id = :id")

inventory, payments, shipping = Participant("inventory"), Participant("payments"), Participant("shipping")
ALL = (inventory, payments, shipping)


def create(connection: Connection) -> None:
    """Make one service's table. The caller commits."""
    connection.execute(
        text("CREATE TABLE booked (id int PRIMARY KEY, amount bigint NOT NULL, commands bigint NOT NULL)")
    )
    connection.execute(text("INSERT INTO booked SELECT n, 0, 0 FROM generate_series(0, :rows - 1) n"), {"rows": ROWS})


def commands(connection: Connection) -> int:
    """How many commands took effect in this service's database."""
    return int(connection.execute(text("SELECT sum(commands) FROM booked")).scalar_one())


def _book(session: Session, order_id: str, amount: int) -> None:
    number = int(order_id.rpartition("-")[2])
    session.execute(_UPDATE, {"id": number % ROWS, "amount": amount})


@inventory.handles
def reserve(command: Reserve, session: Session) -> None:
    _book(session, command.order_id, command.quantity)


@inventory.handles
def release(command: Release, session: Session) -> None:
    _book(session, command.order_id, -command.quantity)


@inventory.handles
def confirm(command: Confirm, session: Session) -> None:
    _book(session, command.order_id, command.quantity)


@payments.handles
def charge(command: Charge, session: Session) -> None:
    _book(session, command.order_id, command.cents)


@payments.handles
def refund(command: Refund, session: Session) -> None:
    _book(session, command.order_id, -command.cents)


@shipping.handles
def ship(command: Ship, session: Session) -> None:
    _book(session, command.order_id, 1)
