"""What Sources promise, on Kafka with either group protocol and in memory: the intake's loop rests on this."""

import secrets
from collections.abc import Iterator
from typing import Protocol

import pytest
from confluent_kafka import Producer as PlainProducer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kompensate.orchestrator.errors import Aborted, Fenced, Rejected
from kompensate.orchestrator.intake.ports import Sources
from kompensate.orchestrator.kafka.sources import KafkaSources
from kompensate.orchestrator.main import SystemClock
from kompensate.orchestrator.ports import OutRecord, Record
from kompensate.orchestrator.reading.reader import Reader
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing import MemoryBroker, VirtualClock
from kompensate.orchestrator.testing.sources import MemorySources
from tests.fixtures.waiting import wait_until

RECORD_BYTES_MAX = 2_000


class Ground(Protocol):
    """Source topics `a` and `b` of two partitions each, and a topic `out` of one."""

    a: str
    b: str
    out: str

    def sources(self, slot: str) -> Sources: ...
    def put(self, topic: str, partition: int, *values: str) -> None: ...
    def written(self) -> list[str]: ...


class Memory:
    """The ground in memory."""

    a, b, out = "a", "b", "out"

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.broker = MemoryBroker(self.clock)
        for topic, partitions in (("a", 2), ("b", 2), ("out", 1)):
            self.broker.create_topic(topic, partitions, record_bytes_max=RECORD_BYTES_MAX)

    def sources(self, slot: str) -> Sources:
        topics = [self.a, self.b]
        return MemorySources(self.broker, Settings(), group="g", slot=slot, topics=topics, clock=self.clock)

    def put(self, topic: str, partition: int, *values: str) -> None:
        for value in values:
            self.broker.produce(topic, partition, b"k", value.encode())

    def written(self) -> list[str]:
        return [(record.value or b"").decode() for record in self.broker.read(self.out, 0)]


class Kafka:
    """The ground on the real broker."""

    def __init__(self, bootstrap: str, prefix: str, protocol: str) -> None:
        self.a, self.b, self.out = (f"{prefix}{name}" for name in ("a", "b", "out"))
        self._group = f"{prefix}g{secrets.token_hex(2)}"
        self._settings = Settings(
            bootstrap=bootstrap, group_protocol=protocol, session_timeout_seconds=6.0, heartbeat_seconds=0.2
        )
        admin = AdminClient({"bootstrap.servers": bootstrap})
        limit = {"max.message.bytes": str(RECORD_BYTES_MAX)}
        new = [NewTopic(name, 2 if name != self.out else 1, 1, config=limit) for name in (self.a, self.b, self.out)]
        for made in admin.create_topics(new).values():
            made.result(20)
        self._producer = PlainProducer({"bootstrap.servers": bootstrap})
        self.reader = Reader(bootstrap)

    def sources(self, slot: str) -> Sources:
        return KafkaSources(
            self._settings,
            group=self._group,
            slot=slot,
            topics=[self.a, self.b],
            begin="earliest",
            clock=SystemClock(),
        )

    def put(self, topic: str, partition: int, *values: str) -> None:
        for value in values:
            self._producer.produce(topic, value.encode(), b"k", partition)
        assert self._producer.flush(20) == 0

    def written(self) -> list[str]:
        return [(record.value or b"").decode() for record in self.reader.scan(self.out, {0: 0})]


class Field:
    """A ground with the sources that were opened on it."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.opened: list[Sources] = []

    def open(self, slot: str = "one") -> Sources:
        made = self.ground.sources(slot)
        self.opened.append(made)
        return made

    def read(self, sources: Sources, count: int) -> list[Record]:
        """So many records, however many polls that takes."""
        found: list[Record] = []

        def enough() -> bool:
            for one in self.opened:
                if one is not sources:
                    assert not one.poll(100, 0), "only one of them is meant to have records"
            found.extend(sources.poll(100, 0.05))
            return len(found) >= count

        wait_until(f"{count} records", enough, 30)
        return found

    def out(self, *values: str) -> list[OutRecord]:
        return [OutRecord(self.ground.out, 0, b"k", value.encode(), None) for value in values]


@pytest.fixture(
    params=[
        "memory",
        pytest.param("classic", marks=pytest.mark.stack),
        pytest.param("consumer", marks=pytest.mark.stack),
    ]
)
def field(request: pytest.FixtureRequest) -> Iterator[Field]:
    """Kafka's servers are asked for only where they are needed."""
    if request.param == "memory":
        made = Field(Memory())
    else:
        bootstrap, prefix = request.getfixturevalue("kafka"), request.getfixturevalue("topic_prefix")
        made = Field(Kafka(bootstrap, prefix, request.param))
    yield made
    for sources in made.opened:
        sources.close()
    if isinstance(made.ground, Kafka):
        made.ground.reader.close()


def values(records: list[Record]) -> list[str]:
    return [(record.value or b"").decode() for record in records]


def next_of(records: list[Record]) -> dict[tuple[str, int], int]:
    return {(record.topic, record.partition): record.offset + 1 for record in records}


def test_records_of_all_topics_come_in_their_order(field: Field) -> None:
    """Each partition's in order; what was committed does not come again to whoever is next."""
    ground = field.ground
    ground.put(ground.a, 0, "a0", "a1")
    ground.put(ground.b, 1, "b0")
    first = field.open()

    records = field.read(first, 3)
    first.commit(field.out("x", "y"), next_of(records))
    field.opened.remove(first)
    first.close()
    ground.put(ground.a, 0, "a2")
    again = field.read(field.open(), 1)

    assert sorted(values(records)) == ["a0", "a1", "b0"]
    assert [v for v in values(records) if v[0] == "a"] == ["a0", "a1"]
    assert values(again) == ["a2"]
    wait_until("what was written", lambda: ground.written() == ["x", "y"])


def test_a_rewind_brings_again_what_was_not_committed(field: Field) -> None:
    """After a rewind reading goes on from the last commit, in the same order, with nothing left out."""
    ground = field.ground
    sent = [f"v{n}" for n in range(30)]
    ground.put(ground.a, 0, *sent)
    sources = field.open()
    records = field.read(sources, 30)
    sources.commit([], next_of(records[:10]))

    sources.rewind()

    assert values(field.read(sources, 20)) == sent[10:]


def test_a_refused_transaction_leaves_nothing(field: Field) -> None:
    """Too large a record: Rejected, no record and no offset of it stands, and the next commit works."""
    ground = field.ground
    ground.put(ground.a, 0, "v0", "v1")
    sources = field.open()
    records = field.read(sources, 2)

    with pytest.raises(Rejected):
        sources.commit(field.out("small", "x" * 10_000), next_of(records))
    sources.rewind()
    again = field.read(sources, 2)
    sources.commit(field.out("after"), next_of(again))

    assert values(again) == ["v0", "v1"]
    wait_until("what was written", lambda: ground.written() == ["after"])


def test_who_does_not_own_cannot_commit(field: Field) -> None:
    """Offsets of a partition that is not ours are refused before anything is written."""
    ground = field.ground
    ground.put(ground.a, 0, "v0")
    sources = field.open()
    records = field.read(sources, 1)

    for offsets in ({}, {(ground.a, 0): 1, (ground.out, 0): 1}):
        with pytest.raises(Fenced):
            sources.commit(field.out("no"), offsets)
    sources.commit(field.out("yes"), next_of(records))

    wait_until("what was written", lambda: ground.written() == ["yes"])


def test_a_member_that_lost_its_partitions_is_refused(field: Field) -> None:
    """A rebalance between poll and commit: the stale commit fails whole, and the new owner reads the records."""
    ground = field.ground
    ground.put(ground.a, 0, "v0")
    ground.put(ground.a, 1, "v1")
    ground.put(ground.b, 0, "v2")
    ground.put(ground.b, 1, "v3")
    first = field.open()
    polled = {record.value: record for record in field.read(first, 4)}
    second = field.open("two")
    moved: list[Record] = []

    def shared() -> bool:
        first.poll(100, 0)
        moved.extend(second.poll(100, 0.05))
        return len(moved) >= 2

    wait_until("the second has its share", shared, 40)
    stale = [polled[record.value] for record in moved]
    with pytest.raises((Fenced, Aborted)):
        first.commit(field.out("stale"), next_of(stale))
    second.commit(field.out("fresh"), next_of(moved))

    wait_until("what was written", lambda: ground.written() == ["fresh"])
