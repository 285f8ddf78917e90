"""Who approves for whom, who was asked, and the accounts: the SQLite file that $DIRECTORY names.

`account` has a row for each time that an account was made or revoked, under its idempotency key.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

TABLES = """
CREATE TABLE level (person TEXT, number INT, approver TEXT, deputy TEXT);
CREATE TABLE mail (recipient TEXT, person TEXT, role TEXT, key TEXT UNIQUE);
CREATE TABLE account (system TEXT, person TEXT, what TEXT, key TEXT UNIQUE);
CREATE TABLE down (system TEXT, times INT);
"""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the chain: who approves, and who does where that one is silent."""

    approver: str
    deputy: str


@contextmanager
def directory() -> Iterator[sqlite3.Connection]:
    """The file, in one transaction."""
    with closing(sqlite3.connect(os.environ["DIRECTORY"], timeout=30)) as connection, connection:
        yield connection


def create() -> None:
    """Five people approve for bob, each with a deputy."""
    with directory() as connection:
        connection.executescript(TABLES)
        for number, name in enumerate(("ann", "cora", "dan", "eve", "fay")):
            connection.execute("INSERT INTO level VALUES ('bob', ?, ?, ?)", (number, name, f"deputy-of-{name}"))


def load_chain(person: str) -> list[Level]:
    """Who has to approve, the first first."""
    with directory() as connection:
        found = connection.execute("SELECT approver, deputy FROM level WHERE person = ? ORDER BY number", (person,))
        return [Level(*row) for row in found]


def ask(approver: str, person: str, role: str, idempotency_key: str) -> None:
    """Write to an approver; who has that letter already does not get it again."""
    with directory() as connection:
        connection.execute("INSERT OR IGNORE INTO mail VALUES (?, ?, ?, ?)", (approver, person, role, idempotency_key))


def grant(system: str, person: str, idempotency_key: str) -> str:
    """Make an account; its name. One that is there under this key is the same."""
    with directory() as connection:
        down = connection.execute("UPDATE down SET times = times - 1 WHERE system = ? AND times > 0", (system,))
        if not down.rowcount:
            row = (system, person, "made", idempotency_key)
            connection.execute("INSERT OR IGNORE INTO account VALUES (?, ?, ?, ?)", row)
    if down.rowcount:
        raise ConnectionError(f"{system} does not answer")
    return f"{person}@{system}"


def revoke(system: str, person: str, idempotency_key: str) -> None:
    """Take an account away; there may be none."""
    with directory() as connection:
        row = (system, person, "revoked", idempotency_key)
        connection.execute("INSERT OR IGNORE INTO account VALUES (?, ?, ?, ?)", row)


def break_down(system: str, times: int) -> None:
    """So many times in a row that system will not answer."""
    with directory() as connection:
        connection.execute("INSERT INTO down VALUES (?, ?)", (system, times))


def rows(query: str) -> list[tuple[Any, ...]]:
    """What the directory holds."""
    with directory() as connection:
        return connection.execute(query).fetchall()
