"""Commits through producers in turn: what each kind of failure leads to, and when a producer is replaced."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from confluent_kafka import KafkaError

from kompensate.orchestrator.errors import Aborted, Corrupted, Fatal, Fenced, KompensateError, Rejected
from kompensate.orchestrator.kafka.membership import generation
from kompensate.orchestrator.kafka.options import client_options
from kompensate.orchestrator.kafka.producer import reaction
from kompensate.orchestrator.ports import OutRecord
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing import VirtualClock
from kompensate.orchestrator.worker.transactions import (
    Producer,
    Reaction,
    TransactionError,
    Transactions,
    expect_fenced,
)

RECORDS = [OutRecord("app.state", 0, b"k", b"v", None)]
OFFSETS = {("app.requests", 0): 4}
METADATA = b"metadata"


@dataclass
class Fake:
    """Fails where it is told to, and writes down what was asked of it."""

    id: str
    clock: VirtualClock
    calls: list[tuple[str, str]]
    fail: dict[str, list[Exception]]
    slow: dict[str, float]
    disturbed: bool = False

    def _call(self, name: str) -> None:
        self.calls.append((self.id, name))
        self.clock.advance(self.slow.pop(name, 0.001))
        if self.fail.get(name):
            raise self.fail[name].pop(0)

    def serve(self) -> None: ...

    def begin(self) -> None:
        self._call("begin")

    def produce(self, records: Sequence[OutRecord]) -> None:
        assert records is RECORDS
        self._call("produce")

    def send_offsets(self, offsets: Mapping[tuple[str, int], int], metadata: object) -> None:
        assert (offsets, metadata) == (OFFSETS, METADATA)
        self._call("offsets")

    def commit(self) -> None:
        self._call("commit")

    def abort(self) -> None:
        self._call("abort")

    def close(self) -> None:
        self.calls.append((self.id, "close"))


@dataclass
class Bench:
    """Transactions over fakes."""

    clock: VirtualClock = field(default_factory=VirtualClock)
    calls: list[tuple[str, str]] = field(default_factory=list)
    fail: dict[str, list[Exception]] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    made: list[Fake] = field(default_factory=list)
    unreachable: list[TransactionError] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.transactions = Transactions(["a.0", "a.1"], self._open, Settings(), self.clock)
        self.transactions.open()

    def _open(self, ids: Sequence[str]) -> list[Producer]:
        if self.unreachable:
            raise self.unreachable.pop()
        made = [Fake(id_, self.clock, self.calls, self.fail, self.slow) for id_ in ids]
        self.made += made
        self.calls += [(id_, "init") for id_ in ids]
        return list(made)

    def commit(self) -> list[str]:
        """Commit; what was done, in short."""
        del self.calls[:]
        self.transactions.commit(RECORDS, OFFSETS, METADATA)
        return self.short()

    def short(self) -> list[str]:
        return [f"{id_[-1]} {name}" for id_, name in self.calls]


def failing(reaction_: Reaction, times: int = 1) -> list[Exception]:
    return [TransactionError(reaction_, "by order")] * times


def test_producers_take_turns() -> None:
    """The next commit is the other producer's, and `writer` names who is to make it."""
    bench = Bench()

    writers = []
    for _ in range(4):
        writers.append(bench.transactions.writer)
        bench.commit()

    assert writers == ["a.0", "a.1", "a.0", "a.1"]


def test_a_call_that_may_be_resumed_is_made_again() -> None:
    """The same call with the same arguments; and its producer is replaced before its next transaction."""
    bench = Bench(fail={"commit": failing(Reaction.RESUME, 2)})

    assert bench.commit() == ["0 begin", "0 produce", "0 offsets", "0 commit", "0 commit", "0 commit"]
    assert bench.commit()[0] == "1 begin"
    assert bench.commit()[:3] == ["0 close", "0 init", "0 begin"]


def test_a_call_that_never_ends_is_given_up() -> None:
    """After twice the transaction's time-out the outcome counts as unknown: only the log can tell."""
    bench = Bench(fail={"commit": failing(Reaction.RESUME, 10_000)})

    with pytest.raises(Corrupted) as found:
        bench.commit()

    assert found.value.retry
    assert 20 <= bench.clock.monotonic() < 45


@pytest.mark.parametrize("cause", ["slow", "disturbed"])
def test_a_disturbed_commit_has_its_producer_replaced(cause: str) -> None:
    """A copy of its EndTxn may still be under way: the next transaction of that id has a new epoch."""
    bench = Bench(slow={"commit": 3.0} if cause == "slow" else {})
    bench.commit()
    bench.made[0].disturbed = cause == "disturbed"
    bench.commit()

    assert bench.commit()[:3] == ["0 close", "0 init", "0 begin"]


def test_an_undisturbed_producer_stays() -> None:
    """Replacing costs: it is not done without a cause."""
    bench = Bench()
    for _ in range(10):
        assert "init" not in " ".join(bench.commit())


@pytest.mark.parametrize("where", ["begin", "produce", "offsets", "commit"])
@pytest.mark.parametrize(
    ("failure", "error"), [(Reaction.ABORT, Aborted), (Reaction.REJECT, Rejected)], ids=["abort", "reject"]
)
def test_an_aborted_transaction_costs_its_producer(where: str, failure: Reaction, error: type[KompensateError]) -> None:
    """It is aborted, its producer replaced, and the same commit can be tried again at once."""
    bench = Bench(fail={where: failing(failure)})

    with pytest.raises(error, match="by order"):
        bench.commit()

    assert bench.short()[-3:] == ["0 abort", "0 close", "0 init"]
    assert bench.commit() == ["0 begin", "0 produce", "0 offsets", "0 commit"]


def test_any_exception_gives_the_transaction_up() -> None:
    """A produce() that fails here does not fail the transaction at the broker: it must not be committed."""
    bench = Bench(fail={"produce": [ValueError("odd")]})

    with pytest.raises(Aborted, match="ValueError"):
        bench.commit()

    assert "0 commit" not in bench.short()
    assert bench.short()[-3:] == ["0 abort", "0 close", "0 init"]


@pytest.mark.parametrize(
    ("failure", "error"),
    [(Reaction.FENCED, Fenced), (Reaction.REPLACE, Corrupted), (Reaction.STOP, Fatal)],
    ids=["fenced", "replace", "stop"],
)
def test_a_commit_that_failed_for_good_is_named(failure: Reaction, error: type[KompensateError]) -> None:
    """Fenced, of unknown outcome, or hopeless: whichever it is, that producer is used no more."""
    bench = Bench(fail={"commit": failing(failure)})

    with pytest.raises(error, match="by order"):
        bench.commit()

    assert "0 close" in bench.short()


def test_a_failed_abort_is_left_to_the_next_producer() -> None:
    """The batch is aborted all the same: nobody is left who would commit it."""
    bench = Bench(fail={"produce": failing(Reaction.ABORT), "abort": failing(Reaction.FENCED)})

    with pytest.raises(Aborted):
        bench.commit()

    assert bench.short()[-3:] == ["0 abort", "0 close", "0 init"]


def test_a_broker_that_is_away_does_not_change_the_outcome() -> None:
    """The batch is aborted though no new producer can be had now; one is made before the next commit."""
    bench = Bench(fail={"produce": failing(Reaction.ABORT)})
    bench.unreachable = [TransactionError(Reaction.RESUME, "no broker")]

    with pytest.raises(Aborted, match="by order"):
        bench.commit()

    assert bench.commit()[0] == "0 init"


@pytest.mark.parametrize(
    ("failure", "error"), [(Reaction.RESUME, Aborted), (Reaction.FENCED, Fenced), (Reaction.STOP, Fatal)]
)
def test_a_producer_that_cannot_be_had_is_named(failure: Reaction, error: type[KompensateError]) -> None:
    """What opening leads to: try again, rejoin, or stop."""
    bench = Bench(fail={"commit": failing(Reaction.RESUME)})
    bench.commit()
    bench.commit()
    bench.unreachable = [TransactionError(failure, "by order")]

    with pytest.raises(error, match=r"a\.0 could not be opened: by order"):
        bench.commit()


# What would make a commit unfenced.


def test_a_fenced_commit_passes() -> None:
    """Owned partitions, with their offsets, by a member."""
    expect_fenced({("app.requests", 1): 0, ("app.replies.a", 1): 5}, {0, 1}, "app.requests", 3, "member")


@pytest.mark.parametrize(
    ("offsets", "owned", "generation_", "member", "error"),
    [
        ({("app.requests", 1): 4}, {0}, 3, "m", Fenced),
        ({}, {0}, 3, "m", Fenced),
        ({("app.replies.a", 0): 4}, {0}, 3, "m", Fatal),
        ({("app.requests", 0): -1}, {0}, 3, "m", Fatal),
        ({("app.requests", 0): 4, ("app.replies.a", 1): 4}, {0, 1}, 3, "m", Fatal),
        ({("app.requests", 0): 4}, {0}, -1, "", Aborted),
        ({("app.requests", 0): 4}, {0}, 3, "", Aborted),
        ({("app.requests", 0): 4}, {0}, -1, "m", Aborted),
    ],
)
def test_an_unfenced_commit_is_refused(
    offsets: dict[tuple[str, int], int],
    owned: set[int],
    generation_: int,
    member: str,
    error: type[KompensateError],
) -> None:
    """Another's partition, no offset, no valid offset, no member: the broker would let each of them through."""
    with pytest.raises(error):
        expect_fenced(offsets, owned, "app.requests", generation_, member)


def test_group_metadata_is_read() -> None:
    """Generation and member, as librdkafka serializes them; before the join they are -1 and empty."""
    assert generation(b"CGMDv2:\x05\x00\x00\x00group\x00member-1\x00\x01") == (5, "member-1")
    assert generation(b"CGMDv2:\xff\xff\xff\xffgroup\x00\x00\x01") == (-1, "")


@pytest.mark.parametrize("metadata", [None, b"", b"CGMDv3:\x05\x00\x00\x00group\x00member\x00", "CGMDv2:"])
def test_unknown_group_metadata_stops_the_worker(metadata: object) -> None:
    """What cannot be read cannot be trusted to fence."""
    with pytest.raises(Fatal, match="CGMDv2"):
        generation(metadata)


def test_short_group_metadata_is_no_member() -> None:
    """Cut off anywhere, it never passes for a member's."""
    whole = b"CGMDv2:\x05\x00\x00\x00group\x00member-1\x00\x01"
    for length in range(7, whole.index(b"member")):
        assert generation(whole[:length])[1] == ""


# What librdkafka's errors mean.


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KafkaError(KafkaError._FENCED, "", fatal=True), Reaction.FENCED),
        (KafkaError(KafkaError.INVALID_PRODUCER_EPOCH, "", fatal=True), Reaction.FENCED),
        (KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "", fatal=True), Reaction.REPLACE),
        (KafkaError(KafkaError.ILLEGAL_GENERATION, "", txn_requires_abort=True), Reaction.ABORT),
        (KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "", txn_requires_abort=True), Reaction.ABORT),
        (KafkaError(KafkaError._TIMED_OUT, "", retriable=True, txn_requires_abort=True), Reaction.ABORT),
        (KafkaError(KafkaError._TIMED_OUT, "", retriable=True), Reaction.RESUME),
        (KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, ""), Reaction.REJECT),
        (KafkaError(KafkaError._UNKNOWN_PARTITION, ""), Reaction.REJECT),
        (KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "", fatal=True), Reaction.STOP),
        (KafkaError(KafkaError._STATE, ""), Reaction.REPLACE),
        (KafkaError(KafkaError._INVALID_ARG, ""), Reaction.REPLACE),
    ],
    ids=str,
)
def test_errors_are_named_by_what_may_follow(error: KafkaError, expected: Reaction) -> None:
    """Fatal before abort before retry, and what has no flag at all is not trusted."""
    assert reaction(error) is expected


@pytest.mark.parametrize("name", ["isolation.level", "enable.auto.commit", "transactional.id", "acks"])
def test_options_that_promises_rest_on_cannot_be_set(name: str) -> None:
    """An application's own options pass through, but for these."""
    with pytest.raises(Fatal, match=name):
        client_options(Settings(kafka={name: "x"}), {})

    assert client_options(Settings(kafka={"ssl.ca.location": "ca.pem"}), {})["ssl.ca.location"] == "ca.pem"
