"""relay and relay_debezium: outbox rows to Kafka by the built-in relay, against the bare slot and against Debezium."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import psycopg
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench import outbox
from bench.figure import Figure, quantile
from bench.ground import BenchError, Ground
from kompensate.compose.local.stack import Stack
from kompensate.outbox.debezium import connector
from kompensate.outbox.naming import slot_name

ROWS, ROUNDS = 100_000, 3
WARM_UP = 20_000
ONE_BY_ONE = 300
BARE_BAR, DEBEZIUM_BAR, LATENCY_BAR = 0.3, 3.0, 0.2
READY_SECONDS, RUN_SECONDS = 90.0, 300.0
WAIT_SECONDS = 0.05
PAUSE_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Place:
    """A database with an outbox, and the topic that its rows go to."""

    stack: Stack
    dsn: str
    name: str

    @property
    def slot(self) -> str:
        return slot_name(self.name)

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def reading(self, slot: str) -> bool:
        """Whether the slot is read, and by whoever reads it nothing is left."""
        return bool(self.sql("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active", slot))


def relay(ground: Ground) -> list[Figure]:
    """The same rows read by a bare loop and carried by the relay, in turn."""
    rows = ground.sized(ROWS)
    pairs = []
    with _place(ground, _full_speed(ground)) as place:
        outbox.write(place.dsn, place.name, ground.sized(WARM_UP))
        _carry(ground, place, ground.sized(WARM_UP))
        for _ in range(ROUNDS):
            bare = f"bare_{place.name}"
            place.sql("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", bare)
            outbox.write(place.dsn, place.name, rows)
            reading = ("--dsn", place.dsn, "--slot", bare, "--rows", str(rows))
            with ground.child("bench.slot", *reading) as reader:
                plain = rows / reader.result(RUN_SECONDS)["seconds"]
            place.sql("SELECT pg_drop_replication_slot(%s)", bare)
            pairs.append((plain, _rate(*_carry(ground, place, rows))))
            ground.say(f"relay: bare {plain:,.0f} rows/s, carried {pairs[-1][1]:,.0f}")
    limit, rate = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    note = (
        f"outbox rows to Kafka from a backlog of {rows:,}, {outbox.EACH} a transaction; limit: reading the same rows "
        f"from a slot with psycopg and doing nothing with them; bar {BARE_BAR:g}; medians of {ROUNDS}"
    )
    return [Figure("relay", rate, "rows/s", limit, median(pair[1] / pair[0] for pair in pairs), note)]


def relay_debezium(ground: Ground) -> list[Figure]:
    """The same rows by Debezium and by the relay, in turn; then one row at a time by each."""
    rows = ground.sized(ROWS)
    stack = _full_speed(ground)
    ground.say("starting Kafka Connect")
    stack.up(("kafka", "postgres", "connect"))
    pairs = []
    with _place(ground, stack) as place, _debezium(place) as debezium:
        topic = outbox.Topic(stack.bootstrap, place.name)
        warm_up = ground.sized(WARM_UP)
        topic.seconds(warm_up, lambda: outbox.write(place.dsn, place.name, warm_up))
        debezium.halt()
        _carry(ground, place, warm_up)
        for _ in range(ROUNDS):
            outbox.write(place.dsn, place.name, rows)
            seconds, counted = topic.seconds(rows, debezium.go)
            debezium.halt()
            pairs.append((_rate(seconds, counted), _rate(*_carry(ground, place, rows))))
            ground.say(f"relay_debezium: Debezium {pairs[-1][0]:,.0f} rows/s, built-in {pairs[-1][1]:,.0f}")
        topic.close()
        debezium.go()
        theirs = _latencies(place, ground.sized(ONE_BY_ONE))
        debezium.halt()
        _carry(ground, place, _with_first(ground.sized(ONE_BY_ONE)))
        with _relaying(ground, place):
            ours = _latencies(place, ground.sized(ONE_BY_ONE))
    limit, rate = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    ratio = median(pair[1] / pair[0] for pair in pairs)
    note = (
        f"outbox rows to Kafka from a backlog of {rows:,}, {outbox.EACH} a transaction; limit: Debezium with our "
        f"configuration, warmed up, both compilers; bar {DEBEZIUM_BAR:g} of it; medians of {ROUNDS}"
    )
    p50, their_p50 = quantile(ours, 0.5) * 1000, quantile(theirs, 0.5) * 1000
    alone = (
        f"ms from a row's commit to its record being consumed, one at a time, p50 of {len(ours)}; p99 "
        f"{quantile(ours, 0.99) * 1000:.1f}; limit: Debezium, p99 {quantile(theirs, 0.99) * 1000:.1f}; at most "
        f"{LATENCY_BAR:g} of it"
    )
    return [
        Figure("relay_debezium", rate, "rows/s", limit, ratio, note),
        Figure("relay_debezium_latency", p50, "ms", their_p50, p50 / their_p50, alone),
    ]


def _full_speed(ground: Ground) -> Stack:
    """A stack whose Java compiles for what lasts."""
    stack = Stack(ground.folder / "relay", jit="full")
    ground.defer(stack.reset)
    ground.say("starting Kafka and PostgreSQL, with both of Java's compilers")
    stack.up()
    return stack


@contextmanager
def _place(ground: Ground, stack: Stack) -> Iterator[Place]:
    with ground.database(stack) as dsn:
        place = Place(stack, dsn, dsn.rpartition("/")[2])
        outbox.make(dsn)
        admin = AdminClient({"bootstrap.servers": stack.bootstrap, "log_level": "2"})
        topics = [NewTopic(place.name, outbox.PARTITIONS, 1), NewTopic(f"{place.name}.dead", 1, 1)]
        for made in admin.create_topics(topics).values():
            made.result(READY_SECONDS)
        with _relaying(ground, place):
            pass  # its slot is there from here on
        yield place


@contextmanager
def _relaying(ground: Ground, place: Place) -> Iterator[None]:
    """The built-in relay at work."""
    argv = ("relay", "--dsn", place.dsn, "--bootstrap", place.stack.bootstrap)
    with ground.child("kompensate.orchestrator.cli", *argv) as child:
        child.until(lambda: "reads slot" in child.log.read_text(), "the relay to read its slot", READY_SECONDS)
        yield


def _carry(ground: Ground, place: Place, rows: int) -> tuple[float, int]:
    """Let a relay carry so many rows that wait; seconds from the first of them in Kafka to the last, and how many."""
    topic = outbox.Topic(place.stack.bootstrap, place.name)
    with ExitStack() as undo:
        found = topic.seconds(rows, lambda: undo.enter_context(_relaying(ground, place)))
    topic.close()
    return found


def _rate(seconds: float, rows: int) -> float:
    if not rows:
        raise BenchError("expected rows to come one after the other, got all of them at once: too few to measure")
    return rows / seconds


def _latencies(place: Place, rows: int) -> list[float]:
    """Seconds from each row's commit to its record's arrival, one after the other."""
    consumer = Consumer(
        {"bootstrap.servers": place.stack.bootstrap, "group.id": f"{place.name}.one", "fetch.wait.max.ms": 5}
    )
    places = [TopicPartition(place.name, number) for number in range(outbox.PARTITIONS)]
    for each in places:
        each.offset = consumer.get_watermark_offsets(each, 10)[1]
    consumer.assign(places)
    found = []
    with psycopg.connect(place.dsn, autocommit=True) as connection:
        for number in range(_with_first(rows)):
            connection.execute(*outbox.one(place.name, number))
            began = time.perf_counter()
            _expect(lambda: consumer.poll(READY_SECONDS) is not None, "a record")
            found.append(time.perf_counter() - began)
            time.sleep(PAUSE_SECONDS)
    consumer.close()
    return found[rows // 10 :]


def _with_first(rows: int) -> int:
    """So many, and the first ones, which do not count."""
    return rows + rows // 10


@dataclass(frozen=True, slots=True)
class Debezium:
    """A connector, which can be halted and told to go on where it stopped."""

    place: Place
    slot: str

    def go(self) -> None:
        _request("PUT", f"{self._address}/resume")

    def halt(self) -> None:
        _request("PUT", f"{self._address}/stop")
        self._until(lambda: not self.place.reading(self.slot), "Debezium to let its slot go")

    def _until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not true():
            if time.monotonic() > deadline:
                raise BenchError(f"expected {what} within {READY_SECONDS:g} s, got {_request('GET', self._status)}")
            time.sleep(WAIT_SECONDS)

    @property
    def _address(self) -> str:
        return f"{self.place.stack.connect_url}/connectors/{self.place.name}"

    @property
    def _status(self) -> str:
        return f"{self._address}/status"


@contextmanager
def _debezium(place: Place) -> Iterator[Debezium]:
    configuration = connector(place.dsn, name=place.name)
    made = Debezium(place, configuration["slot.name"])
    _request("PUT", f"{place.stack.connect_url}/connectors/{place.name}/config", configuration)
    try:
        made._until(lambda: place.reading(made.slot), "Debezium to read its slot")
        yield made
    finally:
        _request("DELETE", f"{place.stack.connect_url}/connectors/{place.name}")
        made._until(lambda: not place.reading(made.slot), "Debezium to let its slot go")


def _request(method: str, url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def _expect(true: Callable[[], bool], what: str) -> None:
    if not true():
        raise BenchError(f"expected {what} within {READY_SECONDS:g} s, got none")
