"""The record that the relay makes of an outbox row, fixed: other tools read it, and Debezium makes the same."""

import struct

import pytest

from kompensate.outbox.pgoutput import Column
from kompensate.outbox.records import BadTable, Mapping, Record
from kompensate.schemas.messages import Reply
from tests.fixtures.relay import COLUMNS, values

ROW = {
    "id": bytes.fromhex("00112233445566778899aabbccddeeff"),
    "aggregatetype": b"checkout.replies.inventory",
    "aggregateid": "заказ-1".encode(),
    "type": b"inventory.Reserved",
    "payload": b"\x00\xff{}",
    "partition": struct.pack(">i", 11),
    "ce_specversion": b"1.0",
    "ce_id": b"00112233-4455-6677-8899-aabbccddeeff",
    "ce_source": b"kompensate:inventory",
    "content_type": b"application/json",
    "ce_correlationid": "заказ-1".encode(),
    "ce_causationid": b"c0ffee",
    "ce_replyoutcome": b"done",
    "traceparent": b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}
RECORD = Record(
    topic="checkout.replies.inventory",
    partition=11,
    key="заказ-1".encode(),
    value=b"\x00\xff{}",
    headers=[
        ("id", b"00112233-4455-6677-8899-aabbccddeeff"),
        ("ce_specversion", b"1.0"),
        ("ce_id", b"00112233-4455-6677-8899-aabbccddeeff"),
        ("ce_source", b"kompensate:inventory"),
        ("ce_type", b"inventory.Reserved"),
        ("content-type", b"application/json"),
        ("ce_correlationid", "заказ-1".encode()),
        ("ce_causationid", b"c0ffee"),
        ("ce_replyoutcome", b"done"),
        ("ce_sagatype", None),
        ("ce_subject", None),
        ("ce_time", None),
        ("ce_sagaattributes", None),
        ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", None),
    ],
)


def test_a_row_makes_this_record() -> None:
    """Topic, partition, key, value and the fourteen headers, in this order, NULL as a null header."""
    assert Mapping("outbox", COLUMNS).record(values(**ROW)) == RECORD


def test_the_record_is_a_reply() -> None:
    """What the relay makes of a reply's row reads as that reply."""
    reply = Reply.parse(RECORD.headers, RECORD.value)

    assert (reply.id, reply.command_id, reply.saga_id, reply.outcome, reply.payload) == (
        "00112233-4455-6677-8899-aabbccddeeff",
        "c0ffee",
        "заказ-1",
        "done",
        b"\x00\xff{}",
    )


def test_a_null_payload_is_a_null_value() -> None:
    """NULL and the empty payload are two things."""
    mapping = Mapping("outbox", COLUMNS)

    assert mapping.record(values(**{**ROW, "payload": None})).value is None
    assert mapping.record(values(**{**ROW, "payload": b""})).value == b""


@pytest.mark.parametrize(("oid", "form"), [(21, ">h"), (23, ">i"), (20, ">q")], ids=["smallint", "integer", "bigint"])
def test_partitions_may_be_any_integer_type(oid: int, form: str) -> None:
    """The partition column's width does not matter."""
    columns = [Column(c.name, oid) if c.name == "partition" else c for c in COLUMNS]

    assert Mapping("outbox", columns).record(values(**{**ROW, "partition": struct.pack(form, 7)})).partition == 7


def test_ids_may_be_text() -> None:
    """An id column of type text goes out as it stands."""
    columns = [Column("id", 25) if c.name == "id" else c for c in COLUMNS]

    assert Mapping("outbox", columns).record(values(**{**ROW, "id": b"row-1"})).headers[0] == ("id", b"row-1")


def test_a_column_of_another_type_is_refused_by_name() -> None:
    """A payload of type jsonb would carry PostgreSQL's version byte in front: it is refused."""
    columns = [Column("payload", 3802) if c.name == "payload" else c for c in COLUMNS]
    with pytest.raises(BadTable, match=r"column payload: expected type bytea or text or varchar, got .* oid 3802"):
        Mapping("outbox", columns)
