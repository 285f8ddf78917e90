"""The agent's tools, and the world that they change: a shop's desk, kept in the SQLite file that $AGENT_DESK names.

`call` has a row for each time that a tool was really used, under its idempotency key, and no constraint that would stop
a second one. A tool that takes keys can be asked afterwards what became of one: that is `find_call`.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from kompensate.orchestrator import NotDone, Refuse

NEED_APPROVAL = frozenset({"refund"})
"""What cannot be taken back."""
PRICES = {"o-1": 2_500, "o-2": 9_900}


@contextmanager
def desk() -> Iterator[sqlite3.Connection]:
    """The desk's file, in one transaction."""
    with closing(sqlite3.connect(os.environ["AGENT_DESK"], timeout=30)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS call (key TEXT, tool TEXT, argument TEXT, said TEXT)")
        yield connection


def use(tool: str, argument: str, idempotency_key: str) -> str:
    """Use a tool, and tell what it said."""
    if argument not in PRICES:
        raise Refuse("no such order", order=argument)
    price = f"{PRICES[argument] / 100:.2f}"
    said = {"look_up": f"sold for {price}", "refund": f"{price} were refunded"}[tool]
    with desk() as connection:
        connection.execute("INSERT INTO call VALUES (?, ?, ?, ?)", (idempotency_key, tool, argument, said))
    return said


def find_call(tool: str, argument: str, idempotency_key: str) -> str:
    """What became of a call that nobody heard of again: what it said. Raises NotDone where it was never made."""
    with desk() as connection:
        found = connection.execute("SELECT said FROM call WHERE key = ?", (idempotency_key,)).fetchone()
    if found is None:
        raise NotDone(f"{tool}({argument})")
    return str(found[0])


def calls() -> list[tuple[str, str]]:
    """Every call that was made: tool and argument."""
    with desk() as connection:
        return connection.execute("SELECT tool, argument FROM call").fetchall()
