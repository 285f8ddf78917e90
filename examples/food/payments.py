"""The payments service: customers have paid in before, and orders are charged to that.

    kompensate participant examples.food.payments:payments --dsn postgresql://…/payments

`entry` has a row for each charge and refund, and no constraint that would stop one from being booked twice.
"""

from sqlalchemy import Connection, text

from examples.food.contracts import Charge, Refund
from kompensate.participants import Participant, Refused

payments = Participant("payments")
BALANCES = {"mei": 100_000, "raj": 100_000, "poor tom": 0}
TABLES = (
    "CREATE TABLE account (customer text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0))",
    "CREATE TABLE entry (order_id text NOT NULL, cents bigint NOT NULL)",
)
MOVE = text("UPDATE account SET cents = cents + :cents WHERE customer = :customer AND cents + :cents >= 0")


def create(connection: Connection) -> None:
    """Make the tables, with what customers have paid in. The caller commits."""
    for table in TABLES:
        connection.execute(text(table))
    rows = [{"customer": customer, "cents": cents} for customer, cents in BALANCES.items()]
    connection.execute(text("INSERT INTO account VALUES (:customer, :cents)"), rows)


@payments.handles
def charge(command: Charge, connection: Connection) -> None:
    _book(connection, command, -command.cents)


@payments.handles
def refund(command: Refund, connection: Connection) -> None:
    _book(connection, command, command.cents)


def _book(connection: Connection, command: Charge | Refund, cents: int) -> None:
    if connection.execute(MOVE, {"customer": command.customer, "cents": cents}).rowcount == 0:
        raise Refused("no cover", customer=command.customer)
    row = {"id": command.order_id, "cents": cents}
    connection.execute(text("INSERT INTO entry VALUES (:id, :cents)"), row)
