"""The inbox: which commands a service has seen and what it answered, in the service's own database.

All of it runs in the caller's transaction, a group of commands at a time. A claim is a row that no other
transaction can pass: a second claimer of the same command waits on it, then reads the answer that was
committed. No row is left `claimed` by this module's callers: at the end of the transaction each claim is
answered, cancelled or released.
"""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import Connection

from kompensate.outbox.naming import MYSQL
from kompensate.outbox.tables import INBOX, OUTBOX
from kompensate.outbox.writer import COLUMNS, RECORD, VALUES, Row, as_json, driver_cursor, write

State: TypeAlias = Literal["claimed", "answered", "cancelled", "deferred"]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the inbox knows of one command."""

    state: State
    outcome: str | None = None
    reply: bytes | None = None
    reply_type: str | None = None
    content_type: str | None = None


class Vanished(RuntimeError):
    """A row was deleted (by the retention) between two statements: the transaction is to be done again."""


_CLAIM = (
    f"INSERT INTO {INBOX} (consumer, command_id, state) SELECT %s, unnest(%s::text[]), 'claimed' "
    "ON CONFLICT DO NOTHING RETURNING command_id"
)
_CLAIM_SQLITE = f"INSERT INTO {INBOX} (consumer, command_id, state) VALUES (?, ?, 'claimed') ON CONFLICT DO NOTHING"  # noqa: S608 our own names
# No INSERT IGNORE, which would cut an id that is too long. What it finds it locks until the end; whether a row is new
# its count does not tell, so that is read from the row.
_CLAIM_MYSQL = (
    f"INSERT INTO {INBOX} (consumer, command_id, state, claim) VALUES (%s, %s, %s, %s) "  # noqa: S608 our own names
    "ON DUPLICATE KEY UPDATE claim = claim"
)
_READ_MYSQL = (
    f"SELECT command_id, state, outcome, reply, reply_type, content_type, claim <=> %s FROM {INBOX} "  # noqa: S608 our own names
    "WHERE consumer = %s AND command_id IN %s"
)
_ANSWER_MYSQL = (
    f"INSERT INTO {INBOX} (consumer, command_id, state, outcome, reply, reply_type, content_type) "  # noqa: S608 our own names
    "VALUES (%s, %s, %s, %s, %s, %s, %s) ON DUPLICATE KEY UPDATE state = VALUES(state), outcome = VALUES(outcome), "
    "reply = VALUES(reply), reply_type = VALUES(reply_type), content_type = VALUES(content_type)"
)
_READ = (
    f"SELECT command_id, state, outcome, reply, reply_type, content_type FROM {INBOX} "  # noqa: S608 our own names
    "WHERE consumer = %s AND command_id = ANY(%s::text[])"
)
_READ_SQLITE = (
    f"SELECT command_id, state, outcome, reply, reply_type, content_type FROM {INBOX} "  # noqa: S608 our own names
    "WHERE consumer = ? AND command_id = ?"
)
_SET = (
    "state = 'answered', outcome = r.ce_replyoutcome, reply = decode(r.payload, 'base64'), "
    "reply_type = r.type, content_type = r.content_type"
)
_ANSWER = (
    f"WITH r AS (SELECT * FROM json_to_recordset(%s::json) AS r({RECORD})), "  # noqa: S608 our own names
    f"settled AS (UPDATE {INBOX} i SET {_SET} FROM r "
    "WHERE i.consumer = %s AND i.command_id = r.ce_causationid AND i.command_id = ANY(%s::text[])) "
    f"INSERT INTO {OUTBOX} ({COLUMNS}) SELECT {VALUES} FROM r"
)
_ANSWER_SQLITE = (
    f"UPDATE {INBOX} SET state = 'answered', outcome = ?, reply = ?, reply_type = ?, content_type = ? "  # noqa: S608 our own names
    "WHERE consumer = ? AND command_id = ?"
)
_CANCEL = f"UPDATE {INBOX} SET state = 'cancelled' WHERE consumer = {{0}} AND command_id = {{0}}"  # noqa: S608 our own names
_NOTE = f"UPDATE {INBOX} SET state = 'answered', outcome = 'done' WHERE consumer = {{0}} AND command_id = {{0}}"  # noqa: S608 our own names
_RELEASE = f"DELETE FROM {INBOX} WHERE consumer = {{0}} AND command_id = {{0}}"  # noqa: S608 our own names


def claim(connection: Connection, consumer: str, command_ids: Iterable[str]) -> dict[str, Entry | None]:
    """Claim what nobody has seen; return every id with what was known of it, None for the claims made now.

    Waits while another transaction holds one of the ids. Raises Vanished, and what the database raises
    (two groups that claim each other's commands may deadlock: do the transaction again).
    """
    ids = sorted(set(command_ids))  # one order for all, so that two groups seldom wait for each other
    if connection.dialect.name in MYSQL:
        return _claim_mysql(connection, consumer, ids)
    if connection.dialect.name == "sqlite":
        cursor = driver_cursor(connection)
        fresh = {i for i in ids if cursor.execute(_CLAIM_SQLITE, (consumer, i)).rowcount}
    else:
        fresh = set(connection.exec_driver_sql(_CLAIM, (consumer, ids)).scalars())
    book: dict[str, Entry | None] = dict.fromkeys(fresh)
    known = [i for i in ids if i not in fresh]
    if known:
        # A statement of its own: its snapshot is newer than the commit that the claim waited for.
        book.update(_read(connection, consumer, known))
    return _whole(book, ids)


def _claim_mysql(connection: Connection, consumer: str, ids: list[str]) -> dict[str, Entry | None]:
    if not ids:
        return {}
    claim = secrets.randbits(63)
    driver_cursor(connection).executemany(_CLAIM_MYSQL, [(consumer, i, "claimed", claim) for i in ids])
    rows = _rows_mysql(connection, consumer, ids, claim)
    return _whole({row[0]: None if row[6] else Entry(*row[1:6]) for row in rows}, ids)


def _whole(book: dict[str, Entry | None], ids: Sequence[str]) -> dict[str, Entry | None]:
    if len(book) != len(ids):
        raise Vanished(f"inbox: expected rows of {len(ids)} commands, got {len(book)}: the others were just deleted")
    return book


def answer(connection: Connection, consumer: str, replies: Sequence[Row], settled: Iterable[str]) -> None:
    """Add `replies` to the outbox and keep those of the `settled` commands in their inbox rows."""
    if not replies:
        return
    ids = list(settled)
    if connection.dialect.name in MYSQL:
        write(connection, replies)
        kept = [
            (consumer, r.ce_causationid, "answered", r.ce_replyoutcome, r.payload, r.type, r.content_type)
            for r in replies
            if r.ce_causationid in ids
        ]
        driver_cursor(connection).executemany(_ANSWER_MYSQL, kept)
    elif connection.dialect.name == "sqlite":
        write(connection, replies)
        cursor = driver_cursor(connection)
        for row in replies:
            if row.ce_causationid in ids:
                known = (
                    row.ce_replyoutcome,
                    row.payload,
                    row.type,
                    row.content_type,
                    consumer,
                    row.ce_causationid,
                )
                cursor.execute(_ANSWER_SQLITE, known)
    elif not ids:
        write(connection, replies)
    else:
        # Planned anew each time: a plan kept from when the table was small would read all of it for ever.
        _execute_unprepared(connection, _ANSWER, (as_json(replies), consumer, ids))


def cancel(connection: Connection, consumer: str, command_ids: Sequence[str]) -> None:
    """Mark commands that were compensated before they arrived: they will be refused when they do."""
    _each(connection, _CANCEL, consumer, command_ids)


def note(connection: Connection, consumer: str, event_ids: Sequence[str]) -> None:
    """Mark events as handled: nothing is kept of them but that they were here."""
    _each(connection, _NOTE, consumer, event_ids)


def release(connection: Connection, consumer: str, command_ids: Sequence[str]) -> None:
    """Give up claims of this transaction: to every other it is as if they had never been."""
    _each(connection, _RELEASE, consumer, command_ids)


def _read(connection: Connection, consumer: str, ids: list[str]) -> dict[str, Entry | None]:
    rows: list[Any] = []
    if connection.dialect.name in MYSQL:
        rows.extend(row[:6] for row in _rows_mysql(connection, consumer, ids, None))
    elif connection.dialect.name == "sqlite":
        for command_id in ids:
            rows.extend(driver_cursor(connection).execute(_READ_SQLITE, (consumer, command_id)))
    else:
        rows.extend(_execute_unprepared(connection, _READ, (consumer, ids)).fetchall())
    return {row[0]: Entry(*row[1:]) for row in rows}


def _rows_mysql(connection: Connection, consumer: str, ids: list[str], claim: int | None) -> Any:
    if not ids:
        return []
    cursor = driver_cursor(connection)
    cursor.execute(_READ_MYSQL, (claim, consumer, ids))
    return cursor.fetchall()


def _each(connection: Connection, statement: str, consumer: str, ids: Sequence[str]) -> None:
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    if ids:
        connection.exec_driver_sql(statement.format(mark), [(consumer, command_id) for command_id in ids])


def _execute_unprepared(connection: Connection, statement: str, parameters: tuple[object, ...]) -> Any:
    cursor: Any = connection.connection.cursor()
    return cursor.execute(statement, parameters, prepare=False)
