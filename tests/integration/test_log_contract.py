"""What a Log promises, on Kafka with either group protocol and in memory: the worker's loop rests on this."""

import pytest

from kompensate.orchestrator.errors import Aborted, Fatal, Fenced, Rejected
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.worker.transactions import Reaction, TransactionError
from tests.fixtures.fix_log import MakeGround

PATIENCE_SECONDS = 1.0


def values(records: list[Record]) -> list[str | None]:
    return [None if record.value is None else record.value.decode() for record in records]


# Inputs.


def test_a_partition_is_silent_until_it_is_resumed(make_ground: MakeGround) -> None:
    """Inputs of an assigned partition come only after resume, from the offsets given, in order, with all they have."""
    ground = make_ground(1)
    ground.produce(ground.requests, 0, "r0", "r1", "r2")
    log = ground.log()
    ground.own(log, {0})

    before = [record for _ in range(5) for record in log.poll(100, 0.02).records]
    ground.restore(log, 0)
    log.resume(0, {ground.requests: 1, ground.replies: 0})
    records = ground.inputs_of(log, 2)

    assert before == []
    assert values(records) == ["r1", "r2"]
    first = records[0]
    assert (ground.requests, 0, 1, b"k", [("h", b"1")]) == (
        first.topic,
        first.partition,
        first.offset,
        first.key,
        list(first.headers or ()),
    )
    assert first.timestamp > 1_600_000_000_000


def test_a_reply_goes_where_the_partition_of_requests_is(make_ground: MakeGround) -> None:
    """The owner of requests/p, and nobody else, reads partition p of the reply topics."""
    ground = make_ground(2)
    one = ground.log("one")
    ground.own(one, {0, 1})
    ground.start(one, 0)
    ground.start(one, 1)

    ground.produce(ground.replies, 0, "a0")
    ground.produce(ground.replies, 1, "a1")

    assert {"a0", "a1"} == set(values(ground.inputs_of(one, 2)))


def test_a_rewound_partition_reads_again(make_ground: MakeGround) -> None:
    """Resuming at an earlier offset brings the same records again, and none that was fetched ahead is skipped."""
    ground = make_ground(1)
    sent = [f"r{i}" for i in range(50)]
    ground.produce(ground.requests, 0, *sent)
    log = ground.log()
    ground.own(log, {0})
    ground.start(log, 0)
    first = ground.inputs_of(log, 10)

    for offset in (3, 0, 7):
        log.resume(0, {ground.requests: offset, ground.replies: 0})
        again = ground.inputs_of(log, 50 - offset)

        assert sent[offset:] == values(again)
    assert sent[: len(first)] == values(first)


def test_a_paused_partition_is_silent(make_ground: MakeGround) -> None:
    """Inputs of a paused partition do not come; those of the others do."""
    ground = make_ground(2)
    log = ground.log()
    ground.own(log, {0, 1})
    ground.start(log, 0)
    ground.start(log, 1)

    log.pause(0)
    ground.produce(ground.requests, 0, "not this")
    ground.produce(ground.requests, 1, "this")

    assert values(ground.inputs_of(log, 1)) == ["this"]
    assert [record for _ in range(5) for record in log.poll(100, 0.02).records] == []


# Commits.


def test_records_and_offsets_are_committed_together(make_ground: MakeGround) -> None:
    """After a commit a committed reader sees its records, and the group its offsets, of every partition touched."""
    ground = make_ground(2)
    log = ground.log()
    ground.own(log, {0, 1})
    for partition in (0, 1):
        ground.start(log, partition)

    for turn in (1, 2, 3):
        records = [ground.watermark(p, log.writer) for p in (0, 1)]
        records += [ground.page(p, "saga", f"v{turn}") for p in (0, 1)]
        log.commit(records, ground.offsets(0, turn, 5) | ground.offsets(1, turn, 6))

    for partition, replies in ((0, 5), (1, 6)):
        found = [value for value in values(ground.read(ground.state, partition)) if value and value.startswith("v")]
        assert found == ["v1", "v2", "v3"]
        assert {ground.requests: 3, ground.replies: replies} == ground.committed(partition)


def test_the_writer_named_before_a_commit_is_the_one_that_makes_it(make_ground: MakeGround) -> None:
    """A watermark names the writer whose producer wrote it: fencing that name ends this worker's next commit."""
    ground = make_ground(1)
    log = ground.log()
    ground.own(log, {0})
    ground.start(log, 0)
    writer = log.writer
    other = ground.producer(writer)

    with pytest.raises(Fenced):
        log.commit([ground.watermark(0, writer)], ground.offsets(0, 1))

    assert ground.read(ground.state, 0) == []
    other.close()


def test_a_record_that_is_too_large_rejects_the_batch(make_ground: MakeGround) -> None:
    """Nothing of a batch with one oversize record stands, and the next commit is unharmed."""
    ground = make_ground(1)
    log = ground.log()
    ground.own(log, {0})
    ground.start(log, 0)
    good = ground.page(0, "good", "v")

    with pytest.raises(Rejected):
        log.commit([good, ground.page(0, "large", "x" * 2_000_000)], ground.offsets(0, 7))
    log.commit([ground.page(0, "next", "w")], ground.offsets(0, 1))

    assert values(ground.read(ground.state, 0)) == ["w"]
    assert {ground.requests: 1, ground.replies: 0} == ground.committed(0)


def test_a_commit_for_a_partition_that_is_not_ours_is_refused(make_ground: MakeGround) -> None:
    """The broker fences members, not partitions: writing for another's partition is refused here, before a produce."""
    ground = make_ground(2)
    log = ground.log("one")
    ground.own(log, {0, 1})
    ground.start(log, 0)
    other = ground.log("two")
    gone: set[int] = set()

    def moved() -> bool:
        gone.update(log.poll(10, 0.02).revoked)
        other.poll(10, 0.02)
        return bool(gone)

    ground.until(moved, "one partition moved to the other worker")
    (partition,) = gone

    with pytest.raises(Fenced, match="expected to own them"):
        log.commit([ground.page(partition, "saga", "v")], ground.offsets(partition, 1))

    assert ground.read(ground.state, partition) == []


def test_a_commit_without_the_offset_that_fences_it_is_refused(make_ground: MakeGround) -> None:
    """Every touched partition commits its offset of requests: without one the group would not be asked."""
    ground = make_ground(1)
    log = ground.log()
    ground.own(log, {0})
    ground.start(log, 0)

    with pytest.raises(Fatal, match="expected its offset"):
        log.commit([ground.page(0, "saga", "v")], {(ground.replies, 0): 1})

    assert ground.read(ground.state, 0) == []


def test_an_old_batch_never_commits_beside_a_new_owner(make_ground: MakeGround) -> None:
    """A worker that has not polled since a rebalance may commit only as long as nobody else has its partitions."""
    ground = make_ground(2)
    log = ground.log("one")
    ground.own(log, {0, 1})
    ground.start(log, 0)
    ground.start(log, 1)
    other = ground.log("two")
    taken: set[int] = set()

    def refused() -> bool:
        taken.update(other.poll(10, 0.02).assigned)
        try:
            log.commit([ground.page(p, "saga", "old") for p in (0, 1)], ground.offsets(0, 9) | ground.offsets(1, 9))
        except (Aborted, Fenced):
            return True
        assert not taken, "the other worker has a partition, and the old batch was committed"
        # KIP-848 moves nothing, and ends no generation, before the owner has let go.
        return ground.waits_for_owners and ground.elapsed() > PATIENCE_SECONDS

    ground.until(refused, "the old batch is refused")

    assert not taken or not ground.waits_for_owners


# Ownership.


def test_two_workers_share_the_partitions(make_ground: MakeGround) -> None:
    """A second worker gets a part, the first hears what went, no partition is with both; on close it returns."""
    ground = make_ground(4)
    one = ground.log("one")
    ground.own(one, {0, 1, 2, 3})
    two = ground.log("two")
    owned: dict[str, set[int]] = {"one": {0, 1, 2, 3}, "two": set()}

    def step() -> bool:
        for name, log in (("one", one), ("two", two)):
            polled = log.poll(10, 0.02)
            owned[name] = (owned[name] - polled.revoked - polled.lost) | polled.assigned
            assert not owned["one"] & owned["two"]
        return len(owned["one"]) == len(owned["two"]) == 2

    ground.until(step, "two partitions each")
    two.close()
    ground.opened.remove(two)

    def whole() -> bool:
        polled = one.poll(10, 0.02)
        owned["one"] |= polled.assigned
        return owned["one"] == {0, 1, 2, 3}

    ground.until(whole, "all partitions back")


# Take-overs.


def test_a_take_over_reads_what_was_committed(make_ground: MakeGround) -> None:
    """The last committed record of each key comes, tombstones too, aborted ones do not; offsets are the group's."""
    ground = make_ground(1)
    first = ground.log("one")
    ground.own(first, {0})
    ground.start(first, 0)
    first.commit([ground.watermark(0, first.writer), ground.page(0, "a", "a1")], ground.offsets(0, 1))
    with pytest.raises(Rejected):
        first.commit([ground.page(0, "a", "never"), ground.page(0, "large", "x" * 2_000_000)], ground.offsets(0, 2))
    first.commit([ground.page(0, "a", None), ground.page(0, "b", "b1")], ground.offsets(0, 3, 2))
    first.close()
    ground.opened.remove(first)
    second = ground.log("two")
    ground.own(second, {0})

    records, committed, beginning = ground.restore(second, 0)

    last = {record.key: record for record in records}
    assert last.keys() == {b"__wm/0", b"a", b"b"}
    assert (last[b"a"].value, last[b"b"].value) == (None, b"b1")
    assert list(last[b"b"].headers or ()) == [("h", b"1")]
    assert {ground.requests: 3, ground.replies: 2} == committed
    assert {ground.requests: 0, ground.replies: 0} == beginning


def test_an_empty_partition_is_taken_over_at_once(make_ground: MakeGround) -> None:
    """A partition that nothing was ever written to has no records, no offsets, and beginnings."""
    ground = make_ground(1)
    log = ground.log()
    ground.own(log, {0})

    assert ([], {}, {ground.requests: 0, ground.replies: 0}) == ground.restore(log, 0)


def test_a_partition_with_only_aborted_records_is_empty(make_ground: MakeGround) -> None:
    """Where the end is nothing but an aborted transaction and its marker, a take-over comes to that end."""
    ground = make_ground(1)
    bare = ground.producer(f"{ground.group}.gone.0")
    bare.begin()
    bare.produce([ground.page(0, "a", "never")])
    ground.until(lambda: ground.undecided(0), "the open transaction has reached the state partition")
    bare.abort()
    bare.close()
    log = ground.log()
    ground.own(log, {0})

    assert ground.restore(log, 0)[0] == []


def test_an_open_transaction_of_a_dead_worker_is_ended(make_ground: MakeGround) -> None:
    """A take-over fences the writer that the open transaction's watermark names, reads past it, and it stays fenced."""
    ground = make_ground(1)
    dead = ground.producer(f"{ground.group}.dead.1")
    dead.begin()
    dead.produce([ground.watermark(0, f"{ground.group}.dead.1"), ground.page(0, "a", "never")])
    log = ground.log()
    ground.until(lambda: ground.undecided(0), "the open transaction has reached the state partition")
    ground.own(log, {0})

    records, _, _ = ground.restore(log, 0)

    assert records == []
    with pytest.raises(TransactionError) as fenced:
        dead.commit()
    assert fenced.value.reaction in (Reaction.FENCED, Reaction.REPLACE)
    dead.close()
    log.commit([ground.page(0, "a", "a1")], ground.offsets(0, 1))
    assert values(ground.read(ground.state, 0)) == ["a1"]


def test_a_new_reply_topic_begins_at_its_beginning(make_ground: MakeGround) -> None:
    """A service that joins has no committed offset; the others' stay, and its own is committed from then on."""
    ground = make_ground(1)
    ground.produce(ground.requests, 0, "r0", "r1")
    ground.produce(ground.replies, 0, "a0")
    first = ground.log("one")
    ground.own(first, {0})
    ground.start(first, 0)
    first.commit([ground.watermark(0, first.writer)], ground.offsets(0, 2, 1))
    first.close()
    ground.opened.remove(first)
    new = f"{ground.group}.replies.b"
    ground.make_topic(new, 1)
    ground.produce(new, 0, "b0")
    second = ground.log("two", inputs=[*ground.inputs, new])
    ground.own(second, {0})

    _, committed, beginning = ground.restore(second, 0)
    second.resume(0, {ground.requests: 2, ground.replies: 1, new: beginning[new]})
    records = ground.inputs_of(second, 1)

    assert {ground.requests: 2, ground.replies: 1} == committed
    assert beginning[new] == 0
    assert values(records) == ["b0"]


def test_a_second_worker_in_the_same_slot_fences_the_first(make_ground: MakeGround) -> None:
    """Two workers with one slot cannot both write: the older one's next commit is fenced."""
    ground = make_ground(1)
    one = ground.log("same")
    ground.own(one, {0})
    ground.start(one, 0)
    ground.log("same")

    with pytest.raises((Fenced, Aborted)):
        one.commit([ground.page(0, "a", "v")], ground.offsets(0, 1))

    assert ground.read(ground.state, 0) == []
