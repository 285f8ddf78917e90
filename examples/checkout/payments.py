"""The payments service: customers' cards, and a ledger of what was charged and refunded.

kompensate participant examples.checkout.payments:payments --dsn postgresql://…/payments
"""

from collections.abc import Iterable

from sqlalchemy import BigInteger, Connection, String, bindparam, insert, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from examples.checkout.contracts import Charge, Refund
from kompensate.participants import Call, Participant, Refused

payments = Participant("payments")


class Base(DeclarativeBase):
    """This service's tables."""


class Card(Base):
    """A customer's card. `owed` is in cents: the sum of the customer's ledger."""

    __tablename__ = "card"

    customer: Mapped[str] = mapped_column(primary_key=True)
    blocked: Mapped[bool]
    owed: Mapped[int] = mapped_column(BigInteger, default=0)


class Entry(Base):
    """One movement of money, in cents: charges above zero, refunds below."""

    __tablename__ = "ledger"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    command_id: Mapped[str]
    order_id: Mapped[str]
    kind: Mapped[str]
    customer: Mapped[str]
    cents: Mapped[int] = mapped_column(BigInteger)


def create(connection: Connection, cards: Iterable[tuple[str, bool]]) -> None:
    """Make the tables and issue the cards: (customer, whether it is blocked). The caller commits."""
    Base.metadata.create_all(connection)
    connection.execute(insert(Card), [{"customer": customer, "blocked": blocked} for customer, blocked in cards])


# Statements are built once: building them costs as much as PostgreSQL takes to execute them.
_HOLDER, _AMOUNT = bindparam("holder", type_=String()), bindparam("amount", type_=BigInteger())
CHARGE = (
    update(Card)
    .where(Card.customer == _HOLDER, Card.blocked.is_(False))
    .values(owed=Card.owed + _AMOUNT)
    .returning(Card.customer)
)
REFUND = update(Card).where(Card.customer == _HOLDER).values(owed=Card.owed - _AMOUNT)
BOOK = insert(Entry)


@payments.handles
def charge(command: Charge, connection: Connection, call: Call) -> None:
    """Take the money, or refuse."""
    if connection.scalar(CHARGE, {"holder": command.customer, "amount": command.cents}) is None:
        raise Refused("card declined", customer=command.customer)
    _book(connection, call, "charge", command, command.cents)


@payments.handles
def refund(command: Refund, connection: Connection, call: Call) -> None:
    """Give the money back."""
    connection.execute(REFUND, {"holder": command.customer, "amount": command.cents})
    _book(connection, call, "refund", command, -command.cents)


def _book(connection: Connection, call: Call, kind: str, command: Charge | Refund, cents: int) -> None:
    connection.execute(
        BOOK,
        {
            "command_id": call.id,
            "order_id": command.order_id,
            "kind": kind,
            "customer": command.customer,
            "cents": cents,
        },
    )
