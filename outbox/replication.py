"""The door to PostgreSQL's log: a replication connection that holds the slot.

It yields decoded messages and sends feedback, and belongs to one thread. psycopg has no announced API for
replication; what is used, beside START_REPLICATION, are libpq's own calls on `pgconn` (get_copy_data, put_copy_data),
with a test that holds psycopg to them.
"""

import select
import time
from contextlib import closing
from typing import Any, Final

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from kompensate.outbox import answers
from kompensate.outbox.checkpoint import Holder, Server
from kompensate.outbox.database import PATIENCE_MS, Database, connect, conninfo, line, reacting
from kompensate.outbox.errors import Disconnected, Misconfigured
from kompensate.outbox.naming import Names
from kompensate.outbox.pgoutput import Keepalive, Message, decode, feedback, lsn_number

BATCH_MAX: Final = 1_000
"""Messages of one read: what comes later waits until these are on their way."""
SILENCE_MS: Final = 3_000
"""A relay that tells the server nothing for so long (paused, or its machine gone) loses the slot to another."""


class Slot:
    """A held slot: the relay's Source. Confirming notes the position in `database` first."""

    def __init__(self, dsn: str, names: Names, database: Database) -> None:
        """Take the slot and read from its confirmed position. Raises SlotInUse, Disconnected, Misconfigured."""
        self._database = database
        self._connection = _replicate(dsn, names)
        try:
            with reacting():
                self.holder = Holder(_server(self._connection), self._connection.info.backend_pid)
                self._start(names)
        except BaseException:
            self._connection.close()
            raise
        self._pgconn = self._connection.pgconn
        self._lsn = 0
        self._heard_at = time.monotonic()
        self._asked_at: float | None = None
        """When a server that says nothing was asked whether it is there."""
        self._poll = select.poll()
        self._poll.register(self._pgconn.socket, select.POLLIN)

    def _start(self, names: Names) -> None:
        # A walsender takes no parameters.
        statement = sql.SQL(
            "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {}, binary 'true')"
        ).format(sql.Identifier(names.slot), sql.Literal(f'"{names.publication}"'))
        try:
            self._connection.execute(statement)
        except errors.UndefinedObject as error:
            raise Disconnected(f"slot {names.slot}: {line(error)}") from error

    def begin_at(self, lsn: int) -> None:
        """What the slot's confirmed position is: heartbeats say no less."""
        self._lsn = lsn

    def read(self, timeout: float) -> list[Message]:
        """See relay.Source."""
        messages: list[Message] = []
        take = self._pgconn.get_copy_data
        waited = False
        with reacting():
            while len(messages) < BATCH_MAX:
                size, data = take(1)
                if size > 0:
                    message = decode(bytes(data))
                    if type(message) is Keepalive and message.reply_requested:
                        self._send()
                    messages.append(message)
                elif size < 0:
                    raise Disconnected(f"PostgreSQL: replication ended: {self._last_words()}")
                elif messages or waited:
                    break
                else:
                    self._listen(timeout)
                    waited = True
        if messages:
            self._asked_at = None
        return messages

    def _listen(self, timeout: float) -> None:
        """Wait for what comes. A server that has nothing to say is asked for a sign of life, and given time for it.

        The time begins with the question: who did not read for a while (Kafka was away) has heard nothing either.
        """
        came = self._poll.poll(timeout * 1000)
        self._pgconn.consume_input()
        now, limit = time.monotonic(), answers.ANSWER_SECONDS
        if came:
            self._heard_at, self._asked_at = now, None
        elif self._asked_at is not None and now - self._asked_at > limit:
            raise Disconnected(f"PostgreSQL: expected a sign of life within {limit:g} s, got none")
        elif self._asked_at is None and now - self._heard_at > limit / 2:
            self._asked_at = now
            self._send(ask=True)

    def confirm(self, lsn: int) -> None:
        """See relay.Source. The note comes first: the slot never stands beyond what we know (see `checkpoint`)."""
        self.note(lsn)
        self._lsn = max(lsn, self._lsn)
        self.heartbeat()

    def forget(self) -> None:
        """Note that nothing is known to be published."""
        self._database.forget(self.holder)

    def note(self, lsn: int) -> None:
        """Note that everything up to `lsn` is published. Raises Disconnected where the slot is another's by now."""
        self._database.note(self.holder, lsn)

    def heartbeat(self) -> None:
        """See relay.Source."""
        with reacting():
            self._send()

    def close(self) -> None:
        """Let go of the slot."""
        self._connection.close()

    def _send(self, *, ask: bool = False) -> None:
        self._pgconn.put_copy_data(feedback(self._lsn, time.time(), ask=ask))
        # Waiting for room alone could lock both sides up: the server may be waiting for us to read.
        while self._pgconn.flush():
            readable, _, _ = select.select([self._pgconn.socket], [self._pgconn.socket], [], PATIENCE_MS / 1000)
            if readable:
                self._pgconn.consume_input()

    def _last_words(self) -> str:
        result = self._pgconn.get_result()
        words = b"" if result is None else result.error_message
        return " ".join(words.decode("utf-8", "replace").split()) or "the server closed it"


def server_of(dsn: str, names: Names) -> Server:
    """Which server answers, and where its timeline began. Raises Disconnected, Misconfigured."""
    with closing(_replicate(dsn, names)) as connection, reacting():
        return _server(connection)


def let_fail_over(dsn: str, names: Names) -> None:
    """Have an existing slot copied by standbys, on PostgreSQL 17 or later. Raises SlotInUse, Disconnected."""
    statement = sql.SQL("ALTER_REPLICATION_SLOT {} (FAILOVER true)").format(sql.Identifier(names.slot))
    with closing(_replicate(dsn, names)) as connection, reacting():
        connection.execute(statement)


def _server(connection: psycopg.Connection[Any]) -> Server:
    system_id, timeline = _fetch(connection, "IDENTIFY_SYSTEM")[:2]
    if timeline == 1:
        return Server(str(system_id), 0)
    try:
        # One line a former timeline: its number, where it was left, why.
        content = _fetch(connection, f"TIMELINE_HISTORY {timeline:d}")[1]
    except errors.UndefinedFile:
        return Server(str(system_id), 0)  # somebody tidied up: then nothing is known of a promotion
    text = content if isinstance(content, str) else bytes(content).decode("utf-8", "replace")  # bytea before 15
    former = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return Server(str(system_id), lsn_number(former[-1][1]))


def _fetch(connection: psycopg.Connection[Any], statement: str) -> tuple[Any, ...]:
    found = connection.execute(statement.encode()).fetchone()
    assert isinstance(found, tuple)
    return found


def refusal_of(dsn: str, names: Names) -> str | None:
    """Why a replication connection cannot be had; None where it can."""
    try:
        _replicate(dsn, names).close()
    except (Disconnected, Misconfigured) as error:
        return str(error)
    return None


def _replicate(dsn: str, names: Names) -> psycopg.Connection[Any]:
    """A connection to a walsender. Raises Disconnected, or Misconfigured where the role may not have one."""
    parts = conninfo(dsn, f"-c wal_sender_timeout={SILENCE_MS}")
    try:
        return connect(make_conninfo(parts, replication="database"))
    except Disconnected as error:
        # A refused connection has no SQLSTATE; the attribute's name stands in the message of every version.
        if "replication role" in str(error) or "REPLICATION attribute" in str(error):
            raise Misconfigured(
                f"slot {names.slot}: expected a role with the REPLICATION attribute, got: {line(error)}: "
                "ALTER ROLE … REPLICATION"
            ) from error
        raise
