"""`kompensate intake` as processes on a real broker: killed, paused, rebalanced; each source record counts once."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from kompensate.orchestrator.client import Client
from kompensate.schemas.faults import VARIABLE
from kompensate.schemas.messages import START, Request
from tests.fixtures.stage import Stage
from tests.fixtures.waiting import wait_until

ROOT = Path(__file__).parents[2]
SOURCE_PARTITIONS = 3
DEADLINE_SECONDS = 60.0
POINTS = (
    "intake.after_poll",
    "worker.before_produce",
    "worker.after_produce",
    "worker.after_offsets",
    "intake.after_commit",
)


class Shop:
    """A stage, two source topics, and intake processes."""

    def __init__(self, bootstrap: str, prefix: str, directory: Path) -> None:
        self.stage = Stage(bootstrap, prefix)
        self.orders, self.approvals = f"{prefix}orders.placed", f"{prefix}approvals"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.sent: list[str] = []
        self._directory = directory
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        new = [NewTopic(topic, SOURCE_PARTITIONS, 1) for topic in (self.orders, self.approvals)]
        for made in self.admin.create_topics(new).values():
            made.result(20)
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 1})

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(10)
        self.stage.close()

    def intake(self, slot: str, *options: str, fault: str = "", begin: str | None = "earliest") -> int:
        """Start an intake; its number."""
        argv = ["intake", "--app", "tests.fixtures.intake_app:app", "--app-dir", str(ROOT), "--slot", slot]
        argv += ["--bootstrap", self.stage.bootstrap, "--prefix", self.stage.prefix, "--session-timeout", "2"]
        argv += ["--slot-directory", str(self._directory), "--transaction-timeout", "3", *options]
        argv += [] if begin is None else ["--begin", begin]
        number = len(self.processes)
        environment = os.environ | {VARIABLE: fault, "PYTHONPATH": str(ROOT), "INTAKE_PREFIX": self.stage.prefix}
        with self.log(number).open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "kompensate.orchestrator.cli", *argv],
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            )
        return number

    def log(self, number: int) -> Path:
        return self._directory / f"intake-{number}.log"

    def text(self, number: int) -> str:
        return self.log(number).read_text(errors="replace")

    def assigned(self, number: int) -> int:
        """How often an intake was given partitions."""
        return self.text(number).count("assigned: ")

    def put(self, topic: str, records: Sequence[tuple[str, object]]) -> None:
        """Source records by key, acknowledged."""
        for key, value in records:
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            self._producer.produce(topic, raw, key)
            self._producer.poll(0)
        assert self._producer.flush(DEADLINE_SECONDS) == 0

    def order(self, count: int) -> list[str]:
        """So many orders more; their ids."""
        ids = [f"o-{len(self.sent) + n}" for n in range(count)]
        self.put(self.orders, [(f"customer-{id_[-1]}", {"order_id": id_}) for id_ in ids])
        self.sent += ids
        return ids

    def requests(self) -> list[Request]:
        records = self.stage.reader.scan(self.stage.topics.requests, {0: 0, 1: 0})
        return [Request.parse(record.headers, record.value) for record in records]

    def quarantined(self) -> list[tuple[bytes | None, dict[str, Any]]]:
        records = self.stage.reader.scan(self.stage.topics.quarantine, {0: 0, 1: 0})
        return [(record.value, dict(record.headers or ())) for record in records]

    def all_asked(self) -> bool:
        """Has every order led to a start? Every process that was not killed on purpose still runs."""
        return {r.saga_id for r in self.requests() if r.type == START} >= set(self.sent)

    def each_once(self) -> None:
        """Wait for all, then see that none was asked twice."""
        wait_until("every order has started a saga", self.all_asked, DEADLINE_SECONDS)
        assert Counter(r.saga_id for r in self.requests() if r.type == START) == Counter(self.sent)


def test_every_point_of_the_intake_is_tried() -> None:
    """The points of its own that the code has are among those below; the others are those of its transactions."""
    text = (ROOT / "orchestrator/intake/loop.py").read_text(encoding="utf-8")
    assert set(re.findall(r'fault\("(.*?)"\)', text)) == {point for point in POINTS if point.startswith("intake.")}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def health(port: int) -> object:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
        return json.load(answer)


@pytest.fixture
def shop(kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[Shop]:
    made = Shop(kafka, topic_prefix, tmp_path)
    yield made
    for number in range(len(made.processes)):
        print(f"--- intake {number}\n{made.text(number)[-3000:]}")
    made.close()


@pytest.mark.slow
def test_existing_topics_start_and_signal_sagas(shop: Shop) -> None:
    """Orders become sagas that complete, approvals signals; poison is put aside; SIGTERM ends it cleanly."""
    shop.order(20)
    shop.put(shop.orders, [("p", b"{not json"), ("p", {"other": 1}), ("p", {"order_id": "a/b"})])
    shop.order(5)
    shop.put(shop.approvals, [("a", {"order_id": "approve-1", "by": "ann"})])
    number = shop.intake("a", "--health", str(port := free_port()))
    shop.each_once()
    wait_until("its health", lambda: health(port) == {"live": True, "ready": True, "handled": 29})
    wait_until("the signal", lambda: any(r.subject == "approved" for r in shop.requests()))
    with Client(shop.stage.bootstrap, "shop", prefix=shop.stage.prefix) as client:
        client.start("approval", {"order_id": "1"}, saga_id="approve-1")
        shop.stage.play()
        assert client.result("o-24", timeout=10).status == "completed"
        assert client.result("approve-1", timeout=10).status == "completed"

    process = shop.processes[number]
    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == 0
    reasons = sorted(headers["q_reason"].decode().partition(":")[2][:12] for _, headers in shop.quarantined())
    assert reasons == [" KeyError: '", " payload Any", " saga id: ex"]
    assert {headers["q_topic"].decode() for _, headers in shop.quarantined()} == {shop.orders}
    assert b"{not json" in {value for value, _ in shop.quarantined()}


@pytest.mark.slow
@pytest.mark.parametrize("slot", ["same", "other"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere(shop: Shop, point: str, slot: str) -> None:
    """kill -9 at this point in mid-work; its successor, in its slot or another, loses nothing and doubles nothing."""
    shop.order(100)
    shop.intake("same", "--batch-max", "7", fault=f"{point}:kill:5")
    assert shop.processes[0].wait(DEADLINE_SECONDS) == -signal.SIGKILL
    shop.order(20)

    shop.intake(slot, begin=None)

    shop.each_once()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_intakes_come_and_go_under_load(shop: Shop, protocol: str) -> None:
    """Partitions move to a second intake and back while orders pour in, one of them by kill -9: each counts once."""
    options = ("--batch-max", "5", "--group-protocol", protocol)
    shop.intake("a", *options)
    shop.order(50)
    wait_until("the first at work", shop.requests, DEADLINE_SECONDS)
    shop.intake("b", *options, begin=None)

    def poured(what: str, condition: Any) -> None:
        wait_until(what, lambda: shop.order(5) and condition(), DEADLINE_SECONDS)

    poured("the second has partitions", lambda: shop.assigned(1) > 0)
    before = shop.assigned(0)
    shop.processes[1].kill()
    poured("the first has them back", lambda: shop.assigned(0) > before)
    shop.intake("b", *options, begin=None)
    poured("the second again", lambda: shop.assigned(2) > 0)
    shop.processes[0].send_signal(signal.SIGTERM)
    assert shop.processes[0].wait(30) == 0

    shop.each_once()
    assert shop.quarantined() == []


@pytest.mark.slow
def test_where_a_topic_is_begun_is_never_guessed(shop: Shop) -> None:
    """Without offsets it asks; `latest` leaves out what was there; partitions that are added are read whole."""
    old = shop.order(5)
    number = shop.intake("a", begin=None)
    assert shop.processes[number].wait(30) == 1
    assert f"topic {shop.approvals}: expected offsets of group {shop.stage.prefix}shop~intake" in shop.text(number)
    assert "--begin earliest" in shop.text(number)

    number = shop.intake("a", begin="latest")
    wait_until("it has joined", lambda: shop.assigned(number), DEADLINE_SECONDS)
    new = [f"new-{n}" for n in range(5)]
    shop.put(shop.orders, [(id_, {"order_id": id_}) for id_ in new])
    wait_until("the new ones", lambda: {r.saga_id for r in shop.requests()} >= set(new), DEADLINE_SECONDS)
    shop.processes[number].terminate()
    assert shop.processes[number].wait(20) == 0
    assert not {r.saga_id for r in shop.requests()} & set(old)

    [grown] = shop.admin.create_partitions([NewPartitions(shop.orders, SOURCE_PARTITIONS + 2)]).values()
    grown.result(20)
    wait_until("partitions", lambda: shop.stage.reader.partitions(shop.orders) == SOURCE_PARTITIONS + 2)
    producer = Producer({"bootstrap.servers": shop.stage.bootstrap})
    for n in range(SOURCE_PARTITIONS + 2):
        producer.produce(shop.orders, json.dumps({"order_id": f"grown-{n}"}).encode(), partition=n)
    assert producer.flush(20) == 0
    shop.intake("a", begin=None)
    wanted = {f"grown-{n}" for n in range(SOURCE_PARTITIONS + 2)}
    wait_until("also of new partitions", lambda: {r.saga_id for r in shop.requests()} >= wanted, DEADLINE_SECONDS)


@pytest.mark.slow
def test_a_source_that_is_missing_is_named(shop: Shop) -> None:
    """A misspelt topic is told at the start; nothing is made by use."""
    for deleted in shop.admin.delete_topics([shop.approvals]).values():
        deleted.result(20)
    wait_until("it is gone", lambda: shop.approvals not in shop.admin.list_topics(timeout=5).topics)

    number = shop.intake("a")

    assert shop.processes[number].wait(30) == 1
    assert f"topic {shop.approvals}: expected it at {shop.stage.bootstrap}, got no such topic" in shop.text(number)
