"""A cloud provider: the SQLite file that $CLOUD names.

It makes what it is asked for each time that it is asked, as most do, so a creation must not be repeated in doubt; but a
resource carries the key of the request that made it as a tag, by which it can be found. `call` has a row for each that
was made or deleted.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from kompensate.orchestrator import NotDone, Refuse

TABLES = """
CREATE TABLE resource (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, environment TEXT, tag TEXT);
CREATE TABLE call (verb TEXT, kind TEXT, environment TEXT);
CREATE TABLE down (kind TEXT, times INT);
"""
QUOTA = 8
"""Processors that one machine may have."""


class TryAgain(Exception):
    """The provider is busy."""


@contextmanager
def cloud() -> Iterator[sqlite3.Connection]:
    """The file, in one transaction."""
    with closing(sqlite3.connect(os.environ["CLOUD"], timeout=30)) as connection, connection:
        yield connection


def open_account() -> None:
    """An account without resources."""
    with cloud() as connection:
        connection.executescript(TABLES)


def create(kind: str, environment: str, properties: Mapping[str, Any], idempotency_key: str) -> str:
    """A new resource's id. Raises Refuse past the quota, TryAgain."""
    if properties.get("processors", 0) > QUOTA:
        raise Refuse("past the quota", quota=QUOTA, processors=properties["processors"])
    with cloud() as connection:
        down = connection.execute("UPDATE down SET times = times - 1 WHERE kind = ? AND times > 0", (kind,))
        if not down.rowcount:
            connection.execute("INSERT INTO call VALUES ('create', ?, ?)", (kind, environment))
            row = (kind, environment, idempotency_key)
            made = connection.execute("INSERT INTO resource (kind, environment, tag) VALUES (?, ?, ?)", row)
    if down.rowcount:
        raise TryAgain(f"no {kind} at the moment")
    return f"{kind}-{made.lastrowid}"


def find(kind: str, environment: str, properties: Mapping[str, Any], idempotency_key: str) -> str:
    """The id of what that request made. Raises NotDone where it made nothing."""
    with cloud() as connection:
        query = "SELECT id FROM resource WHERE kind = ? AND environment = ? AND tag = ?"
        found = connection.execute(query, (kind, environment, idempotency_key)).fetchone()
    if found is None:
        raise NotDone(f"no {kind} for {environment} {dict(properties)}")
    return f"{kind}-{found[0]}"


def delete(kind: str, environment: str, _properties: Mapping[str, Any]) -> None:
    """Delete the environment's resources of a kind; there may be none."""
    with cloud() as connection:
        gone = connection.execute("DELETE FROM resource WHERE kind = ? AND environment = ?", (kind, environment))
        if gone.rowcount:
            connection.execute("INSERT INTO call VALUES ('delete', ?, ?)", (kind, environment))


def busy(kind: str, times: int) -> None:
    """So many times in a row there is no resource of that kind."""
    with cloud() as connection:
        connection.execute("INSERT INTO down VALUES (?, ?)", (kind, times))


def rows(query: str) -> list[tuple[Any, ...]]:
    """What the provider knows."""
    with cloud() as connection:
        return connection.execute(query).fetchall()
