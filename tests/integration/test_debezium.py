"""Debezium and the built-in relay side by side on one outbox: the same commits make the same records."""

import json
import urllib.request
from typing import Any

from kompensate.outbox.debezium import connector
from tests.fixtures.outboxes import RealOutbox, headers_of
from tests.fixtures.waiting import wait_until

_COLUMNS = (
    "ce_specversion, ce_id, ce_source, content_type, ce_correlationid, ce_causationid, ce_replyoutcome, ce_sagatype,"
    " ce_subject, ce_time, ce_sagaattributes, traceparent, tracestate"
)
# Each is a row's key, type, payload, and every other header column: NULL, empty, text that looks like another type,
# letters outside ASCII, quotes and line ends.
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ROWS: list[tuple[Any, ...]] = [
    ("order-1", "inventory.Reserved", b'{"n": 1}', "1.0", "a", "kompensate:inventory", "application/json", "order-1",
     "c1", "done", None, None, "2026-01-01T00:00:00.000Z", '{"amount":120}', TRACE, "vendor=1"),
    ("заказ", "платёж.Принят", b"\x00\xff\xfe", "1.0", "b", "urn:x", "application/octet-stream", "заказ", "c2",
     "refused", "checkout", "тема", None, None, None, None),
    ("{}", "true", b"", "1", "123", "null", "text/plain", "[1]", "1e5", "failed", '"quoted"', "a\nb", "время",
     "{}", None, None),
    (" ", "x", None, "1.0", None, None, None, None, None, None, None, None, None, None, None, None),
    ("order-1", "inventory.Released", b"x" * 300_000, "", "", "", "", "", "", "", "", "", "", "", "", ""),
]  # fmt: skip


def request(method: str, url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def write(outbox: RealOutbox) -> None:
    """Three transactions: all rows in one insert, one row alone, all rows again."""
    marks = ", ".join(["%s"] * (len(ROWS[0]) + 2))
    statement = (
        f"INSERT INTO outbox (id, aggregatetype, partition, aggregateid, type, payload, {_COLUMNS}) VALUES "
        f"(gen_random_uuid(), {marks})"
    )
    for rows in (ROWS, ROWS[:1], ROWS):
        many = statement + f", (gen_random_uuid(), {marks})" * (len(rows) - 1)
        values = [value for n, row in enumerate(rows) for value in (outbox.replies, n % 3, *row)]
        outbox.sql(many, *values)


def test_both_relays_make_the_same_records(outbox: RealOutbox, connect: str) -> None:
    """Key, value, partition and our headers are the same, in the same order in every partition."""
    name = outbox.prefix.strip(".")
    configuration = connector(outbox.dsn, name=name)
    address = f"{connect}/connectors/{name}"
    request("PUT", f"{address}/config", configuration)
    try:
        wait_until(
            "Debezium reads",
            lambda: outbox.sql(
                "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active", configuration["slot.name"]
            ),
            60,
        )
        with outbox.streaming():
            write(outbox)
            wait_until("both relays' records", lambda: len(outbox.payloads()) >= 22, 60)
            status = request("GET", f"{address}/status")
    finally:
        request("DELETE", address)

    assert [task["state"] for task in status["tasks"]] == ["RUNNING"]
    ours, theirs = [
        [
            record
            for message, record in zip(outbox.seen, outbox.records(), strict=True)
            if any(n.startswith("__debezium") for n, _ in headers_of(message)) is debezium
        ]
        for debezium in (False, True)
    ]
    assert len(ours) == 11
    for partition in range(3):
        assert [r for r in theirs if r["partition"] == partition] == [r for r in ours if r["partition"] == partition]
