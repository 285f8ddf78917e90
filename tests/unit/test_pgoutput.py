"""Bytes of a replication stream: what PostgreSQL 18 really sent, every message there and back, and damage."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kompensate.outbox import pgoutput
from kompensate.outbox.pgoutput import (
    Begin,
    Column,
    Commit,
    Ignored,
    Insert,
    Keepalive,
    Message,
    ProtocolError,
    Relation,
)
from tests.fixtures import pgoutput_bytes as raw

# One transaction as PostgreSQL 18.6 sent it (protocol version 1, binary): a table with a uuid, a text, a
# bytea and an integer column, and an insert of two rows.
CAPTURED: list[tuple[str, Message]] = [
    ("4200000000463cde88000303c1416d3cc300013138", Begin(0x463CDE88, 0x000303C1416D3CC3, 78136)),
    (
        (
            "5200008a867075626c6963006f7574626f78006400040169640000000b86ffffffff0061676772656761746569640000000019"
            "ffffffff007061796c6f61640000000011ffffffff00706172746974696f6e0000000017ffffffff"
        ),
        Relation(
            35462,
            "public",
            "outbox",
            (Column("id", 2950), Column("aggregateid", 25), Column("payload", 17), Column("partition", 23)),
        ),
    ),
    (
        "4900008a864e0004620000001000112233445566778899aabbccddeeff62000000026b30620000000200ff620000000400000003",
        Insert(35462, [bytes.fromhex("00112233445566778899aabbccddeeff"), b"k0", b"\x00\xff", b"\0\0\0\3"]),
    ),
    (
        "4900008a864e0004620000001000112233445566778899aabbccddeef06200000008d0bad0bbd18ed1876e6200000004ffffffff",
        Insert(35462, [bytes.fromhex("00112233445566778899aabbccddeef0"), "ключ".encode(), None, b"\xff\xff\xff\xff"]),
    ),
    ("430000000000463cde8800000000463cdeb8000303c1416d3cc3", Commit(0x463CDE88, 0x463CDEB8, 0x000303C1416D3CC3)),
]

lsns = st.integers(0, 2**64 - 1)
times = st.integers(-(2**63), 2**63 - 1)
oids = st.integers(0, 2**32 - 1)
names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=20)
values = st.lists(st.none() | st.binary(max_size=300), max_size=30)


@pytest.mark.parametrize(("body", "expected"), CAPTURED, ids=lambda x: type(x).__name__)
def test_what_postgresql_sends_is_read(body: str, expected: Message) -> None:
    """Messages recorded from a real server are read as what they are."""
    assert pgoutput.decode(raw.wal(bytes.fromhex(body))) == expected


@given(lsns, st.booleans())
def test_keepalives_come_through(lsn: int, reply: bool) -> None:
    """A keepalive has its position, and whether it wants an answer."""
    assert pgoutput.decode(raw.keepalive(lsn, reply=reply)) == Keepalive(lsn, reply)


@given(lsns, lsns, times, oids)
def test_transaction_bounds_come_through(commit_lsn: int, end_lsn: int, time: int, xid: int) -> None:
    """Begin and commit have their positions, times and transaction id, at both ends of every range."""
    assert pgoutput.decode(raw.begin(commit_lsn, xid, time)) == Begin(commit_lsn, time, xid)
    assert pgoutput.decode(raw.commit(commit_lsn, end_lsn, time)) == Commit(commit_lsn, end_lsn, time)


@given(oids, names, names, st.lists(st.builds(Column, names, oids), max_size=40))
def test_relations_come_through(oid: int, schema: str, name: str, columns: list[Column]) -> None:
    """A relation has its name and every column's name and type, in order."""
    found = pgoutput.decode(raw.relation(oid, schema, name, columns))

    assert found == Relation(oid, schema, name, tuple(columns))


@given(oids, values, st.sampled_from([b"b", b"t"]))
def test_rows_come_through(oid: int, row: list[bytes | None], kind: bytes) -> None:
    """A row has its values as they were sent, NULL apart from the empty value."""
    assert pgoutput.decode(raw.insert(oid, row, kind)) == Insert(oid, row)


@pytest.mark.parametrize("kind", ["update", "delete", "truncate", "type", "origin", "message"])
def test_what_is_no_row_of_ours_is_named_and_left(kind: str) -> None:
    """Messages that a relay has no need of are told apart by name."""
    letter = {"update": b"U", "delete": b"D", "truncate": b"T", "type": b"Y", "origin": b"O", "message": b"M"}[kind]

    assert pgoutput.decode(raw.wal(letter + b"whatever")) == Ignored(kind)


@given(st.binary(max_size=120) | st.binary(max_size=100).map(lambda body: raw.wal(body, 0x1_0000_00FF)))
def test_damage_is_a_protocol_error_and_nothing_else(data: bytes) -> None:
    """Whatever bytes come, they are a message or a ProtocolError."""
    try:
        found: Message | str = pgoutput.decode(data)
    except ProtocolError as error:
        found = str(error)

    assert isinstance(found, tuple) or "expected" in found or "ends too early" in found


@given(values.filter(len), st.data())
def test_a_row_cut_short_is_not_taken_for_one(row: list[bytes | None], data: st.DataObject) -> None:
    """A row that ends before its last byte, or goes on after it, is refused with its position."""
    whole = raw.wal(raw.insert(7, row)[25:], lsn=0x16B3748)
    cut = whole[: data.draw(st.integers(26, len(whole) - 1))]

    for damaged in (cut, whole + b"\0"):
        with pytest.raises(ProtocolError, match="0/16B3748"):
            pgoutput.decode(damaged)


def test_an_unchanged_toast_value_is_no_value_of_an_insert() -> None:
    """The kind of value that only updates have is refused by name."""
    with pytest.raises(ProtocolError, match="'n', 't' or 'b' in an insert, got 'u'"):
        pgoutput.decode(raw.wal(b"I\0\0\0\1N\0\1u"))


def test_feedback_says_written_flushed_and_applied() -> None:
    """A standby status update holds the position three times and the time in microseconds since 2000."""
    message = pgoutput.feedback(0x16B3748, pgoutput.EPOCH_SECONDS + 1.5)

    assert message == b"r" + struct.pack(">QQQqB", 0x16B3748, 0x16B3748, 0x16B3748, 1_500_000, 0)


@given(lsns)
def test_positions_are_written_as_postgresql_does(lsn: int) -> None:
    """A position's text reads back as itself."""
    assert pgoutput.lsn_number(pgoutput.lsn_text(lsn)) == lsn


def test_position_texts() -> None:
    """Upper half, slash, lower half, in hexadecimal without zeros in front; anything else is refused."""
    assert pgoutput.lsn_text(0x1_016B_3748) == "1/16B3748"
    with pytest.raises(ValueError, match="expected two hexadecimal numbers with / between, got '16B3748'"):
        pgoutput.lsn_number("16B3748")
