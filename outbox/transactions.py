"""Writes outbox rows into a transaction that somebody else began: SQLAlchemy's or a driver's, plain or asyncio.

Which of them it is, is told here and nowhere else. The caller begins, commits and rolls back.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from kompensate.outbox.writer import INSERT, Row, as_json, write


class Driver(Protocol):
    """A psycopg connection or cursor, or another PostgreSQL driver's cursor that takes `%s` parameters."""

    def execute(self, query: Any, params: Sequence[Any], /) -> Any: ...


Transaction: TypeAlias = "Session | scoped_session[Session] | Connection | Driver"
"""Where a row is written: the caller begins, commits and rolls back."""


class AsyncDriver(Protocol):
    """A psycopg AsyncConnection or AsyncCursor."""

    async def execute(self, query: Any, params: Sequence[Any], /) -> Any: ...


class AsyncSqlAlchemy(Protocol):
    """SQLAlchemy's AsyncSession or AsyncConnection."""

    async def run_sync(self, function: Callable[..., Any], /) -> Any: ...


AsyncTransaction: TypeAlias = "AsyncSqlAlchemy | AsyncDriver"


def add(transaction: Transaction, rows: Sequence[Row], instead: str) -> None:
    """Add `rows` to the outbox in `transaction`. `instead` is what an asyncio transaction wants.

    Raises TypeError for what is no transaction, BadPayload, and what the database raises.
    """
    execute = getattr(transaction, "execute", None)
    if hasattr(transaction, "run_sync") or inspect.iscoroutinefunction(execute) or execute is None:
        raise TypeError(
            "transaction: expected a SQLAlchemy Session or Connection, or a psycopg connection or cursor, "
            f"got {type(transaction).__name__}{'' if execute is None else f': use {instead}'}"
        )
    _add(transaction, rows)


async def add_async(transaction: AsyncTransaction, rows: Sequence[Row], instead: str) -> None:
    """As `add`, awaited. `instead` is what a plain transaction wants."""
    # Not by their classes: SQLAlchemy's asyncio half needs greenlet, which may not be installed.
    run_sync = getattr(transaction, "run_sync", None)
    if run_sync is not None:
        await run_sync(lambda sync: _add(sync, rows))
        return
    execute: Any = getattr(transaction, "execute", None)
    if not inspect.iscoroutinefunction(execute):
        raise TypeError(
            "transaction: expected an AsyncSession, AsyncConnection or AsyncCursor, "
            f"got {type(transaction).__name__}: use {instead}"
        )
    await execute(INSERT, (as_json(rows),))


def _add(transaction: Transaction, rows: Sequence[Row]) -> None:
    if isinstance(transaction, (Session, scoped_session)):
        write(transaction.connection(), rows)
    elif isinstance(transaction, Connection):
        write(transaction, rows)
    elif type(transaction).__module__.partition(".")[0] in ("pymysql", "MySQLdb", "mysql", "sqlite3"):
        raise TypeError(
            "transaction: expected a SQLAlchemy Session or Connection, or psycopg's, got "
            f"{type(transaction).__module__}.{type(transaction).__name__}: use SQLAlchemy's"
        )
    else:
        driver: Any = transaction
        driver.execute(INSERT, (as_json(rows),))
