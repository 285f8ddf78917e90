"""What every relay does, whether it reads PostgreSQL's log or asks a table of PostgreSQL, SQLite or MariaDB."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from kompensate.outbox.errors import Undeliverable
from kompensate.outbox.main import RelayService
from kompensate.outbox.relay import Limits
from tests.fixtures.outboxes import RealOutbox
from tests.fixtures.polled_outboxes import MariaOutbox, PolledOutbox, SqliteOutbox
from tests.fixtures.waiting import wait_until

KINDS = ("log", "polled", "sqlite", "mariadb")


@pytest.fixture(params=KINDS)
def any_outbox(
    request: pytest.FixtureRequest, kafka: str, topic_prefix: str, fresh_database: Callable[[], str], tmp_path: Path
) -> Iterator[RealOutbox]:
    """An empty outbox of each kind."""
    made: RealOutbox
    if request.param == "sqlite":
        made = SqliteOutbox(SqliteOutbox.address(tmp_path), kafka, topic_prefix)
    elif request.param == "mariadb":
        made = MariaOutbox(request.getfixturevalue("mariadb"), kafka, topic_prefix)
    else:
        kind = PolledOutbox if request.param == "polled" else RealOutbox
        made = kind(fresh_database(), kafka, topic_prefix)
    yield made
    made.close()


def numbered(first: int, count: int, key: str = "order") -> list[tuple[str, bytes | None]]:
    return [(f"{key}-{n % 7}", b"%d" % n) for n in range(first, first + count)]


def payloads(first: int, count: int) -> list[bytes | None]:
    return [payload for _, payload in numbered(first, count)]


def test_committed_rows_arrive_and_rolled_back_ones_do_not(any_outbox: RealOutbox) -> None:
    """Every row of a multi-row insert goes once, in order for each key; an aborted transaction's go never."""
    with any_outbox.streaming():
        any_outbox.write(numbered(0, 50))
        any_outbox.abort([("order-0", b"999")])
        any_outbox.write(numbered(50, 50))
        any_outbox.arrived(payloads(0, 100))

    assert len(any_outbox.seen) == 100
    any_outbox.in_order()


def test_a_record_has_what_its_row_has(any_outbox: RealOutbox) -> None:
    """Key, binary value, partition and headers, NULL payload and NULL headers apart from empty ones."""
    with any_outbox.streaming():
        any_outbox.write([("ключ", b"\x00\xff")], partition=2)
        any_outbox.write([("ключ", None)], partition=2)
        wait_until("two records", lambda: len(any_outbox.payloads()) == 2)

    first, second = any_outbox.records()
    identity, ce_id = (dict(first["headers"])[name] for name in ("id", "ce_id"))
    assert len({identity, ce_id, dict(second["headers"])["id"]}) == 3
    assert (first["partition"], first["key"], first["value"]) == (2, "ключ".encode(), b"\x00\xff")
    assert first["headers"][:3] == [("id", identity), ("ce_specversion", b"1.0"), ("ce_id", ce_id)]
    assert first["headers"][-1] == ("tracestate", None)
    assert second["value"] is None


def test_a_row_without_company_waits_for_none(any_outbox: RealOutbox) -> None:
    """However long batches may fill under load, a row that comes after a rest goes out at once."""
    with any_outbox.streaming():
        pass
    with RelayService(any_outbox.settings(kafka={"linger.ms": 300_000}, limits=Limits(ack_wait=30))):
        any_outbox.write(numbered(0, 1))
        any_outbox.arrived(payloads(0, 1))


def test_a_stopped_relay_goes_on_where_it_stopped(any_outbox: RealOutbox) -> None:
    """Rows committed in between arrive; those before do not come again, since it confirmed them when it left."""
    with any_outbox.streaming():
        any_outbox.write(numbered(0, 20))
        any_outbox.arrived(payloads(0, 20))
    any_outbox.write(numbered(20, 20))
    with RelayService(any_outbox.settings()):
        any_outbox.arrived(payloads(20, 20))

    assert len(any_outbox.seen) == 40


@pytest.mark.slow
@pytest.mark.parametrize("any_outbox", ["log", "polled"], indirect=True)
def test_a_resync_that_takes_its_time_keeps_its_place(any_outbox: RealOutbox) -> None:
    """Before the first row of a big table is there the server may sort for long: the relay is not given up."""
    with any_outbox.streaming():
        pass
    any_outbox.write(numbered(0, 5))
    with psycopg.connect(any_outbox.dsn) as holder:
        holder.execute("LOCK TABLE outbox_default IN ACCESS EXCLUSIVE MODE")  # a query that takes its time
        with RelayService(any_outbox.settings(), resync=True):
            try:
                wait_until("the relay has its place", any_outbox.reader)
                before, until = any_outbox.reader(), time.monotonic() + 5.0
                wait_until("longer than a silent one is suffered", lambda: time.monotonic() > until)
                there = any_outbox.reader()
            finally:
                holder.rollback()
            assert there == before
            any_outbox.arrived(payloads(0, 5))
            assert any_outbox.reader() == before


def test_rows_older_than_the_first_relay_arrive(any_outbox: RealOutbox) -> None:
    """A service may work before anybody has started its relay: the table's rows are published first, in order."""
    any_outbox.write(numbered(0, 30))
    any_outbox.write(numbered(30, 30))
    with RelayService(any_outbox.settings()):
        any_outbox.arrived(payloads(0, 60))
        any_outbox.write(numbered(60, 10))
        any_outbox.arrived(payloads(60, 10))

    any_outbox.in_order()


def test_a_refused_row_is_a_dead_letter_and_others_go_on(any_outbox: RealOutbox) -> None:
    """A row for a partition that is not there, and one for no topic, do not hold up the rows around them."""
    service = RelayService(any_outbox.settings(kafka={"topic.metadata.propagation.max.ms": 300}))
    with service:
        any_outbox.write(numbered(0, 5))
        any_outbox.write([("order-0", b"lost?")], partition=99)
        any_outbox.write([("order-0", b"nowhere?")], topic=f"{any_outbox.prefix}nowhere")
        any_outbox.write(numbered(5, 5))
        any_outbox.arrived(payloads(0, 10))
        any_outbox.settle()

    # At least once: a relay that had to connect anew sends what it had not confirmed again.
    assert len({dict(message.headers() or ())["id"] for message in any_outbox.seen}) == 10


def test_without_its_dead_letter_topic_the_relay_stops_and_says_so(any_outbox: RealOutbox) -> None:
    """The row that can go nowhere is not confirmed, and the error names the topic to make."""
    service = RelayService(any_outbox.settings(service="other", kafka={"topic.metadata.propagation.max.ms": 300}))
    service.start()
    any_outbox.write([("order-0", b"1")], partition=99)
    wait_until("the relay stops", lambda: not service.alive)
    with pytest.raises(Undeliverable, match=rf"dead-letter topic '{any_outbox.prefix}other.dead'.*create that topic"):
        service.stop()


def test_a_second_relay_stands_by_and_takes_over(any_outbox: RealOutbox) -> None:
    """The server admits one reader; when it leaves the other goes on."""
    first, second = RelayService(any_outbox.settings()), RelayService(any_outbox.settings())
    first.start()
    wait_until("the first reads", lambda: first.state == "streaming")
    with second:
        wait_until("the second stands by", lambda: second.state == "standby")
        any_outbox.write(numbered(0, 5))
        any_outbox.arrived(payloads(0, 5))
        first.stop()
        any_outbox.write(numbered(5, 5))
        any_outbox.arrived(payloads(5, 5))

        assert second.state == "streaming"
    assert len(any_outbox.seen) == 10
