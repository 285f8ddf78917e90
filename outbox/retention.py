"""What outbox and inbox may forget: whole days of rows that are in Kafka, and commands that nobody repeats any more.

A day's rows go when they are old enough *and* every reader has passed them: each logical slot of the database, the
relay's or Debezium's, has confirmed a log position that was written after them, and a relay that polls a transaction
that began after them. Our relay's slot counts as far as its note goes (`checkpoint`): a slot that was just made
stands behind rows that are still to be published from the table. Without a reader nobody has read them, and they
stay. The positions are noted in memory, so a restart only makes it take one round longer.
"""

from collections.abc import Sequence
from datetime import date, timedelta

from sqlalchemy import Connection, TextClause, text

from kompensate.outbox.naming import MYSQL
from kompensate.outbox.tables import IDEMPOTENCY, INBOX, OUTBOX, database_day

INBOX_ROWS_MAX = 5_000
"""Inbox rows deleted in one transaction: some 20 ms, for which its commands wait."""
LOCK_WAIT_SECONDS = 2
"""How long writers may be held up while a day's table waits for the last of them; then it is tried another time."""


class Retention:
    """Forgets, a round at a time. Rows of the outbox are kept `outbox_days`, those of the inbox `inbox_days`.

    An inbox row must outlive every repetition of its command: the command topic's retention, and the longest time that
    the orchestrator may be down with an answer unread. A command that comes after that is handled once more.
    """

    def __init__(self, outbox_days: int, inbox_days: int) -> None:
        """Raises ValueError for less than one day."""
        for name, days in (("outbox", outbox_days), ("inbox", inbox_days)):
            if days < 1:
                raise ValueError(f"retention of the {name}: expected at least 1 day, got {days}")
        self._outbox_days = timedelta(days=outbox_days)
        self._inbox_days = timedelta(days=inbox_days)
        self._noted: dict[str, tuple[int, int]] = {}

    def droppable(self, connection: Connection, today: date | None = None) -> list[str]:
        """The outbox's day tables that every reader has passed, the oldest first; others are noted for next time.

        Raises the database's error where its role may not read what the readers note.
        """
        if connection.dialect.name != "postgresql":
            return []  # there the relay deletes what it has sent
        last = (today or database_day(connection)) - self._outbox_days
        old = [name for name in _days(connection) if name <= f"{OUTBOX}_{last:%Y%m%d}"]
        has_notes, polls = connection.execute(_READERS).one()
        slots, slot_passed = connection.execute(_SLOTS_NOTED if has_notes else _SLOTS).one()
        polled = connection.execute(_POLLED).scalar_one() if polls else None
        lsn_now, xid_now = connection.execute(_NOW).one()
        noted = {name: self._noted.get(name, (lsn_now, xid_now)) for name in old}
        self._noted = noted
        if not slots and polled is None:
            return []
        return [
            name
            for name, (lsn, xid) in noted.items()
            if (not slots or (slot_passed is not None and lsn <= slot_passed)) and (polled is None or xid <= polled)
        ]

    def forget_inbox(self, connection: Connection) -> bool:
        """Delete some of the oldest inbox rows; True if there may be more. The caller commits."""
        return self._forget(connection, _FORGET, _FORGET_MYSQL)

    def forget_outside(self, connection: Connection) -> bool:
        """The same of the requests of outside calls that have their answer: for services that make any."""
        return self._forget(connection, _FORGET_OUTSIDE, _FORGET_OUTSIDE_MYSQL)

    def _forget(self, connection: Connection, statement: TextClause, in_mysql: TextClause) -> bool:
        if connection.dialect.name == "sqlite":
            return False
        mysql = connection.dialect.name in MYSQL
        days = self._inbox_days.days if mysql else self._inbox_days
        found = connection.execute(in_mysql if mysql else statement, {"days": days, "most": INBOX_ROWS_MAX})
        return found.rowcount == INBOX_ROWS_MAX


def drop(connection: Connection, table: str) -> None:
    """Drop one day's table of the outbox. The caller commits. Raises the database's error where others hold it."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_SECONDS}s'"))
    connection.execute(text(f"DROP TABLE {table}"))


_NOW = text(
    "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint, pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
)
_READERS = text(f"SELECT to_regclass('{OUTBOX}_relay') IS NOT NULL, to_regclass('{OUTBOX}_polled') IS NOT NULL")
_POLLED = text(f"SELECT min(below::text::bigint) FROM {OUTBOX}_polled")  # noqa: S608 our own names
# The position is NULL where a slot has confirmed nothing yet, or there is none. Debezium's slots have no note.
_PASSED = (
    "SELECT count(*), CASE WHEN bool_and(confirmed_flush_lsn IS NOT NULL) THEN min({} - '0/0')::bigint END "
    "FROM pg_replication_slots {} WHERE slot_type = 'logical' AND database = current_database()"
)
_SLOTS = text(_PASSED.format("confirmed_flush_lsn", ""))
_SLOTS_NOTED = text(
    _PASSED.format("least(confirmed_flush_lsn, confirmed_lsn)", f"LEFT JOIN {OUTBOX}_relay ON slot = slot_name")
)
# What an outside call still needs is kept, however old: its outcome may be unknown for weeks.
_FORGET = text(
    f"DELETE FROM {INBOX} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {INBOX} "  # noqa: S608 our own names
    "WHERE received_at < now() - CAST(:days AS interval) AND state IN ('answered', 'cancelled') LIMIT :most))"
)
_FORGET_MYSQL = text(
    f"DELETE FROM {INBOX} WHERE received_at < UTC_TIMESTAMP(6) - INTERVAL :days DAY "  # noqa: S608 our own names
    "AND state IN ('answered', 'cancelled') ORDER BY received_at LIMIT :most"
)
_FORGET_OUTSIDE_MYSQL = text(
    f"DELETE FROM {IDEMPOTENCY} WHERE created_at < UTC_TIMESTAMP(6) - INTERVAL :days DAY "  # noqa: S608 our own names
    "AND status = 'closed' ORDER BY created_at LIMIT :most"
)
_FORGET_OUTSIDE = text(
    f"DELETE FROM {IDEMPOTENCY} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {IDEMPOTENCY} "  # noqa: S608 our own names
    "WHERE created_at < now() - CAST(:days AS interval) AND status = 'closed' LIMIT :most))"
)
_DAYS = text(
    "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "  # noqa: S608 our own names
    rf"WHERE inhparent = to_regclass('{OUTBOX}') AND child.relname ~ '^{OUTBOX}_\d{{8}}$' ORDER BY 1"
)


def _days(connection: Connection) -> Sequence[str]:
    return connection.execute(_DAYS).scalars().all()
