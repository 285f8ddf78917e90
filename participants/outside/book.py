"""The rows of outside calls: inbox rows that are left claimed or deferred, and beside each its record and request.

All of it runs in the caller's transaction. `lease` says until when nobody but its owner takes a command up. Changes
name what they expect to find (state, owner), and tell whether they found it: two workers may look at one row.
"""

import base64
import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    select,
    update,
)

from kompensate.outbox.tables import IDEMPOTENCY, INBOX
from kompensate.participants.outside.moments import epoch
from kompensate.participants.ports import Place, Record
from kompensate.schemas.messages import Command

Status: TypeAlias = Literal["kept", "called", "asked", "unknown", "closed"]

_METADATA = MetaData()
_INBOX = Table(
    INBOX,
    _METADATA,
    *(Column(name, Text) for name in ("consumer", "command_id", "state", "owner", "outcome")),
    Column("lease", DateTime(timezone=True)),
)
_KEPT = Table(
    IDEMPOTENCY,
    _METADATA,
    *(Column(name, Text) for name in ("consumer", "command_id", "request_hash", "status", "contract", "waits_for")),
    *(Column(name, Integer) for name in ("tries", "asks", "record_partition", "record_offset")),
    *(Column(name, Text) for name in ("progress", "reason", "record_topic", "record_headers")),
    *(Column(name, LargeBinary) for name in ("record_key", "record_value")),
    *(Column(name, Boolean) for name in ("doubt", "buried")),
    Column("spent", Double),
    Column("called_at", DateTime(timezone=True)),
)
_BOTH = _INBOX.join(_KEPT, and_(_INBOX.c.consumer == _KEPT.c.consumer, _INBOX.c.command_id == _KEPT.c.command_id))
_NO_RECORD = dict.fromkeys(
    ("record_topic", "record_partition", "record_offset", "record_key", "record_value", "record_headers")
)


@dataclass(frozen=True, slots=True)
class Kept:
    """One outside command as the database has it. `called_at` is in seconds since the epoch, `spent` in seconds.

    `buried`: its record is a dead letter already.
    """

    command_id: str
    state: str
    owner: str | None
    status: Status
    contract: str
    tries: int
    asks: int
    doubt: bool
    buried: bool
    spent: float
    called_at: float | None
    progress: str | None
    record: Record | None


def request_hash(command: Command) -> str:
    """What a key stands for: the command's type and payload."""
    return hashlib.sha256(command.type.encode() + b"\0" + (command.payload or b"")).hexdigest()


class Book:
    """The rows of one service, in the transaction of `connection`, which began at `now` (seconds since the epoch)."""

    def __init__(self, connection: Connection, consumer: str, now: float) -> None:
        self._connection = connection
        self._consumer = consumer
        self.now = now

    def enter(self, command: Command, record: Record) -> None:
        """Write down a command that this transaction claimed; then `defer` or `begin` says what becomes of it."""
        values = {
            "consumer": self._consumer,
            "command_id": command.id,
            "request_hash": request_hash(command),
            "status": "kept",
            "contract": command.type,
            **_columns(record),
        }
        self._connection.execute(_KEPT.insert().values(values))

    def defer(self, command_id: str, lease: float, waits_for: str | None = None) -> None:
        """Have a command that went out to nobody taken up in `lease` seconds, or when what it waits for has ended."""
        self._set_inbox([command_id], state="deferred", owner=None, lease=self._moment(lease))
        if waits_for is not None:
            self.note([command_id], waits_for=waits_for)

    @staticmethod
    def open_everywhere(connection: Connection) -> list[tuple[str, Kept, str | None, float | None]]:
        """(service, command, newest trouble, lease) of all that have no answer, of every service, the oldest first."""
        asked = _asked().add_columns(_KEPT.c.consumer, _KEPT.c.reason, _INBOX.c.lease).where(_KEPT.c.status != "closed")
        rows = connection.execute(asked.order_by(_KEPT.c.called_at, _KEPT.c.command_id))
        return [(row.consumer, _kept(row), row.reason, epoch(row.lease)) for row in rows]

    def hashes(self, command_ids: Collection[str]) -> dict[str, str]:
        """What each key that was used stands for."""
        asked = select(_KEPT.c.command_id, _KEPT.c.request_hash).where(self._kept(command_ids))
        return {row[0]: row[1] for row in self._connection.execute(asked)}

    def due(self, states: Collection[str], contracts: Collection[str], *, within: bool, most: int) -> list[Kept]:
        """Commands that somebody has to take up, the longest due first; locked, those that others hold left out.

        `within`: of these contracts; else of all others.
        """
        named = _KEPT.c.contract.in_(contracts)
        asked = (
            _asked()
            .where(_INBOX.c.consumer == self._consumer, _INBOX.c.lease <= self._moment(0), _INBOX.c.state.in_(states))
            .where(named if within else ~named)
            .order_by(_INBOX.c.lease)
            .limit(most)
            .with_for_update(of=_INBOX, skip_locked=True)
        )
        return [_kept(row) for row in self._connection.execute(asked)]

    def locked(self, command_ids: Collection[str]) -> dict[str, Kept]:
        """These commands, so that nobody else changes them before this transaction ends."""
        asked = _asked().where(self._inbox(command_ids)).order_by(_INBOX.c.command_id).with_for_update(of=_INBOX)
        return {row.command_id: _kept(row) for row in self._connection.execute(asked)}

    def hold(self, command_ids: Collection[str], owner: str, lease: float) -> None:
        """From now on these are `owner`'s, until the lease ends."""
        self._set_inbox(command_ids, owner=owner, lease=self._moment(lease))

    def extend(self, command_id: str, owner: str, lease: float, progress: str | None) -> bool:
        """A sign of life; False: it is `owner`'s no more."""
        mine = and_(self._inbox([command_id]), _INBOX.c.state == "claimed", _INBOX.c.owner == owner)
        found = self._connection.execute(update(_INBOX).where(mine).values(lease=self._moment(lease))).rowcount
        if found and progress is not None:
            self.note([command_id], progress=progress)
        return bool(found)

    def mine(self, command_ids: Collection[str], owner: str) -> set[str]:
        """Which of these deferred commands are `owner`'s still; they are locked."""
        asked = select(_INBOX.c.command_id).where(
            self._inbox(command_ids), _INBOX.c.state == "deferred", _INBOX.c.owner == owner
        )
        return set(self._connection.execute(asked.order_by(_INBOX.c.command_id).with_for_update()).scalars())

    def cancel(self, command_id: str) -> bool:
        """Cancel a deferred command; False: somebody has taken it up."""
        deferred = and_(self._inbox([command_id]), _INBOX.c.state == "deferred")
        done = self._connection.execute(update(_INBOX).where(deferred).values(state="cancelled")).rowcount
        if done:
            self.close([command_id])
        return bool(done)

    def begin(self, command_id: str, owner: str, lease: float, **counts: object) -> None:
        """A call, or a query, is about to begin."""
        self._set_inbox([command_id], state="claimed", owner=owner, lease=self._moment(lease))
        self.note([command_id], **counts)

    def rest(self, command_id: str, lease: float | None, **notes: object) -> None:
        """Nothing of it is under way: whoever comes first takes it up after `lease` seconds; None: nobody."""
        self._set_inbox([command_id], owner=None, lease=None if lease is None else self._moment(lease))
        self.note([command_id], **notes)

    def close(self, command_ids: Collection[str]) -> None:
        """They are answered or cancelled: their records are needed no more. Wake what waited for them."""
        self._set_inbox(command_ids, owner=None, lease=None)
        self.note(command_ids, status="closed", **_NO_RECORD)
        waiting = select(_KEPT.c.command_id).where(
            _KEPT.c.consumer == self._consumer, _KEPT.c.waits_for.in_(command_ids), _KEPT.c.status == "kept"
        )
        woken = and_(_INBOX.c.consumer == self._consumer, _INBOX.c.command_id.in_(waiting))
        free = and_(woken, _INBOX.c.state == "deferred", _INBOX.c.owner.is_(None))
        self._connection.execute(update(_INBOX).where(free).values(lease=self._moment(0)))

    def awaited(self, command_ids: Collection[str]) -> set[str]:
        """Those for whose end a compensation waits."""
        asked = select(_KEPT.c.waits_for).where(
            _KEPT.c.consumer == self._consumer, _KEPT.c.waits_for.in_(command_ids), _KEPT.c.status == "kept"
        )
        return set(self._connection.execute(asked).scalars())

    def note(self, command_ids: Collection[str], **values: object) -> None:
        """Write columns of `idempotency`."""
        if values:
            self._connection.execute(update(_KEPT).where(self._kept(command_ids)).values(values))

    def called_now(self) -> datetime:
        """This moment, for `called_at`."""
        return self._moment(0)

    def _set_inbox(self, command_ids: Collection[str], **values: object) -> None:
        self._connection.execute(update(_INBOX).where(self._inbox(command_ids)).values(values))

    def _inbox(self, command_ids: Collection[str]) -> ColumnElement[bool]:
        return and_(_INBOX.c.consumer == self._consumer, _INBOX.c.command_id.in_(command_ids))

    def _kept(self, command_ids: Collection[str]) -> ColumnElement[bool]:
        return and_(_KEPT.c.consumer == self._consumer, _KEPT.c.command_id.in_(command_ids))

    def _moment(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(self.now + seconds, UTC)


def _asked() -> Select[Any]:
    columns = [column for column in _KEPT.columns if column.name not in ("consumer", "request_hash", "reason")]
    return select(_INBOX.c.state, _INBOX.c.owner, *columns).select_from(_BOTH)


def _columns(record: Record) -> dict[str, object]:
    headers = [(name, _text64(value)) for name, value in record.headers or ()]
    return {
        "record_topic": record.place.topic,
        "record_partition": record.place.partition,
        "record_offset": record.offset,
        "record_key": record.key,
        "record_value": record.value,
        "record_headers": json.dumps(headers),
    }


def _text64(value: bytes | str | None) -> str | None:
    raw = value.encode() if isinstance(value, str) else value
    return None if raw is None else base64.b64encode(raw).decode()


def _record(row: Any) -> Record | None:
    if row.record_headers is None:
        return None
    pairs: Sequence[tuple[str, str | None]] = json.loads(row.record_headers)
    headers = [(name, None if value is None else base64.b64decode(value)) for name, value in pairs]
    return Record(
        Place(row.record_topic, row.record_partition), row.record_offset, row.record_key, row.record_value, headers
    )


def _kept(row: Any) -> Kept:
    return Kept(
        command_id=row.command_id,
        state=row.state,
        owner=row.owner,
        status=row.status,
        contract=row.contract,
        tries=row.tries,
        asks=row.asks,
        doubt=row.doubt,
        buried=row.buried,
        spent=row.spent,
        called_at=epoch(row.called_at),
        progress=row.progress,
        record=_record(row),
    )
