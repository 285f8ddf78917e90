"""Existing topics in memory: what mappings make of records, and that each counts once whatever fails."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from kompensate.orchestrator import Application, DefinitionError, FromTopic, Incoming
from kompensate.orchestrator.errors import Fatal
from kompensate.orchestrator.intake.loop import IntakeLoop
from kompensate.orchestrator.intake.ports import Sources
from kompensate.orchestrator.intake.translate import Translator
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing import MemoryBroker, VirtualClock
from kompensate.orchestrator.testing.sources import MemorySources
from kompensate.orchestrator.worker.transactions import Reaction, TransactionError
from kompensate.schemas.messages import SIGNAL, START, Request, timestamp
from kompensate.schemas.payloads import BadPayload
from kompensate.schemas.topics import Topics, partition_of
from tests.fixtures.stage import CHECKOUT

PARTITIONS = 3


@dataclass
class Placed:
    order_id: str
    cents: int = 1


def order_of(record: Incoming) -> str:
    return str(record.value["order_id"])


ORDERS = FromTopic("orders.placed", start="checkout", saga_id=order_of)
PAID = FromTopic(
    "payments",
    signal="paid",
    saga_id=lambda record: record.value["order"],
    input=lambda record: {"by": record.value["by"]},
    when=lambda record: bool(record.headers.get("kind") == b"settled"),
)


@dataclass
class Bench:
    """An application's topics and sources in memory, and an intake on them."""

    mappings: list[FromTopic] = field(default_factory=lambda: [ORDERS, PAID])
    request_bytes_max: int = 1_000
    quarantine_bytes_max: int = 2_000
    batch_records_max: int = 100

    def __post_init__(self) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker(self.clock)
        self.settings = Settings(batch_records_max=self.batch_records_max)
        self.application = Application("shop", [CHECKOUT], partitions=PARTITIONS, intake=self.mappings)
        self.topics = Topics("shop")
        self.broker.create_topic(self.topics.requests, PARTITIONS, record_bytes_max=self.request_bytes_max)
        self.broker.create_topic(self.topics.quarantine, PARTITIONS, record_bytes_max=self.quarantine_bytes_max)
        for topic in {mapping.topic for mapping in self.mappings}:
            self.broker.create_topic(topic, 4, record_bytes_max=100_000)
        self.joined: list[MemorySources] = []

    def loop(self, slot: str = "a", wrap: Callable[[MemorySources], Sources] = lambda made: made) -> IntakeLoop:
        translator = Translator(self.application, self.topics)

        def connect() -> Sources:
            made = MemorySources(
                self.broker,
                self.settings,
                group="shop~intake",
                slot=slot,
                topics=translator.sources,
                clock=self.clock,
            )
            self.joined.append(made)
            return wrap(made)

        return IntakeLoop(connect, translator, self.settings, self.clock)

    def put(
        self, topic: str, value: object, *, key: str = "k", kind: str | None = None, partition: int | None = None
    ) -> int:
        """A source record; its offset."""
        raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
        place = partition_of(key, 4) if partition is None else partition
        return self.broker.produce(topic, place, key.encode(), raw, [("kind", kind.encode())] if kind else None)

    def run(self, loop: IntakeLoop | None = None, steps: int = 8) -> None:
        loop = loop or self.loop()
        for _ in range(steps):
            loop.step()

    def records(self, topic: str) -> list[Record]:
        return [record for p in range(PARTITIONS) for record in self.broker.read(topic, p)]

    def requests(self) -> list[Request]:
        return [Request.parse(record.headers, record.value) for record in self.records(self.topics.requests)]

    def quarantined(self) -> list[tuple[bytes | None, dict[str, bytes | None]]]:
        return [(r.value, dict(r.headers or ())) for r in self.records(self.topics.quarantine)]


def test_records_become_requests() -> None:
    """A start has the record's value as its input, a signal what its mapping makes; ids come from the place."""
    bench = Bench()
    at = bench.put("orders.placed", {"order_id": "o-1", "cents": 5}, key="x")
    paid = bench.put("payments", {"order": "o-1", "by": "ann"}, kind="settled", key="y")
    bench.put("payments", {"order": "o-1"}, kind="refused", key="y")

    bench.run()

    [started, signalled] = sorted(bench.requests(), key=lambda r: r.type, reverse=True)
    assert (started.type, started.saga_type, started.saga_id) == (START, "checkout", "o-1")
    assert started.payload == b'{"order_id": "o-1", "cents": 5}'
    assert started.id == f"orders.placed/{partition_of('x', 4)}@{at}/checkout"
    assert started.source == "kompensate:topic:orders.placed"
    assert (signalled.type, signalled.subject, signalled.payload) == (SIGNAL, "paid", b'{"by":"ann"}')
    assert signalled.id == f"payments/{partition_of('y', 4)}@{paid}/paid"
    assert [r.partition for r in bench.records(bench.topics.requests)] == [partition_of("o-1", PARTITIONS)] * 2
    assert bench.quarantined() == []


def test_values_are_read_as_they_are_declared() -> None:
    """A dataclass, raw bytes, or nothing at all where the record is a tombstone; traces are passed on."""
    seen: list[Any] = []

    def note(record: Incoming) -> str:
        seen.append(record.value)
        return "o-1"

    bench = Bench(
        [
            FromTopic("typed", start="checkout", type=Placed, saga_id=note),
            FromTopic("raw", start="checkout", type=bytes, saga_id=note, input=lambda r: {"size": len(r.value)}),
            FromTopic("gone", signal="gone", saga_id=note),
        ]
    )
    bench.broker.produce("typed", 0, b"k", b'{"order_id": "1", "more": 2}', [("traceparent", b"00-1-2-01")])
    bench.put("raw", b"\x00\x01")
    bench.put("gone", None)

    bench.run()

    assert sorted(seen, key=str) == [None, Placed("1"), b"\x00\x01"]
    by_source = {r.source.rpartition(":")[2]: r for r in bench.requests()}
    assert by_source["typed"].trace.parent == "00-1-2-01"
    assert by_source["raw"].payload == b'{"size":2}'
    assert by_source["gone"].payload == b"null"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{not json", "start of 'checkout': payload Any: "),
        (b"\xff\xfe", "start of 'checkout': payload Any: "),
        ({"other": 1}, "start of 'checkout': KeyError: 'order_id'"),
        ({"order_id": "o/1"}, "start of 'checkout': saga id: expected 1 to 200"),
        ({"order_id": ""}, "start of 'checkout': saga id: expected 1 to 200"),
        ({"order_id": "__wm"}, "start of 'checkout': saga id: expected 1 to 200"),
        (None, "start of 'checkout': TypeError: 'NoneType' object is not subscriptable"),
        ([1], "start of 'checkout': TypeError"),
    ],
)
def test_poison_is_put_aside_and_stops_nobody(value: object, reason: str) -> None:
    """Its bytes, key, headers and place go to the quarantine with the reason; its neighbours become sagas."""
    bench = Bench()
    bench.put("orders.placed", {"order_id": "before"})
    at = bench.put("orders.placed", value, kind="placed")
    bench.put("orders.placed", {"order_id": "after"})

    bench.run()

    assert sorted(r.saga_id for r in bench.requests()) == ["after", "before"]
    [(kept, headers)] = bench.quarantined()
    assert kept == (value if value is None or isinstance(value, bytes) else json.dumps(value).encode())
    assert (headers.pop("q_reason") or b"").decode().startswith(reason)
    [source] = [r for r in bench.broker.read("orders.placed", partition_of("k", 4)) if r.offset == at]
    assert headers.pop("q_time") == timestamp(source.timestamp).encode()
    assert headers == {
        "kind": b"placed",
        "q_topic": b"orders.placed",
        "q_partition": b"%d" % partition_of("k", 4),
        "q_offset": b"%d" % at,
    }


def test_a_mapping_that_fails_does_not_hold_up_the_others() -> None:
    """Of two mappings of one topic one may raise: what the other makes is asked all the same."""

    def broken(_: Incoming) -> str:
        raise RuntimeError("x" * 10_000)

    bench = Bench([ORDERS, FromTopic("orders.placed", signal="placed", saga_id=broken)], quarantine_bytes_max=9_000)
    bench.put("orders.placed", {"order_id": "o-1"})

    bench.run()

    assert [r.type for r in bench.requests()] == [START]
    [(_, headers)] = bench.quarantined()
    assert (headers["q_reason"] or b"").startswith(b"signal 'placed': RuntimeError: xxx")
    assert len(headers["q_reason"] or b"") == 2_000


def test_a_saga_id_must_be_text() -> None:
    """A number would be another id in other languages: it is not guessed at."""
    bench = Bench([FromTopic("orders.placed", start="checkout", saga_id=lambda record: record.value["n"])])
    bench.put("orders.placed", {"n": 7})

    bench.run()

    [(_, headers)] = bench.quarantined()
    assert headers["q_reason"] == b"start of 'checkout': expected saga_id to give text, got 7"


def test_what_kafka_refuses_is_found_and_put_aside() -> None:
    """Of a batch of many only the record whose request is too large is put aside, without its value if need be."""
    bench = Bench()
    for n in range(9):
        bench.put("orders.placed", {"order_id": f"o-{n}"})
    bench.put("orders.placed", {"order_id": "large", "more": "x" * 1_500})
    bench.put("orders.placed", {"order_id": "huge", "more": "x" * 50_000})
    bench.put("orders.placed", {"order_id": "last"})

    bench.run(steps=40)

    assert sorted(r.saga_id for r in bench.requests()) == ["last", *(f"o-{n}" for n in range(9))]
    [large, huge] = bench.quarantined()
    assert len(large[0] or b"") > 1_500
    assert huge[0] is None
    assert (huge[1]["q_omitted"] or b"").startswith(b"value of 500")
    assert (large[1]["q_reason"] or b"").startswith(b"Kafka refuses what it leads to")


def test_what_cannot_even_be_put_aside_stops_loudly() -> None:
    """Headers too large for the quarantine: the intake names the record and stops, it never passes it over."""
    bench = Bench(quarantine_bytes_max=3)
    bench.put("orders.placed", b"{", key="long key", partition=0)

    with pytest.raises(Fatal, match=r"orders\.placed/0@0: not even its key and headers can be put aside"):
        bench.run(steps=40)
    assert bench.broker.committed("shop~intake", ["orders.placed"], 0) == {}


class Failing:
    """Sources whose commit fails by order, before or after it was done."""

    def __init__(self, inner: MemorySources, fail: Callable[[], str]) -> None:
        self._inner, self._fail = inner, fail

    def poll(self, records_max: int, timeout: float) -> Any:
        return self._inner.poll(records_max, timeout)

    def commit(self, records: Any, offsets: Any) -> None:
        producer = self._inner._transactions._producers[self._inner._transactions.writer]
        assert producer is not None
        how = self._fail()
        commit = producer.commit

        def gone() -> None:
            raise TransactionError(Reaction.REPLACE, "no transaction is open")

        def lost() -> None:
            if how == "after":
                commit()
                producer.abort = gone  # type: ignore[method-assign]  # there is nothing left to give up
            raise TransactionError(Reaction.REPLACE if how in ("after", "unknown") else Reaction.ABORT, how)

        if how:
            producer.commit = lost  # type: ignore[method-assign]  # as a broker whose answer is lost
        self._inner.commit(records, offsets)

    def rewind(self) -> None:
        self._inner.rewind()

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("seed", range(20))
def test_each_record_counts_once_whatever_fails(seed: int) -> None:
    """Commits that abort, or are lost, done or not; crashes and rebalances of two intakes: once each, in order."""
    print(f"seed {seed}")
    random = Random(seed)
    bench = Bench([FromTopic("orders.placed", signal="moved", saga_id=order_of)], batch_records_max=7)
    sent: dict[str, list[int]] = {}
    calm = False

    def fail() -> str:
        return "" if calm else random.choice(["", "", "", "abort", "after", "unknown"])

    loops = {slot: bench.loop(slot, lambda made: Failing(made, fail)) for slot in "ab"}
    for number in range(300):
        key = f"k{random.randrange(10)}"
        bench.put("orders.placed", {"order_id": key, "n": number}, key=key)
        sent.setdefault(key, []).append(number)
        slot = random.choice("ab")
        try:
            loops[slot].step()
        except Fatal:  # rejoined too often for its taste: its process is started anew
            loops[slot].close()
            loops[slot] = bench.loop(slot, lambda made: Failing(made, fail))
        if random.random() < 0.05:  # a crash: nothing is closed, its session ends
            bench.broker.expire_member("shop~intake", bench.joined[-1].member)
        bench.clock.advance(random.random() * 10)
    calm = True
    for _ in range(200):
        for slot in "ab":
            bench.clock.advance(20)
            loops[slot].step()

    assert bench.quarantined() == []
    asked: dict[str, list[int]] = {}
    for request in bench.requests():
        asked.setdefault(request.saga_id, []).append(json.loads(request.payload or b"")["n"])
    assert asked == sent


def test_order_is_kept_for_each_saga() -> None:
    """Records of one saga that lie in one source partition become requests in their order, batch after batch."""
    bench = Bench([FromTopic("orders.placed", signal="moved", saga_id=order_of)], batch_records_max=5)
    for number in range(40):
        bench.put("orders.placed", {"order_id": f"o-{number % 3}", "n": number}, key=f"o-{number % 3}")

    bench.run(steps=20)

    for saga in range(3):
        seen = [json.loads(r.payload or b"")["n"] for r in bench.requests() if r.saga_id == f"o-{saga}"]
        assert seen == list(range(saga, 40, 3))


def test_a_definition_that_cannot_work_is_refused() -> None:
    """What is wrong with a mapping is said when the module is imported."""
    for arguments, message in (
        ({}, "expected either start='a saga' or signal='a name'"),
        ({"start": "a", "signal": "b"}, "expected either"),
        ({"signal": ""}, "expected either"),
        ({"start": "checkout", "input": 7}, "expected input to be a function of the record, got 7"),
    ):
        with pytest.raises(DefinitionError, match=message):
            FromTopic("orders", saga_id=order_of, **arguments)
    with pytest.raises(DefinitionError, match="expected the name of a topic"):
        FromTopic("", start="checkout", saga_id=order_of)
    with pytest.raises(DefinitionError, match=r"to start one of its sagas \(checkout\), got 'other'"):
        Application("shop", [CHECKOUT], intake=[FromTopic("orders", start="other", saga_id=order_of)])
    odd = Application("shop", [CHECKOUT], intake=[FromTopic("o", start="checkout", saga_id=order_of, type=object())])
    with pytest.raises((BadPayload, TypeError)):
        Translator(odd, Topics("shop"))
