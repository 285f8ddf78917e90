"""Take-overs on real Kafka: each thing a former owner may leave behind, and what happens where a defence is missing."""

import threading
import time
from collections.abc import Iterator

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kompensate.orchestrator.errors import Aborted, Corrupted, Fenced
from kompensate.orchestrator.kafka.log import KafkaLog
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.worker.transactions import TransactionError
from tests.fixtures.fix_log import KafkaGround

DEADLINE_SECONDS = 30.0


@pytest.fixture(params=["classic", "consumer"])
def ground(kafka: str, topic_prefix: str, request: pytest.FixtureRequest) -> Iterator[KafkaGround]:
    """Topics with two partitions on real Kafka."""
    found = KafkaGround(topic_prefix, kafka, request.param)
    found.make_topics(2)
    yield found
    found.close()


def keys(records: list[Record]) -> list[str]:
    """Sorted: a take-over promises an order among the records of one key only."""
    return sorted((record.key or b"").decode() for record in records)


def test_offsets_that_a_dead_worker_has_pending_are_waited_for(ground: KafkaGround) -> None:
    """Its transaction has offsets and not one record: nothing in the state names it, the last watermark's slot does."""
    one = ground.log("one")
    ground.own(one, {0, 1})
    ground.start(one, 0)
    one.commit([ground.watermark(0, one.writer), ground.page(0, "a", "v")], ground.offsets(0, 1))
    assert isinstance(one, KafkaLog)
    # The next transaction of that slot, by its other producer, stops after it has sent its offsets.
    bare = ground.producer(one.writer)
    bare.begin()
    bare.send_offsets(ground.offsets(0, 2), one._metadata)
    two = ground.log("two")
    owned: set[int] = set()

    def moved() -> bool:
        one.poll(10, 0.02)
        owned.update(two.poll(10, 0.02).assigned)
        return 0 in owned or 1 in owned

    # Whichever partition moves: the pending offsets are of partition 0, so let the first worker leave.
    ground.until(moved, "a partition moved")
    ground.opened.remove(one)
    one.close()

    def has_it() -> bool:
        owned.update(two.poll(10, 0.02).assigned)
        return 0 in owned

    ground.until(has_it, "partition 0 moved")

    began = time.monotonic()
    records, committed, _ = ground.restore(two, 0)
    took = time.monotonic() - began

    assert keys(records) == ["__wm/0", "a"]
    assert committed[ground.requests] == 1
    assert 1.0 <= took < 8.0
    with pytest.raises(TransactionError):
        bare.commit()
    bare.close()


def test_a_partition_is_not_mistaken_for_ours_by_old_metadata(ground: KafkaGround) -> None:
    """The broker refuses a batch whose metadata is from before its partition went, if our own check fails to."""
    one = ground.log("one")
    ground.own(one, {0, 1})
    assert isinstance(one, KafkaLog)
    old = one._metadata
    two = ground.log("two")
    gone: set[int] = set()
    taken: set[int] = set()

    def moved() -> bool:
        gone.update(one.poll(10, 0.02).revoked)
        taken.update(two.poll(10, 0.02).assigned)
        return bool(gone and taken)

    ground.until(moved, "one partition moved")
    (lost,) = gone
    one._metadata = old
    one._owned.add(lost)

    with pytest.raises((Aborted, Fenced)):
        one.commit([ground.page(lost, "a", "v")], ground.offsets(lost, 1))

    assert ground.read(ground.state, lost) == []


def test_a_transaction_that_begins_during_the_take_over_is_ended(ground: KafkaGround) -> None:
    """A zombie opens one after the fence: reading does not get on, so whoever holds it up is fenced again."""
    log = ground.log("one")
    ground.own(log, {0, 1})
    ground.start(log, 0)
    log.commit([ground.watermark(0, log.writer), ground.page(0, "a", "v")], ground.offsets(0, 1))
    zombie = ground.producer(f"{ground.group}.zombie.0")

    takeover = log.take_over(0)
    records: list[Record] = []
    opened = False
    began = time.monotonic()
    for batch in takeover.records:
        records += batch or ()
        if not opened and batch is None:
            # While the ends are being asked for: the zombie's records come before the end that is read up to, or after.
            zombie.begin()
            zombie.produce([ground.watermark(0, f"{ground.group}.zombie.0")])
            opened = True
        assert time.monotonic() - began < DEADLINE_SECONDS

    assert keys(records) == ["__wm/0", "a"]
    zombie.close()


def test_without_the_fence_a_take_over_waits_for_the_time_out(
    ground: KafkaGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defence bites: where nobody ends the dead worker's transaction, the take-over stands still."""
    monkeypatch.setattr("kompensate.orchestrator.kafka.state.KafkaState.fence", lambda *_: None)
    dead = ground.producer(f"{ground.group}.dead.0")
    dead.begin()
    dead.produce([ground.watermark(0, f"{ground.group}.dead.0")])
    ground.until(lambda: ground.undecided(0), "the open transaction has reached the state partition")
    log = ground.log("one")
    ground.own(log, {0, 1})

    takeover = log.take_over(0)
    until = time.monotonic() + 5.0
    ended = False
    for _ in takeover.records:
        if time.monotonic() > until:
            break
    else:
        ended = True

    assert not ended
    dead.close()


def test_reading_only_up_to_the_stable_end_would_miss_a_commit(ground: KafkaGround) -> None:
    """An end read as committed readers see it lies below what a pending transaction is about to decide."""
    log = ground.log("one")
    ground.own(log, {0, 1})
    ground.start(log, 0)
    log.commit([ground.watermark(0, log.writer), ground.page(0, "a", "v")], ground.offsets(0, 1))
    open_ = ground.producer(f"{ground.group}.other.0")
    open_.begin()
    open_.produce([ground.page(0, "b", "v")])
    ground.until(lambda: ground.undecided(0), "the open transaction has reached the state partition")

    stable, high = ground.ends(0)

    assert stable < high
    open_.commit()
    assert keys(ground.restore(log, 0)[0]) == ["__wm/0", "a", "b"]
    open_.close()


def test_what_a_later_owner_wrote_is_left_out(ground: KafkaGround) -> None:
    """Records past the end that was asked for replace nothing: the partition is read as it stood with the offsets."""
    log = ground.log("one")
    ground.own(log, {0, 1})
    ground.start(log, 0)
    log.commit([ground.watermark(0, log.writer), ground.page(0, "a", "old")], ground.offsets(0, 1))
    takeover = log.take_over(0)
    # The end is known once reading has begun: the first portion that is not None.
    assert next(batch for batch in takeover.records if batch is not None) == ()
    log.commit([ground.watermark(0, log.writer), ground.page(0, "a", "new")], ground.offsets(0, 2))

    records = [record for batch in takeover.records for record in batch or ()]

    assert {record.key: record.value for record in records}[b"a"] == b"old"


@pytest.mark.slow
@pytest.mark.parametrize("left", ["pages", "tombstones"])
def test_a_compacted_partition_is_read_to_its_end(ground: KafkaGround, left: str) -> None:
    """After compaction offsets have gaps and the end may be a marker: what is left is read, and reading ends."""
    state = f"{ground.group}.compacted"
    settings = {
        "cleanup.policy": "compact",
        "segment.ms": "500",
        "min.cleanable.dirty.ratio": "0.01",
        "max.compaction.lag.ms": "500",
        "delete.retention.ms": "0" if left == "tombstones" else "86400000",
    }
    admin = AdminClient({"bootstrap.servers": ground.settings.bootstrap})
    for future in admin.create_topics([NewTopic(state, 2, 1, config=settings)]).values():
        future.result(DEADLINE_SECONDS)
    ground.state = state
    log = ground.log("one")
    ground.own(log, {0, 1})
    ground.start(log, 0)
    for turn in range(40):
        value = None if left == "tombstones" and turn > 30 else f"v{turn}"
        pages = [ground.page(0, f"saga-{n}", value) for n in range(5)]
        log.commit([ground.watermark(0, log.writer), *pages], ground.offsets(0, turn + 1))

    def compacted() -> bool:
        # The active segment is not cleaned: something has to be written for it to roll.
        log.poll(10, 0.05)
        log.commit([ground.watermark(0, log.writer)], ground.offsets(0, 50))
        return len([k for k in keys(ground.read(state, 0)) if k.startswith("saga")]) <= (
            0 if left == "tombstones" else 5
        )

    ground.until(compacted, "compaction has dropped what was superseded")
    records, committed, _ = ground.restore(log, 0)

    last = {record.key: record.value for record in records}
    pages_left = {} if left == "tombstones" else {f"saga-{n}".encode(): b"v39" for n in range(5)}
    assert {k: v for k, v in last.items() if k != b"__wm/0" and v is not None} == pages_left
    assert committed[ground.requests] == 50


def test_an_input_that_is_gone_is_noticed(ground: KafkaGround) -> None:
    """Where retention deleted what was not handled yet, the partition is Corrupted: nothing is skipped in silence."""
    ground.produce(ground.requests, 0, "r0", "r1", "r2")
    log = ground.log("one")
    ground.own(log, {0, 1})
    ground.restore(log, 0)
    admin = AdminClient({"bootstrap.servers": ground.settings.bootstrap})
    for future in admin.delete_records([TopicPartition(ground.requests, 0, 2)]).values():
        future.result(DEADLINE_SECONDS)

    log.resume(0, {ground.requests: 0, ground.replies: 0})

    with pytest.raises(Corrupted, match="expected the next input there") as found:
        ground.inputs_of(log, 3)
    assert found.value.partition == 0
    assert not found.value.retry


def test_other_partitions_go_on_during_a_take_over(ground: KafkaGround) -> None:
    """A take-over that has to fence somebody takes half a second; polling and committing for others does not wait."""
    log = ground.log("one")
    ground.own(log, {0, 1})
    ground.start(log, 1)
    dead = ground.producer(f"{ground.group}.dead.0")
    dead.begin()
    dead.produce([ground.watermark(0, f"{ground.group}.dead.0")])
    ground.until(lambda: ground.undecided(0), "the open transaction has reached the state partition")

    takeover = log.take_over(0)
    took: list[float] = []
    for _ in takeover.records:
        began = time.monotonic()
        log.poll(10, 0)
        log.commit([ground.watermark(1, log.writer)], ground.offsets(1, len(took) + 1))
        took.append(time.monotonic() - began)

    assert len(took) > 5  # were they held up, there would be time for one or two
    assert sorted(took)[-2] < 0.4  # one may be slow for reasons of the machine's
    assert threading.active_count() < 50
    dead.close()
