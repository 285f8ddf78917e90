"""The payments service: cards, what was charged and refunded, reminders, and the months that are closed.

    kompensate participant examples.billing.cards:payments --dsn postgresql://…/payments

No constraint stops a bill from being charged twice, or a month from being closed twice: that the inbox does.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, text

from examples.billing.app import Charge, CloseMonth, Refund, Remind
from kompensate.participants import Participant, Refused

payments = Participant("payments")
TABLES = (
    "CREATE TABLE card (customer text PRIMARY KEY, works boolean NOT NULL)",
    "CREATE TABLE payment (bill text NOT NULL, day text NOT NULL, cents bigint NOT NULL)",
    "CREATE TABLE reminder (bill text NOT NULL, customer text NOT NULL, attempt integer NOT NULL)",
    "CREATE TABLE closed (month text NOT NULL, cents bigint NOT NULL)",
)
WORKS = text("SELECT works FROM card WHERE customer = :customer")
PAY = text("INSERT INTO payment (bill, day, cents) VALUES (:bill, :day, :cents)")
GIVE_BACK = text("INSERT INTO payment (bill, day, cents) SELECT bill, day, -cents FROM payment WHERE bill = :bill")
REMIND = text("INSERT INTO reminder (bill, customer, attempt) VALUES (:bill, :customer, :attempt)")
SUM = text("SELECT coalesce(sum(cents), 0) FROM payment WHERE day LIKE :days")
CLOSE = text("INSERT INTO closed (month, cents) VALUES (:month, :cents)")


def create(connection: Connection, cards: Mapping[str, bool]) -> None:
    """Make the tables, and issue cards: whether each works. The caller commits."""
    for table in TABLES:
        connection.execute(text(table))
    for customer, works in cards.items():
        row = {"customer": customer, "works": works}
        connection.execute(text("INSERT INTO card (customer, works) VALUES (:customer, :works)"), row)


@payments.handles
def charge(command: Charge, connection: Connection) -> None:
    """Take the money, or refuse."""
    if not connection.scalar(WORKS, {"customer": command.customer}):
        raise Refused("card declined", customer=command.customer)
    connection.execute(PAY, {"bill": command.bill, "day": command.day, "cents": command.cents})


@payments.handles
def refund(command: Refund, connection: Connection) -> None:
    """Give the money back."""
    connection.execute(GIVE_BACK, {"bill": command.bill})


@payments.handles
def remind(command: Remind, connection: Connection) -> None:
    """Write to the customer."""
    row = {"bill": command.bill, "customer": command.customer, "attempt": command.attempt}
    connection.execute(REMIND, row)


@payments.handles
def close(command: CloseMonth, connection: Connection) -> int:
    """The month's takings, in cents."""
    cents = int(connection.scalar(SUM, {"days": f"{command.month}-%"}) or 0)
    connection.execute(CLOSE, {"month": command.month, "cents": cents})
    return cents
