"""Debezium and the built-in relay side by side on one outbox: the same commits make the same records."""

import json
import urllib.request
from typing import Any

from kompensate.outbox.debezium import connector
from tests.fixtures.outbox_rows import write_strange
from tests.fixtures.outboxes import RealOutbox, headers_of
from tests.fixtures.waiting import wait_until


def request(method: str, url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


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
            write_strange(outbox)
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
