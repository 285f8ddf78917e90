"""A handler's part of the group's transaction: kept whole or undone whole.

Each handler starts at a savepoint. SQLAlchemy's own costs two round trips and half a millisecond a handler
(measured), so there is one for the group, and from handler to handler it is moved forward under the same name, in one
round trip. Who asks for a Session gets one in a nested transaction of SQLAlchemy's: to that the savepoint stays the
one it made, so that a failed flush goes back to it, which is the beginning of the handler at work. A group of handlers
that take the connection alone needs neither: its savepoint is the driver's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, NestedTransaction
from sqlalchemy.engine import Engine
from sqlalchemy.event import contains, listen
from sqlalchemy.orm import Session

from kompensate.outbox.answers import run
from kompensate.outbox.naming import MYSQL

# libpq's PQTRANS_INTRANS: a transaction is open and no statement in it failed (PostgreSQL, "libpq-status").
_IN_TRANSACTION = 2
# libpq's PGRES_COMMAND_OK: a statement that returns no rows was done (PostgreSQL, "libpq-exec").
_COMMAND_OK = 1
# MySQL's ER_SP_DOES_NOT_EXIST, "SAVEPOINT … does not exist".
_NO_SAVEPOINT = 1305


class Misuse(RuntimeError):
    """A handler left its transaction in another state than it found it; the text says what it may do."""


class HandlerSession(Session):
    """The Session a handler gets: the runner commits it, together with the inbox and the reply."""

    def commit(self) -> None:
        raise Misuse(
            "session.commit(): expected the runner to commit, got a handler that does: return to keep, raise to undo"
        )

    def rollback(self) -> None:
        raise Misuse("session.rollback(): expected a handler to raise, got a rollback: use begin_nested() for a part")


_SAVEPOINT = "kompensate"


class Scratch:
    """Each handler's beginning, and the session of those that ask for one, inside one transaction of `connection`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.driver: Any = connection.connection.driver_connection
        self._dialect = connection.dialect.name
        self._nested: NestedTransaction | None = None
        self._session: HandlerSession | None = None
        self._name = ""

    @property
    def session(self) -> HandlerSession:
        """The one to work in, for who began with `session`."""
        assert self._session is not None
        return self._session

    def begin(self, *, session: bool) -> None:
        """Set the savepoint; with `session` there is one from here on. What the last handler kept is kept."""
        if session and self._session is None:
            if self._name:
                self._execute(f"RELEASE SAVEPOINT {self._name}")
            self._nested = self.connection.begin_nested()
            # Not a public name; a test tells when SQLAlchemy changes it. (Its `savepoint` event gives None.)
            self._name = str(self._nested._savepoint)
            self._session = HandlerSession(
                bind=self.connection, join_transaction_mode="rollback_only", expire_on_commit=False
            )
        elif self._name:
            if self._dialect not in MYSQL:  # there `keep` has moved it
                self._move()
        else:
            self._name = _SAVEPOINT
            self._execute(f"SAVEPOINT {self._name}")

    def keep(self) -> None:
        """Write what the handler left unwritten. Raises what the database raises, and Misuse."""
        session = self._session
        if session is not None:
            if session.in_nested_transaction():
                raise Misuse("session.begin_nested(): expected to be ended by the handler, got one still open")
            session.flush()
            session.expunge_all()
        if not self.connection.in_transaction():
            raise Misuse("connection.rollback(): expected a handler to raise, got a rollback")
        if self.connection.get_nested_transaction() is not self._nested:
            raise Misuse("connection.begin_nested(): expected to be ended by the handler, got one still open")
        if not self._stands():
            raise Misuse(
                "expected an open transaction, got one that a failed statement or a COMMIT ended: let it raise"
            )

    def _stands(self) -> bool:
        """Whether the transaction is the one in which the handler began, and can go on."""
        if self._dialect == "sqlite":
            return True
        if self._dialect in MYSQL:
            # A deadlock, a COMMIT or a CREATE TABLE ends it with its savepoints, and the next statement begins another.
            try:
                self._move()
            except Exception as error:
                if error.args[:1] == (_NO_SAVEPOINT,):
                    return False
                raise
            return True
        return bool(self.driver.pgconn.transaction_status == _IN_TRANSACTION)

    def undo(self) -> None:
        """Back to where the handler began. Raises what the database raises: then the whole group is undone."""
        if self._session is None or self._nested is None:
            self._undo_without_session()
            return
        self._session.close()
        if self._nested.is_active:
            self._nested.rollback()
        self._nested = self._session = None
        self._name = ""

    def _undo_without_session(self) -> None:
        left_open = self.connection.get_nested_transaction()
        while left_open is not None:
            left_open.rollback()
            left_open = self.connection.get_nested_transaction()
        self._execute(f"ROLLBACK TO SAVEPOINT {self._name}")

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def _move(self) -> None:
        if self._dialect != "postgresql":
            self._execute(f"RELEASE SAVEPOINT {self._name}")
            self._execute(f"SAVEPOINT {self._name}")
        else:
            # Not by a cursor, whose Python costs more than the statements.
            moved = run(self.driver, f"RELEASE SAVEPOINT {self._name}; SAVEPOINT {self._name}".encode())
            if moved.status != _COMMAND_OK:
                text = moved.error_message.decode(errors="replace").strip()
                raise RuntimeError(f"savepoint {self._name}: expected to move it, got {text}")

    def _execute(self, statement: str) -> None:
        cursor = self.driver.cursor()
        if self._dialect == "postgresql":
            cursor.execute(statement, prepare=False)
        else:
            cursor.execute(statement)


_OPEN = "kompensate_open"


@contextmanager
def guarded(connection: Connection) -> Iterator[None]:
    """A transaction that only the end of this block commits: a handler that tries gets Misuse."""
    with connection.begin() as transaction:
        connection.info[_OPEN] = True
        try:
            yield
        except BaseException:
            # A COMMIT that was refused leaves SQLAlchemy thinking it happened: it would not roll back.
            if not transaction.is_active:
                connection.invalidate()
            raise
        finally:
            # An invalidated connection has no info of its own any more.
            if not connection.invalidated:
                connection.info.pop(_OPEN, None)


def watch(engine: Engine) -> None:
    """Prepare the connections of `engine` for `guarded`; more than once does no harm."""
    if not contains(engine, "commit", _refuse):
        listen(engine, "commit", _refuse)


def _refuse(connection: Connection) -> None:
    if connection.info.get(_OPEN):
        raise Misuse("commit: expected the runner to commit, got a handler that does: return to keep, raise to undo")
