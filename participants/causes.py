"""What is behind an error of a transaction: the driver's own errors, and whether the same transaction may succeed."""

import re
import sqlite3
from collections.abc import Iterator

from sqlalchemy import Connection

# SQLSTATEs after which the same transaction may well succeed: serialization failure, deadlock.
_CONTENDED = ("40001", "40P01")
# A server that takes no writes: a standby, or a primary that was made one.
_READ_ONLY = "25006"
# The same in MySQL, whose driver keeps numbers: no lock in time, a deadlock, a row that another changed (MariaDB).
_CONTENDED_MYSQL = (1205, 1213, 1020)

# "Syntax Error or Access Rule Violation": a table, column or right is missing, whatever the values are.
_STATEMENT = "42"
# MySQL's: no right to the database, the table, the column; no such table, no such column.
_STATEMENT_MYSQL = (1044, 1142, 1143, 1146, 1054)
_STATEMENT_SQLITE = re.compile(r"no such (table|column)\b|table \S+ has no column named")


def raise_if_whole(error: Exception, connection: Connection) -> None:
    """Raise what undoes the whole transaction, not the handler alone: contention, a lost connection, a COMMIT."""
    transaction = connection.get_transaction()
    if transaction is None or not transaction.is_active:
        raise error
    for cause in _causes(error):
        if _is_contended(cause) or getattr(cause, "connection_invalidated", False):
            raise error


def contended(error: BaseException) -> bool:
    """Whether it came of others that did the same, at the same time."""
    return any(_is_contended(cause) for cause in _causes(error))


def takes_no_writes(error: BaseException) -> bool:
    """Whether the server is one that nobody may write to: another one may be, or this one when it is promoted."""
    return any(_sqlstate(cause) == _READ_ONLY for cause in _causes(error))


def of_tables(error: BaseException) -> bool:
    """Whether it is the fault of the tables that a statement names, or of the role's rights, and of no value in it."""
    return any(_is_of_tables(cause) for cause in _causes(error))


def _is_of_tables(cause: BaseException) -> bool:
    if isinstance(cause, sqlite3.Error):
        return _STATEMENT_SQLITE.match(str(cause)) is not None
    return _number(cause) in _STATEMENT_MYSQL or (_sqlstate(cause) or "").startswith(_STATEMENT)


def _is_contended(cause: BaseException) -> bool:
    return _number(cause) in _CONTENDED_MYSQL or _sqlstate(cause) in _CONTENDED


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all it came from, the driver's own included."""
    current: BaseException | None = error
    while current is not None:
        yield current
        driver = getattr(current, "orig", None)
        current = driver if isinstance(driver, BaseException) else current.__cause__ or current.__context__


def _number(error: BaseException) -> object:
    """MySQL's, of an error of its driver."""
    return error.args[0] if type(error).__module__.startswith("pymysql.") and error.args else None


def _sqlstate(error: BaseException) -> str | None:
    found = getattr(error, "sqlstate", None)
    return found if isinstance(found, str) else None
