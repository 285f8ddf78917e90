"""The relay's loop on a slot and a broker in memory: what goes where, what is confirmed when, and crashes."""

import itertools
import logging
from collections.abc import Callable
from random import Random

import pytest

from kompensate.outbox import relay as relay_module
from kompensate.outbox.errors import Misconfigured, Undeliverable
from kompensate.outbox.pgoutput import Column, Ignored, Insert, Message, ProtocolError
from kompensate.outbox.records import Mapping
from kompensate.outbox.relay import Limits, Relay
from tests.fixtures.relay import (
    AT_ONCE,
    COLUMNS,
    OID,
    Broker,
    Clock,
    FakeProducer,
    FakeSlot,
    Wal,
    relation,
    row,
    values,
)

DEAD = "shop.dead"


class Bench:
    """A relay between a slot and a broker; `until` runs it until a condition holds, then stops it."""

    def __init__(
        self,
        wal: Wal | None = None,
        broker: Broker | None = None,
        *,
        limits: Limits = AT_ONCE,
        random: Random | None = None,
        capacity: int = 50,
        kind: type[Relay] = Relay,
    ) -> None:
        self.clock = Clock()
        self.wal = wal or Wal()
        self.broker = broker or Broker({"replies": 4, DEAD: 1})
        self.slot = FakeSlot(self.wal, self.clock)
        self.producer = FakeProducer(self.broker, self.clock, random, capacity=capacity)
        self._enough: Callable[[], bool] = lambda: True
        self._asked = 0
        self.relay = kind(self.slot, self.producer, DEAD, self._stopping, limits=limits, clock=self.clock)

    def until(self, enough: Callable[[], bool]) -> None:
        self._enough, self._asked = enough, 0
        self.relay.run()

    def until_confirmed(self) -> None:
        """Everything committed is confirmed."""
        last = self.wal.transactions[-1][1]
        self.until(lambda: self.wal.confirmed >= last)

    def _stopping(self) -> bool:
        self._asked += 1
        assert self._asked < 100_000, "the relay's loop never came to what the test waits for"
        return self._enough()


def test_a_row_becomes_a_record_where_its_columns_say() -> None:
    """Topic, partition, key and value are the row's; the transaction's end is confirmed."""
    bench = Bench()
    bench.wal.commit(row("replies", 2, "order-1", b"\0payload"))
    bench.until_confirmed()

    [record] = bench.broker.records["replies", 2]
    assert (record.key, record.value) == (b"order-1", b"\0payload")
    assert bench.slot.confirmed == [108]


def test_rows_of_one_statement_all_go() -> None:
    """Rows that share a log position are told apart: each goes once, in order."""
    bench = Bench()
    bench.wal.commit(*(row("replies", 0, "order-1", b"%d" % n) for n in range(10)))
    bench.until_confirmed()

    assert bench.broker.payloads("replies") == [b"%d" % n for n in range(10)]


def test_nothing_is_confirmed_while_the_broker_has_not_answered() -> None:
    """With the broker away nothing is confirmed, and the server keeps hearing that its reader lives."""
    bench = Bench(limits=Limits(confirm=0, heartbeat=3, drain=1))
    bench.broker.away = True
    bench.wal.commit(row("replies", 0, "order-1", b"1"))
    bench.until(lambda: bench.clock.now > 60)

    assert bench.slot.confirmed == []
    assert bench.slot.heartbeats >= 15

    bench.broker.away = False
    bench.until_confirmed()
    assert bench.broker.payloads("replies") == [b"1"]


def test_a_full_sink_holds_reading_up_and_not_the_heartbeat() -> None:
    """What is under way is bounded: with the broker away no more is read, and heartbeats go on."""
    bench = Bench(limits=Limits(confirm=0, heartbeat=3, drain=1), capacity=5)
    bench.broker.away = True
    bench.wal.commit(*(row("replies", 0, "order-1", b"%d" % n) for n in range(100)))
    bench.until(lambda: bench.clock.now > 60)

    assert bench.producer.in_flight_max == 5
    assert bench.slot.reads <= 4
    assert bench.slot.heartbeats >= 15


def test_a_stop_while_the_sink_is_full_confirms_nothing_of_the_row_that_was_not_sent() -> None:
    """A transaction of which a row was not sent comes again whole."""
    bench = Bench(capacity=5)
    bench.broker.away = True
    bench.wal.commit(*(row("replies", 0, "order-1", b"%d" % n) for n in range(8)))
    bench.until(lambda: bench.clock.now > 1)
    bench.broker.away = False
    after = Bench(bench.wal, bench.broker)
    after.until_confirmed()

    assert bench.slot.confirmed == []
    assert set(bench.broker.payloads("replies")) == {b"%d" % n for n in range(8)}


def test_the_slot_is_not_waited_for_while_answers_are() -> None:
    """A sink that keeps rows back for company is told of every pause: only then do they go out."""
    bench = Bench()
    read, waited = bench.slot.read, []

    def reading(timeout: float) -> list[Message]:
        if timeout and bench.producer.in_flight:
            waited.append(timeout)
        return read(timeout)

    bench.slot.read = reading  # type: ignore[method-assign]
    for n in range(20):
        bench.wal.commit(row("replies", n % 4, "order-1", b"%d" % n))
    bench.until_confirmed()

    assert waited == []


def test_a_later_transaction_waits_for_an_earlier_one() -> None:
    """What is confirmed is never beyond a transaction with an unanswered row, whatever came after it."""
    bench = Bench()
    bench.wal.commit(row("elsewhere", 0, "order-1", b"first"))
    bench.wal.commit(row("replies", 1, "order-2", b"second"))
    held = bench.producer._waiting["elsewhere", 0]
    bench.broker.topics["elsewhere"] = 1
    answer = bench.producer._answer
    bench.producer._answer = lambda place: None if place[0] == "elsewhere" else answer(place)  # type: ignore[method-assign]  # the broker of one topic is slow
    bench.until(lambda: bench.broker.payloads("replies") == [b"second"] and bench.clock.now > 1)

    assert len(held) == 1
    assert bench.slot.confirmed == []


def test_a_transaction_larger_than_what_may_be_under_way_passes_through() -> None:
    """Ten thousand rows of one transaction never stand in memory at once."""
    bench = Bench(capacity=100)
    bench.wal.commit(*(row("replies", n % 4, f"order-{n}", b"%d" % n) for n in range(10_000)))
    bench.until_confirmed()

    assert bench.producer.in_flight_max == 100
    assert len(bench.broker.payloads("replies")) == 10_000


def test_small_transactions_not_confirmed_are_bounded() -> None:
    """Behind one slow answer no more than `transactions_max` transactions pile up."""
    bench = Bench(limits=Limits(confirm=0, drain=1, transactions_max=20), capacity=1_000)
    bench.broker.away = True
    for n in range(200):
        bench.wal.commit(row("replies", 0, "order-1", b"%d" % n))
    bench.until(lambda: bench.clock.now > 5)
    assert bench.producer.in_flight <= 22

    bench.broker.away = False
    bench.until_confirmed()
    assert bench.broker.payloads("replies") == [b"%d" % n for n in range(200)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row("nowhere", 0, "order-1", b"bad"), "no topic nowhere"),
        (row("replies", 9, "order-1", b"bad"), "no partition 9"),
        (row("replies", -1, "order-1", b"bad"), "partition -1 is below 0"),
        (row("small", 0, "order-1", b"bad" * 10), "too large"),
    ],
    ids=["topic", "partition", "negative", "size"],
)
def test_a_row_that_its_topic_refuses_becomes_a_dead_letter(bad: list[bytes | None], reason: str) -> None:
    """It keeps its bytes, key and headers, says why and where it stood, and holds nobody up."""
    bench = Bench(broker=Broker({"replies": 4, DEAD: 1, "small": 1}, {"small": 20}))
    bench.wal.commit(row("replies", 0, "order-0", b"before"))
    bench.wal.commit(row("replies", 0, "order-1", b"beside"), bad)
    bench.wal.commit(row("replies", 0, "order-2", b"after"))
    bench.until_confirmed()

    assert bench.broker.payloads("replies") == [b"before", b"beside", b"after"]
    [letter] = bench.broker.records[DEAD, 0]
    headers = dict(letter.headers)
    assert letter.value == bad[[c.name for c in COLUMNS].index("payload")]
    assert letter.key == b"order-1"
    assert reason in (headers["q_reason"] or b"").decode()
    assert headers["ce_type"] == b"test.Happened"
    assert headers["q_lsn"] == b"0/6E"
    assert headers["q_index"] == b"1"
    assert bench.relay.dead == 1


def test_a_dead_letter_too_large_for_its_topic_goes_without_its_value() -> None:
    """The letter says that the value was left out, and its id leads to the row, which stays in the outbox."""
    bench = Bench(broker=Broker({"replies": 4, DEAD: 1}, {"replies": 10, DEAD: 20}))
    bench.wal.commit(row("replies", 0, "order-1", b"x" * 100))
    bench.until_confirmed()

    [letter] = bench.broker.records[DEAD, 0]
    assert letter.value is None
    assert b"value of 100 bytes left out" in (dict(letter.headers)["q_omitted"] or b"")


def test_without_a_dead_letter_topic_the_relay_stops_and_loses_nothing() -> None:
    """Where the dead-letter topic refuses too the relay ends with an error that names both, confirming nothing."""
    bench = Bench(broker=Broker({"replies": 4}))
    bench.wal.commit(row("nowhere", 0, "order-1", b"bad"))
    with pytest.raises(Undeliverable, match=f"expected dead-letter topic '{DEAD}' .* got 'no topic {DEAD}'"):
        bench.until(lambda: False)
    assert bench.slot.confirmed == []

    bench.broker.topics[DEAD] = 1
    after = Bench(bench.wal, bench.broker)
    after.until_confirmed()
    assert bench.broker.payloads(DEAD) == [b"bad"]


def test_an_idle_outbox_lets_the_servers_log_go() -> None:
    """With nothing under way a keepalive's position is confirmed, but no more often than it is worth."""
    bench = Bench(limits=Limits(confirm=1, confirm_idle=30, drain=1))
    bench.slot.keepalive(5_000)
    bench.until(lambda: bench.clock.now > 20)
    assert bench.slot.confirmed == []

    bench.until(lambda: bool(bench.slot.confirmed))
    assert bench.slot.confirmed == [5_000]
    assert 30 <= bench.clock.now < 31


def test_a_keepalive_within_a_transaction_confirms_nothing() -> None:
    """A position beyond rows that have no answer yet is not taken for safe, even where an answer is asked for."""
    bench = Bench()
    bench.broker.away = True
    bench.wal.commit(row("replies", 0, "order-1", b"1"))
    bench.slot.keepalive(9_000, reply=True)
    bench.until(lambda: not bench.slot.extra and bench.clock.now > 1)

    assert bench.slot.confirmed == []


def test_a_server_that_shuts_down_is_answered_at_once() -> None:
    """A keepalive that wants an answer is confirmed at once with nothing under way: the server waits for it."""
    bench = Bench(limits=Limits(confirm=1, confirm_idle=3600, drain=1))
    bench.slot.keepalive(5_000, reply=True)
    bench.until(lambda: bool(bench.slot.confirmed))

    assert bench.clock.now < 1


def test_stopping_waits_for_answers_and_confirms_them() -> None:
    """What was sent before the stop is awaited and confirmed, so that it does not come again."""
    bench = Bench(limits=Limits(confirm=3600, drain=10))
    bench.wal.commit(row("replies", 0, "order-1", b"1"))
    bench.until(lambda: bench.producer.in_flight > 0 or (bench.relay.rows > 0 and bench.clock.now > 0))

    assert bench.slot.confirmed == [108]


def test_stopping_does_not_wait_for_a_broker_that_is_away() -> None:
    """After `drain` seconds without an answer the relay leaves; the rows come again."""
    bench = Bench(limits=Limits(confirm=0, drain=10))
    bench.broker.away = True
    bench.wal.commit(row("replies", 0, "order-1", b"1"))
    bench.until(lambda: bench.producer.in_flight > 0)

    assert bench.slot.confirmed == []
    assert 10 <= bench.clock.now < 12


def test_columns_may_move_and_be_added_while_it_runs() -> None:
    """A relation message in mid-stream, with columns moved and one added, changes nothing in the records."""
    bench = Bench()
    bench.wal.commit(row("replies", 0, "order-1", b"1"))
    bench.until_confirmed()
    moved = (Column("tenant", 25), *reversed(COLUMNS))
    bench.slot._next.append(relation(moved))
    given = {c.name: v for c, v in zip(COLUMNS, row("replies", 0, "order-2", b"2"), strict=True)}
    bench.wal.commit(values(moved, tenant=b"blue", **{k: v for k, v in given.items() if k != "id"}))
    bench.until_confirmed()

    assert bench.broker.payloads("replies") == [b"1", b"2"]
    assert [r.key for r in bench.broker.records["replies", 0]] == [b"order-1", b"order-2"]


def test_a_column_taken_away_stops_it_with_its_name() -> None:
    """Without a column that records are made of the relay stops, naming it, before it makes a wrong record."""
    bench = Bench()
    bench.slot._next.append(relation([c for c in COLUMNS if c.name != "ce_id"]))
    bench.wal.commit(row("replies", 0, "order-1", b"1"))
    with pytest.raises(Misconfigured, match="got none named ce_id"):
        bench.until(lambda: False)

    assert bench.broker.payloads("replies") == []


def test_what_is_no_insert_is_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Updates, deletes and rows of other tables are left out, and said once."""
    bench = Bench()
    bench.slot._next.extend([relation(name="stock", oid=77), Insert(77, [b"x"]), *[Ignored("update")] * 5])
    bench.wal.commit(row("replies", 0, "order-1", b"1"))
    with caplog.at_level(logging.WARNING):
        bench.until_confirmed()

    assert bench.broker.payloads("replies") == [b"1"]
    assert len(caplog.messages) == 2


def test_rows_of_a_table_never_described_are_a_protocol_error() -> None:
    """An insert without its relation message is refused, naming the table's oid."""
    bench = Bench()
    bench.slot._next.append(Insert(OID + 1, []))
    with pytest.raises(ProtocolError, match=f"before rows of table oid {OID + 1}"):
        bench.until(lambda: False)


def test_a_resync_publishes_rows_and_waits_for_the_broker() -> None:
    """`publish` returns true when the broker has every row, refused ones on the dead-letter topic; false if stopped."""
    bench = Bench(capacity=10)
    rows = [row("replies", n % 4, f"order-{n}", b"%d" % n) for n in range(500)]
    rows.insert(100, row("nowhere", 0, "order-x", b"bad"))
    bench._enough = lambda: False
    assert bench.relay.publish(Mapping("outbox", COLUMNS), rows)
    assert len(bench.broker.payloads("replies")) == 500
    assert bench.broker.payloads(DEAD) == [b"bad"]
    assert bench.slot.confirmed == []

    bench.broker.away = True
    bench._enough = lambda: bench.clock.now > 100
    assert not bench.relay.publish(Mapping("outbox", COLUMNS), rows)


class Crash(BaseException):
    """The process dies here."""


def crash_and_recover(seed: int, monkeypatch: pytest.MonkeyPatch, kind: type[Relay] = Relay) -> list[str]:
    """Random transactions through relays that die at random fault points; what the checker finds wrong."""
    random = Random(seed)
    wal, broker = Wal(), Broker({"replies": 3, DEAD: 1})
    numbers = itertools.count()
    complaints: list[str] = []

    def check(lsn: int) -> None:
        has = set(broker.payloads("replies")) | set(broker.payloads(DEAD))
        position = [c.name for c in COLUMNS].index("payload")
        complaints.extend(
            f"confirmed {lsn} without {values[position]!r}"
            for _, end, rows in wal.transactions
            for values in rows
            if end <= lsn and values[position] not in has
        )

    for life in range(12):
        for _ in range(random.randint(0, 8)):
            key = random.randint(0, 5)
            topic = "nowhere" if random.random() < 0.05 else "replies"
            wal.commit(
                *(row(topic, key % 3, f"order-{key}", b"%d" % next(numbers)) for _ in range(random.randint(1, 9)))
            )
        bench = Bench(wal, broker, random=random, kind=kind, capacity=random.choice([2, 10, 50]))
        bench.slot.on_confirm = check
        last = life == 11
        passes = itertools.count()
        dies_at = None if last else random.randint(0, 60)

        def fault(name: str, passes: "itertools.count[int]" = passes, dies_at: int | None = dies_at) -> None:
            if next(passes) == dies_at:
                raise Crash(name)

        monkeypatch.setattr(relay_module, "fault", fault)
        try:
            bench.until(lambda bench=bench: bench.slot.reads > 400 and bench.producer.in_flight == 0)  # type: ignore[misc]
        except Crash:
            bench.producer.crash()
    return complaints + wrong(wal, broker)


def wrong(wal: Wal, broker: Broker) -> list[str]:
    """Rows lost, and keys whose rows first appear in another order than they were committed in."""
    everywhere = broker.payloads("replies") + broker.payloads(DEAD)
    found = [f"lost {payload!r}" for payload in wal.payloads() if payload not in everywhere]
    for place, records in broker.records.items():
        firsts = list(dict.fromkeys(int(r.value or b"-1") for r in records))
        if place[0] != DEAD and firsts != sorted(firsts):
            found.append(f"out of order in {place}: {firsts}")
    return found


@pytest.mark.parametrize("seed", range(60))
def test_no_crash_loses_a_row_or_confirms_one_too_early(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relays that die at random points, one after the other, together publish every row, each key in order."""
    assert crash_and_recover(seed, monkeypatch) == []


class ConfirmsOnReceipt(Relay):
    """A relay with its defence off: it takes what it has read for published."""

    def _settle(self) -> None:
        for transaction in self._open:
            transaction.unanswered = 0
        super()._settle()


def test_the_checker_sees_a_relay_that_confirms_on_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the defence off rows are lost, and the test above would say so."""
    found = [line for seed in range(20) for line in crash_and_recover(seed, monkeypatch, ConfirmsOnReceipt)]

    assert any("lost" in line for line in found)
    assert any("confirmed" in line for line in found)
