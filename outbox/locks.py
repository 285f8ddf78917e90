"""Semantic locks in a service's own database: who holds which, who waits, and who waits for whom.

A lock is a row from the transaction that takes it to the one that releases it, and outlives crashes between them.
All of it runs in the caller's transaction. Taking is an upsert, which no two transactions win; what looks taken is only
read, so that sagas that wait do not stand in each other's way. Times are by the database's clock: services' differ.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from kompensate.outbox.naming import MYSQL

LAPSE_SECONDS: Final = 10.0
"""Who has not asked for so long waits no more: its command was given up, or its process is gone. Several times as long
as anybody pauses between two questions."""


class NoLocks(ValueError):
    """This kind of database is none that locks are kept in; the text says which are."""


class Owner(NamedTuple):
    """A saga of an application. Its runs are one owner: a new one goes on with what the last one holds."""

    app: str
    saga_id: str

    def __str__(self) -> str:
        return f"saga {self.saga_id} of {self.app.removeprefix('kompensate:')}"


@dataclass(frozen=True, slots=True)
class Held:
    """A lock that was taken. Times in seconds since the epoch; `expires_at` None: never. `broken`: by whom, and why."""

    name: str
    owner: Owner
    command_id: str
    token: int
    taken_at: float
    expires_at: float | None
    now: float
    broken: str | None

    @property
    def free(self) -> bool:
        """Whether anybody may take it: it has expired, or was broken."""
        return self.broken is not None or (self.expires_at is not None and self.expires_at <= self.now)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Who waits for a lock; the lowest ticket is next. Times in seconds since the epoch."""

    name: str
    owner: Owner
    ticket: int
    since: float
    seen_at: float
    now: float


_HELD = "name, app, saga_id, command_id, token, taken_at, expires_at, {now}, broken_by || ': ' || broken_why"
_READ = f"SELECT {_HELD} FROM saga_lock WHERE name = {{0}}"  # noqa: S608 our own names
_KEEP = _READ + "{share}"
_HOLDERS = f"SELECT {_HELD} FROM saga_lock ORDER BY taken_at"  # noqa: S608 our own names
_TAKE = (
    "INSERT INTO saga_lock AS held (name, app, saga_id, command_id, taken_at, expires_at) "
    "VALUES ({0}, {0}, {0}, {0}, {now}, {now} + CAST({0} AS double precision)) "
    "ON CONFLICT (name) DO UPDATE SET app = excluded.app, saga_id = excluded.saga_id, "
    "command_id = excluded.command_id, taken_at = excluded.taken_at, expires_at = excluded.expires_at, "
    "broken_at = NULL, broken_by = NULL, broken_why = NULL "
    "WHERE held.expires_at <= {now} OR held.broken_at IS NOT NULL RETURNING name"
)
# Only now, with the row in hand: a number drawn before it might be lower than one that another has got meanwhile.
_NUMBER = "UPDATE saga_lock SET token = {next_} WHERE name = {0} RETURNING token"
_EXTEND = (
    "UPDATE saga_lock SET expires_at = CASE WHEN expires_at > {now} + CAST({0} AS double precision) THEN expires_at "
    "WHEN expires_at IS NULL THEN NULL ELSE {now} + CAST({0} AS double precision) END WHERE name = {0}"
)
_RELEASE = "DELETE FROM saga_lock WHERE name = {0} AND (app = {0} AND saga_id = {0} OR command_id = {0}) RETURNING name"
_RELEASE_ALL = "DELETE FROM saga_lock WHERE app = {0} AND saga_id = {0} OR command_id = {0} RETURNING name"
_BREAK = (
    "UPDATE saga_lock SET broken_at = {now}, broken_by = {0}, broken_why = {0} "
    "WHERE name = {0} AND broken_at IS NULL RETURNING app, saga_id"
)
_WAITERS = (
    "SELECT name, app, saga_id, ticket, since, seen_at, {now} FROM saga_lock_wait "
    "WHERE seen_at > {now} - {lapse} ORDER BY ticket"
)
_ASK = (
    "INSERT INTO saga_lock_wait AS waits (name, app, saga_id, ticket, since, seen_at) "
    "VALUES ({0}, {0}, {0}, {next_}, {now}, {now}) ON CONFLICT (name, app, saga_id) DO UPDATE SET "
    "ticket = CASE WHEN waits.seen_at > {now} - {lapse} THEN waits.ticket ELSE excluded.ticket END, "
    "since = CASE WHEN waits.seen_at > {now} - {lapse} THEN waits.since ELSE excluded.since END, "
    "seen_at = excluded.seen_at"
)
_LEAVE = "DELETE FROM saga_lock_wait WHERE app = {0} AND saga_id = {0}"
_SWEEP = "DELETE FROM saga_lock_wait WHERE name = {0} AND seen_at < {now} - {lapse}"

_DIALECTS = {
    "postgresql": {"now": "extract(epoch FROM clock_timestamp())::double precision", "share": " FOR SHARE"},
    "sqlite": {"now": "((julianday('now') - 2440587.5) * 86400.0)", "share": ""},
}


class Locks:
    """The two tables, by cursors of the driver in the caller's transaction."""

    def __init__(self, cursor: Callable[[], Any], *, sqlite: bool) -> None:
        self._cursor = cursor
        self._sqlite = sqlite
        self._words = _DIALECTS["sqlite" if sqlite else "postgresql"]

    def held(self, name: str) -> Held | None:
        """Who has it, if anybody; it may be free all the same."""
        return next(map(_held, self._rows(_READ, name)), None)

    def keep(self, name: str) -> Held | None:
        """As `held`; and nobody takes it before the end of this transaction."""
        return next(map(_held, self._rows(_KEEP, name)), None)

    def take(self, name: str, owner: Owner, command_id: str, seconds: float | None) -> int | None:
        """The token of a lock that was free, None where somebody has it (by now)."""
        if not self._rows(_TAKE, name, *owner, command_id, seconds):
            return None
        token: int = self._next(_NUMBER, name)
        return token

    def extend(self, name: str, seconds: float | None) -> None:
        """Let it expire in `seconds` from now, unless it does so later."""
        self._rows(_EXTEND, seconds, seconds, name)

    def release(self, owner: Owner, command_id: str | None, names: Sequence[str]) -> list[str]:
        """Give up those of `names` that the owner holds or that the command took; all of them where none is named."""
        self._rows(_LEAVE, *owner)
        if not names:
            return sorted(row[0] for row in self._rows(_RELEASE_ALL, *owner, command_id))
        return [name for name in names if self._rows(_RELEASE, name, *owner, command_id)]

    def ask(self, owner: Owner, names: Sequence[str]) -> None:
        """Stand in line for each, or go on standing there."""
        for name in names:
            self._rows(_SWEEP, name)
            self._next(_ASK, name, *owner)

    def leave(self, owner: Owner) -> None:
        """Out of every line."""
        self._rows(_LEAVE, *owner)

    def waiters(self) -> list[Waiting]:
        """All who wait, by ticket."""
        rows = self._rows(_WAITERS)
        return [Waiting(row[0], Owner(*row[1:3]), *row[3:]) for row in rows]

    def holders(self) -> list[Held]:
        """All locks that were taken and not released, the oldest first."""
        return list(map(_held, self._rows(_HOLDERS)))

    def break_(self, name: str, who: str, why: str) -> Owner | None:
        """Free it by hand; whose it was, None where nobody has it."""
        return next((Owner(*row) for row in self._rows(_BREAK, who, why, name)), None)

    def _next(self, statement: str, *given: object) -> Any:
        """A statement with the next number; what it returns, if anything."""
        number = "nextval('saga_lock_token_seq')"
        if self._sqlite:
            self._rows("DELETE FROM saga_lock_token")
            number = str(self._rows("INSERT INTO saga_lock_token DEFAULT VALUES RETURNING value")[0][0])
        rows = self._rows(statement, *given, next_=number)
        return rows[0][0] if rows else None

    def _rows(self, statement: str, *given: object, next_: str = "") -> list[Any]:
        with closing(self._cursor()) as cursor:
            if not self._sqlite:
                cursor.row_factory = lambda _: tuple  # whatever a handler has set for its own
            mark = "?" if self._sqlite else "%s"
            cursor.execute(statement.format(mark, lapse=LAPSE_SECONDS, next_=next_, **self._words), given)
            return cursor.fetchall() if cursor.description else []


def locks_of(connection: Connection) -> Locks:
    """By a connection of SQLAlchemy's, in its transaction. Raises NoLocks where that database has none."""
    if connection.dialect.name in MYSQL:
        raise NoLocks(
            f"locks: expected a database of postgresql:// or sqlite://, got {connection.dialect.name}://: "
            "semantic locks are not supported there"
        )
    return Locks(connection.connection.cursor, sqlite=connection.dialect.name == "sqlite")


def _held(row: Any) -> Held:
    return Held(row[0], Owner(row[1], row[2]), *row[3:])
