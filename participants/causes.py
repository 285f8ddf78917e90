"""What is behind an error of a transaction: the driver's own errors, and whether the same transaction may succeed."""

from collections.abc import Iterator

from sqlalchemy import Connection

from kompensate.outbox.drivers import is_of_tables, mysql_number, sqlstate

# SQLSTATEs after which the same transaction may well succeed: serialization failure, deadlock.
_CONTENDED = ("40001", "40P01")
# A server that takes no writes: a standby, or a primary that was made one.
_READ_ONLY = "25006"
# The same in MySQL, whose driver keeps numbers: no lock in time, a deadlock, a row that another changed (MariaDB).
_CONTENDED_MYSQL = (1205, 1213, 1020)


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
    return any(sqlstate(cause) == _READ_ONLY for cause in _causes(error))


def of_tables(error: BaseException) -> bool:
    """Whether it is the fault of the tables that a statement names, or of the role's rights, and of no value in it."""
    return any(is_of_tables(cause) for cause in _causes(error))


def _is_contended(cause: BaseException) -> bool:
    return mysql_number(cause) in _CONTENDED_MYSQL or sqlstate(cause) in _CONTENDED


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all it came from, the driver's own included."""
    current: BaseException | None = error
    while current is not None:
        yield current
        driver = getattr(current, "orig", None)
        current = driver if isinstance(driver, BaseException) else current.__cause__ or current.__context__
