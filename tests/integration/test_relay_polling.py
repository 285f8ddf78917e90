"""The polling relay: rows that commit late, positions that are of another server, and the same records."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from kompensate.outbox import polled
from kompensate.outbox.errors import Gap, Halted, Misconfigured
from kompensate.outbox.main import RelayService
from tests.fixtures.outbox_rows import write_strange
from tests.fixtures.outboxes import RealOutbox, write_numbers
from tests.fixtures.polled_outboxes import MariaOutbox, PolledOutbox, SqliteOutbox
from tests.fixtures.waiting import wait_until

POINTS = ("relay.after_read", "relay.before_ack", "relay.after_ack", "relay.after_confirm")


@pytest.fixture
def outbox(postgres: str, kafka: str, topic_prefix: str) -> Iterator[PolledOutbox]:
    """An empty outbox in PostgreSQL that is polled."""
    made = PolledOutbox(postgres, kafka, topic_prefix)
    yield made
    made.close()


@pytest.fixture
def lite(kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[SqliteOutbox]:
    """An empty outbox in SQLite."""
    made = SqliteOutbox(SqliteOutbox.address(tmp_path), kafka, f"{topic_prefix}lite.")
    yield made
    made.close()


@pytest.fixture
def maria(mariadb: str, kafka: str, topic_prefix: str) -> Iterator[MariaOutbox]:
    """An empty outbox in MariaDB."""
    made = MariaOutbox(mariadb, kafka, f"{topic_prefix}maria.")
    yield made
    made.close()


def overlapping(outbox: PolledOutbox) -> None:
    """A transaction that writes first and commits last, another one in between, and time for a look at the table."""
    insert = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, partition)"
    insert += " VALUES (gen_random_uuid(), %s, 'order-1', 'x', %s, 0)"
    with psycopg.connect(outbox.dsn) as early, psycopg.connect(outbox.dsn) as late:
        early.execute(insert, [outbox.replies, b"1"])
        late.execute(insert, [outbox.replies, b"2"])
        late.commit()
        looked = time.monotonic() + 1.0
        wait_until("a look at the table", lambda: time.monotonic() > looked)
        early.commit()


def test_a_row_that_commits_late_is_not_passed_over(outbox: PolledOutbox) -> None:
    """What began after a transaction that still runs waits for it, and nothing is left out."""
    with outbox.streaming():
        overlapping(outbox)
        outbox.arrived([b"1", b"2"])

    assert outbox.payloads() == [b"1", b"2"]


def test_without_the_bound_it_is_passed_over(outbox: PolledOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is what holds: reading up to the newest transaction loses the row that commits late."""
    monkeypatch.setattr(polled, "BOUND", "pg_snapshot_xmax(pg_current_snapshot())")
    with outbox.streaming():
        overlapping(outbox)
        outbox.write([("order-1", b"3")], partition=0)
        outbox.arrived([b"2", b"3"])

    assert b"1" not in outbox.payloads()


def test_what_is_written_while_it_starts_comes_once(outbox: PolledOutbox, fresh_database: Callable[[], str]) -> None:
    """A first look takes the whole table; what a transaction that still runs holds up is not in it, and comes later."""
    outbox.write([("order-1", b"1")], partition=0)
    with psycopg.connect(fresh_database()) as elsewhere:
        elsewhere.execute("SELECT pg_current_xact_id()")  # of the same server
        outbox.write([("order-1", b"2")], partition=0)
        with outbox.streaming():
            outbox.arrived([b"1"])
            elsewhere.rollback()
            outbox.write([("order-1", b"3")], partition=0)
            outbox.arrived([b"3"])

    assert outbox.payloads() == [b"1", b"2", b"3"]


def test_polling_makes_the_same_records_as_the_log(outbox: PolledOutbox) -> None:
    """Of the same rows the same records, byte for byte, in the same order in every partition."""
    write_strange(outbox)
    with outbox.streaming():
        wait_until("the polled records", lambda: len(outbox.payloads()) == 11)
    with RelayService(outbox.settings(polling=False)):
        wait_until("the log's records", lambda: len(outbox.payloads()) == 22)

    records = outbox.records()
    for partition in range(3):
        ours, theirs = ([r for r in half if r["partition"] == partition] for half in (records[:11], records[11:]))
        assert ours == theirs


@pytest.mark.parametrize("kind", ["lite", "maria"])
def test_another_database_makes_the_same_records(
    outbox: PolledOutbox, request: pytest.FixtureRequest, kind: str
) -> None:
    """The same rows in SQLite or MariaDB become the same records as in PostgreSQL."""
    other: RealOutbox = request.getfixturevalue(kind)
    write_strange(outbox)
    with outbox.streaming():
        wait_until("the records", lambda: len(outbox.payloads()) == 11)
    names = [name for (name,) in outbox.sql(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'outbox'::regclass AND attnum > 0 AND attname NOT IN"
        " ('xid', 'created_at')"
    )]  # fmt: skip
    columns = ", ".join(f'"{name}"' for name in names)
    as_text = columns.replace('"id"', "id::text")
    rows = outbox.sql(f"SELECT {as_text} FROM outbox ORDER BY xid, ctid")
    sql = f"INSERT INTO outbox ({columns}) VALUES ({', '.join('?' * len(names))})"
    for row in rows:
        other.sql(sql if kind == "lite" else sql.replace('"', "`").replace("?", "%s"), *row)
    with RelayService(other.settings()):
        wait_until("the other's records", lambda: len(outbox.payloads()) == 22)

    records = outbox.records()
    for partition in range(3):
        first, second = ([r for r in half if r["partition"] == partition] for half in (records[:11], records[11:]))
        assert first == second


@pytest.mark.slow
@pytest.mark.stack  # which its fixtures do not show: it asks for them by name
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("kind", ["outbox", "lite", "maria"])
def test_a_polling_relay_killed_at_any_point_loses_nothing(
    request: pytest.FixtureRequest, kind: str, point: str
) -> None:
    """With kill -9 at a fault point, every committed row arrives, and each key's rows in order."""
    found: RealOutbox = request.getfixturevalue(kind)
    written: list[bytes | None] = []
    with found.relay(fault=f"{point}:kill:2") as process:
        while process.poll() is None:
            written += write_numbers(found, len(written), 20)
            assert len(written) < 100_000, f"{point} was never passed"
        assert process.returncode == -signal.SIGKILL
    with found.relay() as process:
        written += write_numbers(found, len(written), 20)
        found.arrived(written)
        found.settle()
        process.terminate()
        assert process.wait(20) == 0
    found.in_order()


def test_one_transaction_with_more_rows_than_are_read_at_once(outbox: PolledOutbox) -> None:
    """It streams, and so do many small ones that waited together."""
    with outbox.streaming():
        write_numbers(outbox, 0, 2 * polled.ROWS_MAX + 10, each=2 * polled.ROWS_MAX + 10)
        outbox.settle()
    written = write_numbers(outbox, 2 * polled.ROWS_MAX + 10, 2 * polled.ROWS_MAX, each=100)
    with RelayService(outbox.settings()):
        outbox.arrived(written, 60)
        outbox.settle()
    assert len(outbox.payloads()) == 4 * polled.ROWS_MAX + 10
    outbox.in_order()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["outbox", "maria"])
def test_a_standby_takes_over_from_a_paused_polling_relay(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> None:
    """The server ends a session that says nothing, and with it the lock."""
    outbox: RealOutbox = request.getfixturevalue(kind)
    log = tmp_path / "first.log"
    with outbox.relay(log=log) as first:
        wait_until("the first polls", lambda: "polls its table" in log.read_text(), 60)
        with RelayService(outbox.settings()) as second:
            wait_until("the second stands by", lambda: second.state == "standby")
            written = write_numbers(outbox, 0, 500)
            began = time.monotonic()
            first.send_signal(signal.SIGSTOP)
            wait_until("the second polls", lambda: second.state == "streaming", 30)
            assert time.monotonic() - began < 5.0
            written += write_numbers(outbox, 500, 20)
            outbox.arrived(written)
            first.send_signal(signal.SIGCONT)
            wait_until("the first stands by", lambda: "standing by" in log.read_text())
    outbox.in_order()


@pytest.mark.parametrize("tamper", ["system_id = '1'", "below = '9000000000'"])
def test_a_position_of_another_server_is_a_gap(outbox: PolledOutbox, tamper: str) -> None:
    """A restored or moved database counts its transactions anew: a resync publishes what is there."""
    with outbox.streaming():
        outbox.write([("order-1", b"1")])
        outbox.settle()
    outbox.sql(f"UPDATE outbox_polled SET {tamper}")
    outbox.write([("order-1", b"2")])

    with pytest.raises(Gap, match=r"the database was restored or moved\. Start the relay once with --resync"):
        RelayService(outbox.settings()).run()
    with RelayService(outbox.settings(), resync=True):
        outbox.arrived([b"1", b"2"])
        outbox.settle()
    with outbox.streaming():
        pass


def halted(outbox: RealOutbox, **changed: object) -> Halted:
    with pytest.raises(Halted) as caught:
        RelayService(outbox.settings(**changed)).run()
    return caught.value


def test_a_wrong_setup_is_named(outbox: PolledOutbox, lite: SqliteOutbox, tmp_path: Path) -> None:
    """Each mistake has its sentence; none is retried for ever."""
    assert "SQLite's file" in str(halted(lite, dsn=f"sqlite:///{tmp_path}/none.db"))
    with pytest.raises(ValueError, match=r"expected postgresql://, mysql://, mariadb:// or sqlite://, got oracle://"):
        RelayService(lite.settings(dsn="oracle://h/d", polling=True))
    assert "expected a URL" in str(halted(outbox, dsn="host=127.0.0.1 dbname=x"))
    lite.sql("ALTER TABLE outbox RENAME TO o")
    assert "no such table: outbox" in str(halted(lite))
    outbox.sql("ALTER TABLE outbox DROP COLUMN ce_subject")
    error = halted(outbox)
    assert isinstance(error, Misconfigured)
    assert "ce_subject" in str(error)


def test_a_number_that_sqlite_gives_again_is_read(lite: SqliteOutbox) -> None:
    """Once all rows are spent SQLite begins to count anew: the next row is not taken for one that was read."""
    with RelayService(lite.settings()):
        for number in range(5):
            lite.write([("order-1", b"%d" % number)])
            lite.settle()
    assert lite.payloads() == [b"0", b"1", b"2", b"3", b"4"]
