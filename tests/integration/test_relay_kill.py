"""The relay as a process that is killed, paused and flooded; and servers that go away under it."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from kompensate.compose.local.stack import Stack
from kompensate.outbox.errors import Gap
from kompensate.outbox.main import RelayService
from kompensate.outbox.relay import Limits
from tests.fixtures.outboxes import RealOutbox, peak_bytes, write_numbers
from tests.fixtures.waiting import wait_until

POINTS = ("relay.after_read", "relay.before_ack", "relay.after_ack", "relay.after_confirm")
RSS_MAX = 200 * 1024 * 1024
ROWS = 100_000


@pytest.mark.parametrize("point", POINTS)
def test_a_relay_killed_at_any_point_loses_nothing(outbox: RealOutbox, point: str) -> None:
    """With kill -9 at a fault point, twice, every committed row arrives, and each key's rows in order."""
    written: list[bytes | None] = []
    for life, count in enumerate(("1", "2")):
        with outbox.relay(fault=f"{point}:kill:{count}") as process:
            wait_until("the slot is read", lambda: outbox.reader() or process.poll() is not None)
            while process.poll() is None:
                written += write_numbers(outbox, len(written), 20)
                assert len(written) < 100_000, f"{point} was never passed in life {life}"
            assert process.returncode == -signal.SIGKILL
    with outbox.relay() as process:
        written += write_numbers(outbox, len(written), 20)
        outbox.arrived(written)
        process.terminate()
        assert process.wait(20) == 0

    outbox.in_order()


def test_a_standby_takes_over_from_a_killed_relay(outbox: RealOutbox, tmp_path: Path) -> None:
    """The second of two relay processes goes on after the first one's kill -9."""
    log = tmp_path / "second.log"
    with outbox.relay() as first:
        wait_until("the first reads", outbox.reader)
        with outbox.relay(log=log) as second:
            wait_until("the second stands by", lambda: "standing by" in log.read_text())
            written = write_numbers(outbox, 0, 50)
            first.kill()
            written += write_numbers(outbox, 50, 50)
            outbox.arrived(written)
            assert second.poll() is None

    outbox.in_order()


def test_one_database_that_halts_does_not_stop_the_others(
    outbox: RealOutbox, fresh_database: Callable[[], str], tmp_path: Path
) -> None:
    """Of a process's relays one is set up wrongly: it says so, the other carries on, and the exit status tells."""
    log = tmp_path / "relay.log"
    with outbox.relay("--dsn", f"empty={fresh_database()}", log=log) as process:
        wait_until("the error", lambda: "expected a table outbox, got none" in log.read_text())
        outbox.arrived(write_numbers(outbox, 0, 20))
        process.terminate()

        assert process.wait(20) == 1


@pytest.mark.slow
def test_a_huge_transaction_streams_through(outbox: RealOutbox, tmp_path: Path) -> None:
    """100,000 rows of one transaction, 120 MB, pass through a relay that stays below 200 MB."""
    log = tmp_path / "relay.log"
    with outbox.relay(log=log) as process:
        wait_until("the slot is read", lambda: "reads slot" in log.read_text())
        outbox.write_one_transaction(ROWS, 1_200)
        end = outbox.log_end()
        wait_until("all of it confirmed", lambda: outbox.confirmed() >= end, 180)

        assert peak_bytes(process.pid) < RSS_MAX
    assert outbox.count() == ROWS


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Servers that may be stopped and set up otherwise, with a database `shop`."""
    stack = Stack(tmp_path_factory.mktemp("own"))
    try:
        stack.up()
        with psycopg.connect(stack.postgres_dsn(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE shop")
        yield stack
    finally:
        stack.reset()


@pytest.fixture
def shop(own: Stack, request: pytest.FixtureRequest) -> Iterator[RealOutbox]:
    made = RealOutbox(own.postgres_dsn("shop"), own.bootstrap, f"{request.node.name}.")
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.stack
def test_kafka_and_then_postgresql_may_go_away(own: Stack, shop: RealOutbox) -> None:
    """With Kafka away past PostgreSQL's patience the slot is kept; PostgreSQL restarted is found again."""
    settings = shop.settings(
        dsn=f"{shop.dsn}?options=-c%20wal_sender_timeout%3D2s",
        limits=Limits(confirm=0.1, heartbeat=0.5),
        kafka={"queue.buffering.max.messages": 100},
    )
    with RelayService(settings) as service:
        written = write_numbers(shop, 0, 20)
        shop.arrived(written)
        reader = shop.reader()
        [kafka] = [row.pid for row in own.status() if row.name == "kafka"]
        assert kafka is not None
        _hold(kafka, lambda: write_numbers(shop, 20, 1_000, 100), seconds=5)
        written += [b"%d" % n for n in range(20, 1_020)]
        shop.arrived(written, 60)
        assert shop.reader() == reader

        own.down(("postgres",))
        wait_until("the relay notices", lambda: service.state == "connecting")
        own.up()
        written += write_numbers(shop, 1_020, 20)
        shop.arrived(written, 60)
        assert service.failure is None
    shop.in_order()


@pytest.mark.slow
@pytest.mark.stack
def test_a_slot_that_the_server_gave_up_is_a_gap_that_a_resync_closes(shop: RealOutbox) -> None:
    """Past max_slot_wal_keep_size the server drops the slot's log: the relay says so, and a resync makes it new."""
    with shop.streaming():
        pass
    shop.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    shop.sql("SELECT pg_reload_conf()")
    written = write_numbers(shop, 0, 20)
    shop.sql("CREATE TABLE filler AS SELECT repeat('x', 100) AS x FROM generate_series(1, 300000)")

    def lost() -> bool:
        shop.sql("SELECT pg_switch_wal()")
        shop.sql("CHECKPOINT")
        return shop.sql("SELECT wal_status FROM pg_replication_slots WHERE slot_name = %s", shop.slot) == [("lost",)]

    wait_until("the slot is lost", lost, 30)

    with pytest.raises(Gap, match="got wal_status 'lost'"):
        RelayService(shop.settings()).run()
    with RelayService(shop.settings(), resync=True):
        shop.arrived(written)
        written += write_numbers(shop, 20, 20)
        shop.arrived(written)
    shop.in_order()


def _hold(pid: int, meanwhile: Callable[[], object], *, seconds: float) -> None:
    """Do something while a process is stopped, and let it be stopped for `seconds` at least."""
    until = time.monotonic() + seconds
    os.kill(pid, signal.SIGSTOP)
    try:
        meanwhile()
        wait_until("the pause", lambda: time.monotonic() > until, seconds + 5)
    finally:
        os.kill(pid, signal.SIGCONT)
