"""The relay's ordinary connection to the outbox's database, and how every connection of ours is made.

Is the server set up, where does the slot stand, the checkpoint, the table's rows for a resync. It belongs to one
thread. With `replication` it is the only module here that knows psycopg.
"""

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from kompensate.outbox import answers
from kompensate.outbox.answers import expect_answers
from kompensate.outbox.checkpoint import MAKE_CHECKPOINTS, REMEDY, Checkpoint, Holder, Server, SlotState
from kompensate.outbox.errors import Disconnected, Gap, Misconfigured, SlotInUse, refused, with_advice
from kompensate.outbox.health import SlotStanding
from kompensate.outbox.naming import Names, plain_dsn
from kompensate.outbox.pgoutput import lsn_number, lsn_text
from kompensate.outbox.publication import UNCHANGED
from kompensate.outbox.records import REQUIRED, Mapping
from kompensate.outbox.setup import columns, needed

log = logging.getLogger(__name__)

PLUGIN: Final = "pgoutput"
FAILOVER_VERSION: Final = 17_00_00
# A server that is gone is noticed in about so many milliseconds.
PATIENCE_MS: Final = 10_000
SLOT_CREATION_MS: Final = 60_000
TCP_PATIENCE: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": PATIENCE_MS,
    "application_name": "kompensate relay",
}


def _parts(dsn: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(plain_dsn(dsn)))
    except psycopg.ProgrammingError as error:
        raise Misconfigured(
            f"database: expected postgresql://… or libpq's host=… dbname=…, got what libpq cannot read: {error}"
        ) from error


def conninfo(dsn: str, options: str) -> str:
    """libpq's connection string, with `options` for the session. Raises Misconfigured for what is no DSN."""
    parts = {**TCP_PATIENCE, **_parts(dsn)}
    # Ours first: what the DSN says wins.
    parts["options"] = f"{options} {parts.get('options') or ''}".strip()
    return make_conninfo(**parts, client_encoding="UTF8")


@contextmanager
def reacting() -> Iterator[None]:
    """psycopg's errors as those of the relay's loop."""
    try:
        yield
    except errors.ObjectInUse as error:
        raise SlotInUse(line(error)) from error
    except errors.InsufficientPrivilege as error:
        raise Misconfigured(
            f"PostgreSQL: expected a role that may use the outbox, its publication and slots, got: {line(error)}. "
            "It needs SELECT on the outbox, all rights on its checkpoint table, and REPLICATION"
        ) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise Disconnected(f"PostgreSQL: {line(error)}") from error


def connect(conninfo: str) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection. Raises Disconnected where asking again may help, Misconfigured where it does not."""
    try:
        connection = psycopg.connect(conninfo, autocommit=True)
    except psycopg.OperationalError as error:
        if refused(str(error)):
            raise Misconfigured(
                f"PostgreSQL: expected a role, password and database that the server takes, got: {line(error)}: "
                "mend the DSN, or make what it names"
            ) from error
        raise Disconnected(f"PostgreSQL: {with_advice(line(error))}") from error
    expect_answers(connection, answers.ANSWER_SECONDS)
    return connection


def line(error: Exception) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split())


class Database:
    """An ordinary connection to the outbox's database."""

    def __init__(self, dsn: str, names: Names) -> None:
        """Raises Disconnected, Misconfigured."""
        self._names = names
        self._checkpoints = sql.Identifier(f"{names.table}_relay")
        self._connection = connect(conninfo(dsn, ""))
        self._passed: tuple[int, int] | None = None

    def close(self) -> None:
        self._connection.close()

    def check(self) -> None:
        """Raise Misconfigured unless server, table and publication are what a relay needs.

        Raises Disconnected for a standby: it may be about to be promoted, and is waited for like a server that is away.
        """
        with reacting():
            for finding in needed(self.ask, self._names, self.name):
                if finding.level == "wrong":
                    raise (Disconnected if finding.check == "server.primary" else Misconfigured)(str(finding))

    def ask(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one statement. Raises psycopg's errors."""
        return self._connection.execute(statement.encode(), parameters or None).fetchall()

    def oid(self) -> int | None:
        """By what the outbox is known, whatever its name; None where there is none of that name."""
        with reacting():
            [(found,)] = self.ask("SELECT to_regclass(quote_ident(%s))::oid", [self._names.table])
        return None if found is None else int(found)

    def slot(self) -> SlotState | None:
        """The slot as the server describes it. Raises Misconfigured where its name is another's."""
        name = self._names.slot
        with reacting():
            found = self._connection.execute(
                "SELECT plugin, database, coalesce(confirmed_flush_lsn, '0/0')::text, wal_status, active_pid,"
                # NULL where this version has no such column.
                " (to_jsonb(s) ->> 'failover')::boolean FROM pg_replication_slots s WHERE slot_name = %s",
                [name],
            ).fetchone()
        if found is None:
            return None
        plugin, database, lsn, status, active_pid, failover = found
        if plugin != PLUGIN or database != self.name:
            raise Misconfigured(
                f"slot {name}: expected plugin {PLUGIN} on database {self.name}, got {plugin or 'a physical slot'} on "
                f"{database or 'no database'}: slot names are one space for the whole server; give this relay another "
                "with --slot"
            )
        return SlotState(name, plugin, database, lsn_number(lsn), status == "lost", active_pid, failover)

    def standing(self) -> SlotStanding | None:
        """How the slot stands now; None where there is none."""
        with reacting():
            found = self.ask(
                "SELECT extract(epoch FROM clock_timestamp())::float8, active, wal_status = 'lost',"
                " coalesce(pg_current_wal_lsn() - confirmed_flush_lsn, 0)::bigint,"
                " coalesce(pg_current_wal_lsn() - restart_lsn, 0)::bigint, safe_wal_size"
                " FROM pg_replication_slots WHERE slot_name = %s",
                [self._names.slot],
            )
        return SlotStanding(*found[0]) if found else None

    def create_slot(self) -> None:
        """Make the slot, one that standbys may copy; the server waits for every transaction that runs now to end."""
        log.info("making replication slot %s: it waits for running transactions to end", self._names.slot)
        expect_answers(self._connection, SLOT_CREATION_MS / 1000 + answers.ANSWER_SECONDS)
        with reacting():
            self._connection.execute("SELECT set_config('statement_timeout', %s, false)", [str(SLOT_CREATION_MS)])
            try:
                self._connection.execute(
                    f"SELECT pg_create_logical_replication_slot(%s, %s{self._failover})".encode(),
                    [self._names.slot, PLUGIN],
                )
            except errors.DuplicateObject:
                log.info("replication slot %s was made by another relay meanwhile", self._names.slot)
            except errors.ConfigurationLimitExceeded as error:
                raise Misconfigured(
                    f"slot {self._names.slot}: expected a free replication slot, got: {line(error)}: raise "
                    "max_replication_slots, or drop slots that nobody reads"
                ) from error
            finally:
                if not self._connection.closed:
                    self._connection.execute("RESET statement_timeout")
                    expect_answers(self._connection, answers.ANSWER_SECONDS)

    @property
    def _failover(self) -> str:
        return ", failover => true" if self._connection.info.server_version >= FAILOVER_VERSION else ""

    def drop_slot(self) -> None:
        """Drop the slot. Raises SlotInUse."""
        with reacting():
            self._connection.execute("SELECT pg_drop_replication_slot(%s)", [self._names.slot])

    def checkpoint(self) -> Checkpoint | None:
        """What this relay noted last; None before its first start."""
        with reacting():
            if not self._has_checkpoints():
                return None
            found = self._connection.execute(
                # The doctor may come before the relay that adds the last column.
                sql.SQL(
                    "SELECT system_id, confirmed_lsn::text, (to_jsonb(t) ->> 'below')::bigint FROM {} t WHERE slot = %s"
                ).format(self._checkpoints),
                [self._names.slot],
            ).fetchone()
        return None if found is None else Checkpoint(found[0], lsn_number(found[1]), found[2])

    def _has_checkpoints(self, column: str = "slot") -> bool:
        [(there,)] = self.ask(
            "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(quote_ident(%s)) AND attname = %s)",
            [f"{self._names.table}_relay", column],
        )
        return bool(there)

    def make_checkpoints(self) -> None:
        """Make the table of checkpoints where it, or its last column, is absent.

        Raises Misconfigured without the right to.
        """
        with reacting():
            if not self._has_checkpoints("below"):
                self._make_checkpoints()

    def _make_checkpoints(self) -> None:
        statement = sql.SQL(MAKE_CHECKPOINTS).format(self._checkpoints)
        try:
            self._connection.execute(statement)
        except (errors.UniqueViolation, errors.DuplicateTable):
            log.debug("another relay made the checkpoint table at the same moment")
        except errors.InsufficientPrivilege as error:
            raise Misconfigured(
                f"database {self.name}: expected table {self._names.table}_relay with all its columns, or the right to "
                f"make it so, got neither: {statement.as_string(self._connection)}"
            ) from error

    def begin(self, server: Server) -> None:
        """Note that nothing is known to be published, where nothing is noted: before there is a slot, whose position
        would be taken for what is (see `retention`)."""
        statement = sql.SQL(
            "INSERT INTO {} (slot, system_id, confirmed_lsn) VALUES (%s, %s, '0/0') ON CONFLICT DO NOTHING"
        ).format(self._checkpoints)
        with reacting():
            self._connection.execute(statement, [self._names.slot, server.system_id])

    def forget(self, holder: Holder) -> None:
        """Note that nothing is known to be published: from here on a crash leads to publishing again."""
        # All that is in the table is published after this: what the publication was before does not matter.
        self._note(holder, 0, None, sql.SQL("EXCLUDED.confirmed_lsn, EXCLUDED.below"), sql.SQL("true"))

    def note(self, holder: Holder, lsn: int) -> None:
        """Note that everything up to `lsn` is published.

        Raises Disconnected where the slot is another's by now, Gap where the publication was changed.
        """
        # What had ended when the log stood at a place is published once all up to that place is.
        below = self._passed[1] if self._passed is not None and self._passed[0] <= lsn else None
        kept = sql.SQL("greatest(t.confirmed_lsn, EXCLUDED.confirmed_lsn), coalesce(EXCLUDED.below, t.below)")
        place = self._note(holder, lsn, below, kept, self._unchanged)
        if self._passed is None or below is not None:
            self._passed = place

    def _note(
        self, holder: Holder, lsn: int, below: int | None, values: sql.SQL, condition: sql.Composable
    ) -> tuple[int, int]:
        """Returns where the log stands, and below which number every transaction had ended before that."""
        # A relay that slept while another took over must not write over what that one noted: it has to hold the slot.
        statement = sql.SQL(
            "INSERT INTO {} AS t (slot, system_id, confirmed_lsn, below) SELECT slot_name, %s, %s, %s::text::xid8"
            " FROM pg_replication_slots WHERE slot_name = %s AND active_pid = %s AND {} ON CONFLICT (slot) DO UPDATE"
            " SET system_id = EXCLUDED.system_id, (confirmed_lsn, below) = ROW({}), updated_at = now()"
            " RETURNING (pg_current_wal_insert_lsn() - '0/0')::bigint,"
            " pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
        ).format(self._checkpoints, condition, values)
        slot, system_id = self._names.slot, holder.server.system_id
        with reacting():
            noted = self._connection.execute(statement, [system_id, lsn_text(lsn), below, slot, holder.pid]).fetchone()
            held = noted or self.ask("SELECT FROM pg_replication_slots WHERE active_pid = %s", [holder.pid])
        if held and noted is None:
            raise Gap(
                f"publication {self._names.publication}: expected it unchanged since {slot} was last confirmed, got it "
                f"missing, altered or made again: rows committed meanwhile may have been left out. {REMEDY}"
            )
        if noted is None:
            raise Disconnected(
                f"slot {slot}: expected it held by this relay (server process {holder.pid}), got it let go or taken "
                f"over: {lsn_text(lsn)} is not noted"
            )
        return noted[0], noted[1]

    @property
    def _unchanged(self) -> sql.Composed:
        slot, publication = sql.Literal(self._names.slot), sql.Literal(self._names.publication)
        return sql.SQL(UNCHANGED).format(checkpoints=self._checkpoints, slot=slot, publication=publication)

    def rows(self, below: int | None) -> tuple[Mapping, Generator[Sequence[bytes | None], None, None]]:
        """Every row of the outbox, in the order of their transactions and of insertion within one, streamed.

        Without those of transactions numbered below `below`, if it is given.
        """
        with reacting():
            found = columns(self.ask, self._names.table)
        needed_ones = [column for column in found if column.name in REQUIRED]
        statement = sql.SQL(
            "COPY (SELECT {} FROM {} WHERE xid >= {} ORDER BY xid, created_at, tableoid, ctid)"
            " TO STDOUT (FORMAT binary)"
        ).format(
            sql.SQL(", ").join(sql.Identifier(column.name) for column in needed_ones),
            sql.Identifier(self._names.table),
            sql.Literal(str(below or 0)),
        )
        expect_answers(self._connection, answers.LONG_SECONDS)
        return Mapping(self._names.table, needed_ones), self._copy(statement)

    def _copy(self, statement: sql.Composed) -> Generator[Sequence[bytes | None], None, None]:
        with reacting(), self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            yield from copy.rows()

    @property
    def name(self) -> str:
        """The database's."""
        return self._connection.info.dbname
