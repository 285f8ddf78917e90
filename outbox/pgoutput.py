"""Bytes of a logical replication stream → messages. Pure: no connection, no clock.

Two layers, both from PostgreSQL's manual ("Streaming Replication Protocol", "Logical Replication Message
Formats"): the stream's own messages, `w` (WAL data) and `k` (keepalive), and inside `w` the plugin
pgoutput's, protocol version 1 with `binary 'true'`. A transaction arrives whole, at its commit:

    Begin, (Relation once per table and after DDL,) Insert …, Commit

The caller keeps relations by `oid` and maps columns by name (see `records`). Values are the bytes of the
type's binary form (text: UTF-8; bytea: as it is; uuid: 16 bytes; integers: big-endian), or None for NULL;
a type without a binary form comes as text, which is told apart by the column's type, not by the value.
"""

import struct
from typing import Final, NamedTuple, TypeAlias


class ProtocolError(ValueError):
    """The stream is not what its protocol says; the text names expected, got and the LSN."""


class Keepalive(NamedTuple):
    """The server has nothing more up to `end_lsn`; it wants an answer at once where `reply_requested`."""

    end_lsn: int
    reply_requested: bool


class Begin(NamedTuple):
    """`commit_lsn` names the transaction; `time` is its commit's, in microseconds since 2000-01-01 UTC."""

    commit_lsn: int
    time: int
    xid: int


class Commit(NamedTuple):
    """`end_lsn`, where the next transaction may begin, is what a reader confirms."""

    commit_lsn: int
    end_lsn: int
    time: int


class Column(NamedTuple):
    name: str
    type_oid: int


class Relation(NamedTuple):
    """A table as it stands from here on in the stream."""

    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]


class Insert(NamedTuple):
    """A row, its values in the order of its relation's columns."""

    oid: int
    values: list[bytes | None]


class Ignored(NamedTuple):
    """A message that an insert-only publication has no need of: update, delete, truncate, type, …"""

    kind: str


Message: TypeAlias = Keepalive | Begin | Commit | Relation | Insert | Ignored

EPOCH_SECONDS: Final = 946_684_800
"""2000-01-01 UTC, PostgreSQL's epoch, in seconds of Unix time."""

_IGNORED: Final = {
    ord("U"): "update",
    ord("D"): "delete",
    ord("T"): "truncate",
    ord("Y"): "type",
    ord("O"): "origin",
    ord("M"): "message",
}
_INSERT, _BEGIN, _COMMIT, _RELATION = b"IBCR"
_NEW_TUPLE, _NULL, _BINARY, _TEXT = b"Nnbt"
_THERE = frozenset((_BINARY, _TEXT))
_WAL, _KEEPALIVE = b"wk"

_WAL_HEADER = struct.Struct(">cQQq")
_KEEPALIVE_BODY = struct.Struct(">cQqB")
_BEGIN_BODY = struct.Struct(">cQqI")
_COMMIT_BODY = struct.Struct(">cBQQq")
_INSERT_HEADER = struct.Struct(">cIcH")
_LENGTH = struct.Struct(">I")
_COLUMN_TAIL = struct.Struct(">Ii")
_FEEDBACK = struct.Struct(">cQQQqB")


def decode(data: bytes) -> Message:
    """One message of the stream. Raises ProtocolError."""
    try:
        if data[0] == _WAL:
            return _decode_wal(data)
        if data[0] == _KEEPALIVE:
            _, end_lsn, _time, reply = _KEEPALIVE_BODY.unpack(data)
            return Keepalive(end_lsn, bool(reply))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ProtocolError(
            f"replication stream{_place(data)}: message of {len(data)} bytes ends too early or too late "
            f"({error}): {data[:40]!r}"
        ) from error
    raise ProtocolError(f"replication stream: expected message 'w' or 'k', got {data[:1]!r}")


def _decode_wal(data: bytes) -> Message:
    start = _WAL_HEADER.size
    kind = data[start]
    if kind == _INSERT:
        return _decode_insert(data, start)
    if kind == _BEGIN:
        return Begin(*_BEGIN_BODY.unpack_from(data, start)[1:])
    if kind == _COMMIT:
        return Commit(*_COMMIT_BODY.unpack_from(data, start)[2:])
    if kind == _RELATION:
        return _decode_relation(data, start)
    if kind in _IGNORED:
        return Ignored(_IGNORED[kind])
    raise ProtocolError(
        f"pgoutput{_place(data)}: expected one of the messages of protocol version 1, got {chr(kind)!r}"
    )


def _decode_insert(data: bytes, position: int) -> Insert:
    _, oid, new, count = _INSERT_HEADER.unpack_from(data, position)
    if new[0] != _NEW_TUPLE:
        raise ProtocolError(f"pgoutput{_place(data)}: expected a new tuple 'N' in an insert, got {new!r}")
    position += _INSERT_HEADER.size
    # Half of what reading a row costs: filling in what is no NULL takes two thirds of what appending does (measured).
    values: list[bytes | None] = [None] * count
    unpack, null, there = _LENGTH.unpack_from, _NULL, _THERE
    for n in range(count):
        kind = data[position]
        if kind == null:
            position += 1
        elif kind in there:
            begin = position + 5
            position = begin + unpack(data, position + 1)[0]
            values[n] = data[begin:position]
        else:
            raise ProtocolError(
                f"pgoutput{_place(data)}: expected a value of kind 'n', 't' or 'b' in an insert, got {chr(kind)!r}"
            )
    if position != len(data):
        raise ProtocolError(
            f"pgoutput{_place(data)}: expected a row of {len(data)} bytes, got values up to byte {position}"
        )
    return Insert(oid, values)


def _decode_relation(data: bytes, position: int) -> Relation:
    oid = int.from_bytes(data[position + 1 : position + 5])
    schema, position = _text(data, position + 5)
    name, position = _text(data, position)
    count = int.from_bytes(data[position + 1 : position + 3])  # before it one byte: the replica identity
    position += 3
    columns = []
    for _ in range(count):
        column, position = _text(data, position + 1)  # one byte of flags: part of the key
        type_oid, _modifier = _COLUMN_TAIL.unpack_from(data, position)
        position += _COLUMN_TAIL.size
        columns.append(Column(column, type_oid))
    # pg_catalog is sent as the empty string.
    return Relation(oid, schema or "pg_catalog", name, tuple(columns))


def _text(data: bytes, position: int) -> tuple[str, int]:
    end = data.find(b"\0", position)
    if end < 0:
        raise IndexError("text without its closing zero byte")
    return data[position:end].decode(), end + 1


def _place(data: bytes) -> str:
    """Where a message of WAL data stands, for errors."""
    if len(data) < _WAL_HEADER.size or data[0] != _WAL:
        return ""
    return f" at {lsn_text(_WAL_HEADER.unpack_from(data)[1])}"


def feedback(lsn: int, now: float, *, ask: bool = False) -> bytes:
    """A standby status update: everything up to `lsn` is safe. `now` in seconds of Unix time; `ask` for a keepalive."""
    return _FEEDBACK.pack(b"r", lsn, lsn, lsn, int((now - EPOCH_SECONDS) * 1_000_000), ask)


def lsn_text(lsn: int) -> str:
    """A log position as PostgreSQL writes it: 0/16B3748."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_number(text: str) -> int:
    """The number of a log position written as 0/16B3748. Raises ValueError."""
    high, slash, low = text.partition("/")
    if not slash:
        raise ValueError(f"log position: expected two hexadecimal numbers with / between, got {text!r}")
    return int(high, 16) << 32 | int(low, 16)
