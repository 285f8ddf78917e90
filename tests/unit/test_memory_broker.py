"""What the simulator needs of the broker in memory beside the contract of logs: slow markers, requests sent twice."""

import pytest

from kompensate.orchestrator.testing import MemoryBroker, VirtualClock
from kompensate.orchestrator.testing.broker import InvalidState, Offsets, ProducerFenced

PLACE = ("in", 0)


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker(VirtualClock())
    for topic in ("in", "a", "b"):
        broker.create_topic(topic, 1)
    return broker


def transaction(broker: MemoryBroker, id_: str, offset: int, *topics: str) -> int:
    """Commit a record to each topic, and an offset; the producer's epoch."""
    epoch = broker.init_producer(id_)
    broker.begin(id_, epoch)
    for topic in topics:
        broker.produce_in(id_, epoch, topic, 0, b"k", b"v", None)
    broker.send_offsets(id_, epoch, "group", (-1, ""), {PLACE: offset})
    broker.end(id_, epoch, commit=True)
    return epoch


def test_markers_come_one_by_one(broker: MemoryBroker) -> None:
    """A decided transaction is seen topic by topic; its offsets are pending until theirs has come."""
    decided: list[list[Offsets]] = []
    broker.on_commit = lambda records, offsets: decided.append(offsets)
    broker.slow_markers = lambda _: True
    transaction(broker, "t", 5, "a", "b")

    assert [dict(offsets.offsets) for [offsets] in decided] == [{PLACE: 5}]
    assert broker.undelivered() == {"t": 3}
    broker.write_marker("t", 1)
    assert (len(broker.read("a", 0)), len(broker.read("b", 0))) == (0, 1)
    assert broker.committed("group", ["in"], 0) is None
    broker.write_marker("t", 1)
    assert broker.committed("group", ["in"], 0) == {"in": 5}
    broker.write_marker("t")
    assert (len(broker.read("a", 0)), broker.undelivered()) == (1, {})


def test_offsets_count_by_their_order_not_by_their_markers(broker: MemoryBroker) -> None:
    """The older transaction's marker comes last; its offset does not win (Kafka: GroupCoordinator, olderThan)."""
    broker.slow_markers = lambda id_: id_ == "old"
    transaction(broker, "old", 5)
    transaction(broker, "new", 9)

    broker.write_marker("old")

    assert broker.committed("group", ["in"], 0) == {"in": 9}


def test_nothing_new_begins_before_the_markers(broker: MemoryBroker) -> None:
    """A producer's next transaction, and its successor, wait for the markers of the last."""
    broker.slow_markers = lambda _: True
    epoch = transaction(broker, "t", 5, "a")
    broker.begin("t", epoch)

    assert len(broker.read("a", 0)) == 1


def test_the_same_end_may_be_asked_for_again(broker: MemoryBroker) -> None:
    """An answer was lost; another end, or one of an older epoch, is an error."""
    epoch = transaction(broker, "t", 5, "a")

    broker.end("t", epoch, commit=True)
    with pytest.raises(InvalidState):
        broker.end("t", epoch, commit=False)
    broker.init_producer("t")
    with pytest.raises(ProducerFenced):
        broker.end("t", epoch, commit=True)
    assert len(broker.read("a", 0)) == 1


def test_a_partition_more_spreads_keys_anew(broker: MemoryBroker) -> None:
    """Topics grow."""
    broker.add_partition("a")

    assert broker.partitions("a") == 2
    assert broker.ends("a", 1) == (0, 0, 0)
