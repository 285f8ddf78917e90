"""Debezium and the built-in relay side by side on one outbox: the same commits make the same records."""

import json
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, TopicPartition

from examples.common.ground import Ground
from examples.food import demo
from kompensate.orchestrator.cli.relay import relay
from kompensate.outbox.debezium import connector
from kompensate.outbox.tables import PUBLICATION
from tests.fixtures.fix_ground import DEADLINE_SECONDS, OpenGround
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
        failover = "SELECT failover FROM pg_replication_slots WHERE slot_name = %s"
        assert outbox.sql(failover, configuration["slot.name"]) == [(True,)]
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


def ask(verb: str, connect: str, *arguments: str) -> Result:
    """`kompensate relay debezium …`."""
    return CliRunner().invoke(relay, ["debezium", verb, "--connect", connect, *arguments])


def levels(result: Result) -> dict[str, str]:
    """The worst that was found by each check."""
    worst: dict[str, str] = {}
    for one in json.loads(result.output):
        order = ("ok", "advice", "wrong")
        worst[one["check"]] = max(worst.get(one["check"], "ok"), one["level"], key=order.index)
    return worst


@contextmanager
def gone_afterwards(connect: str, *names: str) -> Iterator[None]:
    """Takes these connectors away at the end."""
    try:
        yield
    finally:
        for name in names:
            try:
                request("DELETE", f"{connect}/connectors/{name}")
            except urllib.error.HTTPError as error:
                error.close()


def test_it_is_registered_and_checked(outbox: RealOutbox, connect: str) -> None:
    """From nothing to a published row; then each thing that breaks is named, and mended by registering again."""
    name = f"c{outbox.prefix.strip('.')}"
    asked = ["--dsn", f"{name}={outbox.dsn}", "-o", "json"]
    with gone_afterwards(connect, name):
        before = ask("check", connect, *asked)
        assert (before.exit_code, levels(before)["connector"]) == (1, "wrong")
        assert "kompensate relay debezium register" in before.output
        made = ask("register", connect, *asked)
        assert made.exit_code == 0, made.output
        assert levels(made)["connector.offsets"] == "advice"

        outbox.write([("k", b"1")])
        outbox.arrived([b"1"])
        wait_until("a stored position", lambda: levels(ask("check", connect, *asked))["connector.offsets"] == "ok", 90)

        outbox.sql(f"DROP PUBLICATION {PUBLICATION}")
        broken = ask("register", connect, *asked)
        assert (broken.exit_code, levels(broken)["publication"]) == (1, "wrong")
        request("POST", f"{connect}/connectors/{name}/restart?includeTasks=true")
        wait_until("its task fails", lambda: "FAILED: " in ask("check", connect, *asked).output, 60)
        failed = ask("check", connect, *asked)
        assert "Publication autocreation is disabled, please create one" in failed.output, failed.output
        outbox.sql(
            f"CREATE PUBLICATION {PUBLICATION} FOR TABLE outbox"
            " WITH (publish = 'insert', publish_via_partition_root = true)"
        )
        assert ask("register", connect, *asked).exit_code == 0

        request("PUT", f"{connect}/connectors/{name}/stop")
        wait_until(
            "nobody reads the slot",
            lambda: outbox.sql("SELECT 1 FROM pg_replication_slots WHERE database = current_database() AND NOT active"),
            60,
        )
        outbox.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active AND"
                   " database = current_database()")  # fmt: skip
        lost = ask("check", connect, *asked)
        assert levels(lost)["slot"] == "wrong"
        assert "rows may have been passed over" in lost.output
        other = ask("check", connect, *asked, "--slot", "another")
        assert "slot.name" in other.output


def test_no_password_is_told(outbox: RealOutbox, connect: str) -> None:
    """Not by what is wrong with it, nor by a difference; nothing is registered with a wrong one."""
    name = f"c{outbox.prefix.strip('.')}"
    wrong = psycopg.conninfo.conninfo_to_dict(outbox.dsn) | {"password": "0Q-secret-7"}
    dsn = f"{name}=postgresql://{wrong['user']}:0Q-secret-7@{wrong['host']}:{wrong['port']}/{wrong['dbname']}"
    right = f"{name}={outbox.dsn}"
    with gone_afterwards(connect, name):
        refused = ask("register", connect, "--dsn", dsn, "-o", "json")
        assert (refused.exit_code, levels(refused)["connector.valid"]) == (1, "wrong")
        assert "password authentication failed" in refused.output
        assert levels(ask("check", connect, "--dsn", right, "-o", "json"))["connector"] == "wrong"
        assert ask("register", connect, "--dsn", right).exit_code == 0
        differs = ask("check", connect, "--dsn", dsn, "-o", "json")

        assert levels(differs)["connector.configuration"] == "advice"
        for secret in ("0Q-secret-7", str(psycopg.conninfo.conninfo_to_dict(outbox.dsn)["password"])):
            assert secret not in refused.output + differs.output


def test_connect_that_is_away(outbox: RealOutbox) -> None:
    """One line says so, and no address that is none is asked."""
    found = ask("check", "http://ann:0Q-secret@127.0.0.1:1", "--dsn", outbox.dsn, "-o", "json")
    assert (found.exit_code, levels(found)["connect"]) == (1, "wrong")
    assert "0Q-secret" not in found.output
    nowhere = ask("check", "connect:8083", "--dsn", outbox.dsn)
    assert "expected an address as in http://connect:8083, got connect" in nowhere.output


Known = tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]

Published = dict[tuple[str, str], list[tuple[bool, Known]]]


def published(ground: Ground) -> Published:
    """Every record that an outbox row became, by topic and `ce_id`: whether Debezium wrote it, and all that it is."""
    consumer = Consumer({"bootstrap.servers": ground.bootstrap, "group.id": "none", "enable.partition.eof": True})
    known = consumer.list_topics(timeout=DEADLINE_SECONDS).topics
    ours = [n for n in known if n.startswith(ground.topics.prefix) and (".replies." in n or n.endswith(".events"))]
    places = [TopicPartition(topic, number, 0) for topic in ours for number in known[topic].partitions]
    consumer.assign(places)
    found, ended = defaultdict(list), 0
    while ended < len(places):
        message = consumer.poll(DEADLINE_SECONDS)
        assert message is not None
        if message.error() is not None:
            ended += 1
            continue
        headers = headers_of(message)
        ours_only = [(name, value) for name, value in headers if not name.startswith("__debezium")]
        id_ = (dict(ours_only)["ce_id"] or b"").decode()
        record = (message.partition() or 0, message.key(), message.value(), ours_only)
        found[message.topic() or "", id_].append((len(headers) != len(ours_only), record))
    consumer.close()
    return found


def twice(found: Published, rows: set[tuple[str, str]]) -> bool:
    """Whether both have written every row."""
    return all({by for by, _ in found.get(row, [])} == {True, False} for row in rows)


@pytest.mark.slow
def test_a_whole_run_is_the_same_through_both(open_ground: OpenGround, connect: str) -> None:
    """Food is delivered through both relays at once, then through Debezium alone: every record is the other's twin."""
    ground = open_ground(demo.parts())
    services = ("orders", "payments", "restaurant", "couriers")
    names = {service: f"{ground.topics.prefix}{service}" for service in services}
    with gone_afterwards(connect, *names.values()):
        dsns = [f"--dsn={names[service]}={ground.dsns[service]}" for service in services]
        made = ask("register", connect, *dsns, "-o", "json")
        assert made.exit_code == 0, made.output
        placed = [demo.order(number) for number in range(16)]
        for order in placed[:8]:
            demo.place(ground, order)
        ground.wait_until("half of it", lambda: demo.settled(ground, placed[:8]), demo.SECONDS_MAX)
        ground.children["relay"].stop()
        for order in placed[8:]:
            demo.place(ground, order)
        ground.wait_until("all of it, by Debezium alone", lambda: demo.settled(ground, placed), demo.SECONDS_MAX)
        ground.children["relay"].start()
        rows = {
            (topic, id_)
            for service in services
            for topic, id_ in demo.rows(ground, service, "SELECT aggregatetype, ce_id FROM outbox")
        }
        wait_until("every row twice", lambda: twice(published(ground), rows), DEADLINE_SECONDS)
        found = published(ground)
        wrong = demo.audit(ground, placed)

    assert wrong == []
    assert found.keys() == rows
    assert {topic.removeprefix(ground.topics.prefix) for topic, _ in rows} == {
        "orders.events", *(f"food.replies.{service}" for service in services)
    }  # fmt: skip
    different = {place: both for place, both in found.items() if any(record != both[0][1] for _, record in both)}
    assert different == {}
