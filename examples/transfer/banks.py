"""The two banks: the same code, each with a database of its own.

    kompensate participant examples.transfer.banks:north --dsn postgresql://…/north

A balance cannot go below zero, a closed account takes nothing. `entry` has a row for each movement and no constraint
that would stop one from being booked twice: that the inbox does.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, text

from examples.transfer.app import Deposit, PutBack, Withdraw
from kompensate.participants import Participant, Refused

TABLES = (
    "CREATE TABLE account (name text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0), open boolean NOT NULL)",
    "CREATE TABLE entry (bank_transaction text NOT NULL, account text NOT NULL, cents bigint NOT NULL)",
)
MOVE = text("UPDATE account SET cents = cents + :cents WHERE name = :account AND open AND cents + :cents >= 0")
BOOK = text("INSERT INTO entry (bank_transaction, account, cents) VALUES (:bank_transaction, :account, :cents)")


def create(connection: Connection, balances: Mapping[str, int], closed: tuple[str, ...] = ()) -> None:
    """Make the tables, and open accounts with so many cents. The caller commits."""
    for table in TABLES:
        connection.execute(text(table))
    for name, cents in balances.items():
        row = {"name": name, "cents": cents, "open": name not in closed}
        connection.execute(text("INSERT INTO account (name, cents, open) VALUES (:name, :cents, :open)"), row)


def withdraw(command: Withdraw, connection: Connection) -> None:
    _move(connection, command.transaction, command.account, -command.cents)


def put_back(command: PutBack, connection: Connection) -> None:
    _move(connection, command.transaction, command.account, command.cents)


def deposit(command: Deposit, connection: Connection) -> None:
    _move(connection, command.transaction, command.account, command.cents)


def _move(connection: Connection, transaction: str, account: str, cents: int) -> None:
    if connection.execute(MOVE, {"account": account, "cents": cents}).rowcount == 0:
        raise Refused("no cover" if cents < 0 else "no such account", account=account)
    connection.execute(BOOK, {"bank_transaction": transaction, "account": account, "cents": cents})


def bank(name: str) -> Participant:
    """A bank takes all three commands."""
    found = Participant(name)
    for handler in (withdraw, put_back, deposit):
        found.handles(handler)
    return found


north, south = bank("north"), bank("south")
