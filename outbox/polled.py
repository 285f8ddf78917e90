"""Outboxes that are polled, on SQLAlchemy: how no row that commits late is passed over, by database.

The order in which rows are numbered is not the order in which they are committed, so "all behind the last number" would
pass over rows. Therefore:

PostgreSQL  Rows are kept. Read are those of transactions below the oldest one that still runs (`pg_snapshot_xmin`): of
            those none can appear any more. The position is a transaction number in the table `<outbox>_polled`. A
            transaction that runs long, in whichever database of the server, holds up all that began after it.
The others  Rows are deleted once Kafka has them: what is there is to be sent, however late it came (see `spent`).

A second relay finds the lock taken and stands by. What a relay notes, it notes in the session that holds the lock.
"""

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from sqlalchemy import Connection, create_engine, exc
from sqlalchemy.engine import make_url
from sqlalchemy.event import listen

from kompensate.outbox import answers
from kompensate.outbox.answers import expect_answers
from kompensate.outbox.checkpoint import REMEDY
from kompensate.outbox.database import TCP_PATIENCE
from kompensate.outbox.errors import Gap, Misconfigured, SlotInUse
from kompensate.outbox.naming import KINDS, MYSQL
from kompensate.outbox.patience import begun
from kompensate.outbox.polling import BATCH_MAX, COLUMNS, Rows
from kompensate.outbox.reacting import reacting
from kompensate.outbox.spent import MysqlRows, SqliteRows

log = logging.getLogger(__name__)

ROWS_MAX: Final = 5_000
"""Rows that are read at once, unless one transaction has more."""
SILENCE_MS: Final = 3_000
"""A relay that tells the server nothing for so long (paused, or its machine gone) loses the lock to another."""

BOUND: Final = "pg_snapshot_xmin(pg_current_snapshot())"
"""The oldest transaction that still runs: everything below it is committed or gone."""
_LOCK: Final = "pg_try_advisory_lock(hashtextextended('kompensate relay ' || %s, 0))"


class PolledRows(Rows, Protocol):
    def close(self) -> None:
        """Let go of the lock and of all connections."""


def open_rows(url: str, table: str, *, resync: bool = False) -> PolledRows:
    """The outbox behind a URL, locked for us.

    `resync` publishes all its rows once more, where they are kept. Raises SlotInUse, Gap, Misconfigured, Disconnected.
    """
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise Misconfigured(f"polling relay: expected a URL, {KINDS}") from error
    if parsed.get_backend_name() == "sqlite":
        return SqliteRows(parsed.render_as_string(hide_password=False), table)
    if parsed.get_backend_name() in MYSQL:
        try:
            return MysqlRows(parsed, table)
        except ValueError as error:
            raise Misconfigured(str(error)) from error
    plain = parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    return KeptRows(plain, table, resync=resync)


class KeptRows:
    """PostgreSQL's outbox by transaction numbers: a place is one, and everything below it was published."""

    def __init__(self, url: str, table: str, *, resync: bool) -> None:
        self._table, self._polled = table, f"{table}_polled"
        self._engine = create_engine(url, connect_args=TCP_PATIENCE)
        listen(self._engine, "connect", _be_patient, insert=True)
        with reacting():
            self._notes = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            with reacting():
                self._take()
                self._next = None if resync else self._position()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._notes.close()
        self._engine.dispose()

    def _take(self) -> None:
        ask = self._notes.exec_driver_sql
        if not ask(f"SELECT {_LOCK}", (self._table,)).scalar_one():
            raise SlotInUse(f"outbox {self._table} is polled by another relay")
        ask(f"SET idle_session_timeout = {SILENCE_MS}")
        if ask("SELECT to_regclass(quote_ident(%s)) IS NULL", (self._polled,)).scalar_one():
            ask(
                f"CREATE TABLE IF NOT EXISTS {self._polled} (reader text PRIMARY KEY, system_id text NOT NULL,"
                " below xid8 NOT NULL, updated_at timestamptz NOT NULL DEFAULT now())"
            )
        if not ask(_HAS_INDEX, (self._table,)).scalar_one():
            log.info("making an index of %s by transaction, so that a look reads only what is new", self._table)
            with _at_leisure(self._notes):
                ask(f"CREATE INDEX IF NOT EXISTS {self._table}_xid ON {self._table} (xid)")

    def _position(self) -> int | None:
        """Where a relay left off; None before the first. Raises Gap where it is no position of this server."""
        found = self._notes.exec_driver_sql(
            f"SELECT system_id, system_identifier::text, below::text::bigint,"  # noqa: S608 our own names
            f" pg_snapshot_xmax(pg_current_snapshot())::text::bigint FROM {self._polled}, pg_control_system()"
        ).one_or_none()
        if found is None:
            return None
        noted, system, below, end = found
        if noted != system or below > end:
            raise Gap(
                f"outbox {self._table}: expected transaction {below} of PostgreSQL system {noted}, up to which rows "
                f"were published, got system {system} at transaction {end}: the database was restored or moved. "
                f"{REMEDY}"
            )
        return int(below)

    def fresh(self) -> Generator[tuple[int, Sequence[Any]], None, None]:
        with reacting(), self._engine.connect() as connection:
            if self._next is None:
                yield from self._all(connection)
                return
            until = self._until(connection, self._next)
            if until > self._next:
                where = " WHERE xid >= %s::text::xid8 AND xid < %s::text::xid8"
                for row in self._rows(connection, where, (str(self._next), str(until))):
                    yield row[0] + 1, row[1:]
            self._next = until

    def _all(self, connection: Connection) -> Iterator[tuple[int, Sequence[Any]]]:
        """Every row that is there, also what another server numbered before the tables came here: all are one place.

        But for those that transactions of this server wrote which a running one precedes: they come by their numbers.
        """
        connection = connection.execution_options(isolation_level="REPEATABLE READ")  # one look for both statements
        bound, end = connection.exec_driver_sql(
            f"SELECT {BOUND}::text::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        ).one()
        where = " WHERE xid < %s::text::xid8 OR xid >= %s::text::xid8"
        with _at_leisure(connection):
            for row in begun(self._rows(connection, where, (str(bound), str(end))), self.stay):
                yield bound, row[1:]
        self._next = int(bound)

    def _until(self, connection: Connection, begin: int) -> int:
        """How far to read at once: to the bound, or ROWS_MAX rows, or one transaction that has more."""
        return int(
            connection.exec_driver_sql(
                f"SELECT coalesce((SELECT greatest(xid::text::bigint, %s + 1) FROM {self._table}"  # noqa: S608 our own names
                f" WHERE xid >= %s::text::xid8 AND xid < {BOUND} ORDER BY xid OFFSET {ROWS_MAX} LIMIT 1),"
                f" {BOUND}::text::bigint)",
                (begin, str(begin)),
            ).scalar_one()
        )

    def _rows(self, connection: Connection, where: str, parameters: tuple[str, ...]) -> Iterator[Sequence[Any]]:
        statement = (
            f"SELECT xid::text::bigint, {COLUMNS} FROM {self._table}{where}"  # noqa: S608 our own names
            " ORDER BY xid, created_at, tableoid, ctid"
        )
        yield from connection.execution_options(yield_per=BATCH_MAX).exec_driver_sql(statement, parameters)

    def rest(self) -> int:
        return self._next or 0

    def published(self, place: int) -> None:
        with reacting():
            self._notes.exec_driver_sql(
                f"INSERT INTO {self._polled} AS p (reader, system_id, below) SELECT 'relay', system_identifier::text,"  # noqa: S608 our own names
                " %s::text::xid8 FROM pg_control_system() ON CONFLICT (reader) DO UPDATE"
                " SET system_id = EXCLUDED.system_id, below = EXCLUDED.below, updated_at = now()",
                (str(place),),
            )

    def stay(self) -> None:
        with reacting():
            self._notes.exec_driver_sql("SELECT 1")


def _be_patient(driver: Any, _record: object) -> None:
    expect_answers(driver, answers.ANSWER_SECONDS)


@contextmanager
def _at_leisure(connection: Connection) -> Iterator[None]:
    """For a statement that may take its time."""
    driver: Any = connection.connection.driver_connection
    expect_answers(driver, answers.LONG_SECONDS)
    yield
    expect_answers(driver, answers.ANSWER_SECONDS)


_HAS_INDEX: Final = (
    "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]"
    " WHERE i.indrelid = to_regclass(quote_ident(%s)) AND a.attname = 'xid')"
)
