"""What outbox and inbox forget on a real PostgreSQL, and what they must not."""

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from kompensate.outbox import retention
from kompensate.outbox.main import RelayService
from kompensate.outbox.retention import Retention, drop
from kompensate.outbox.tables import DAYS_AHEAD, create_tables, ensure_partitions
from kompensate.participants.database import connect
from kompensate.participants.main import Service
from kompensate.participants.settings import Settings
from tests.fixtures.outboxes import RealOutbox
from tests.fixtures.participants import stock
from tests.fixtures.waiting import wait_until

TODAY = datetime.now(UTC).date()
OLD = TODAY - timedelta(days=10)
OLD_TABLES = [f"outbox_{OLD + timedelta(days=n):%Y%m%d}" for n in range(DAYS_AHEAD + 1)]
OLD_TABLE = OLD_TABLES[0]
INSERT = (
    "INSERT INTO outbox (id, aggregatetype, aggregateid, type, partition, created_at)"
    " VALUES (gen_random_uuid(), 't', 'k', 'x', 0, :at)"
)


class Killed(Exception):
    """The end of a process at some point."""


@pytest.fixture
def engine(postgres: str) -> Iterator[Engine]:
    """A database with the tables, and one row of ten days ago in its day's partition."""
    made = connect(postgres, "stock")
    with made.begin() as connection:
        create_tables(connection)
        ensure_partitions(connection, OLD)
        connection.execute(text(INSERT), {"at": datetime(OLD.year, OLD.month, OLD.day, 12, tzinfo=UTC)})
    yield made
    made.dispose()


@pytest.fixture
def slot(engine: Engine) -> Iterator[str]:
    """A logical slot that has confirmed nothing of the row."""
    name = f"s{secrets.token_hex(4)}"
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_create_logical_replication_slot(:s, 'pgoutput')"), {"s": name})
        connection.execute(text("SELECT pg_logical_emit_message(true, 'later', 'x')"))
    yield name
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_drop_replication_slot(:s)"), {"s": name})


def droppable(engine: Engine, kept: Retention) -> list[str]:
    with engine.begin() as connection:
        return kept.droppable(connection)


def write_old(outbox: RealOutbox) -> None:
    """A reply of ten days ago."""
    outbox.sql(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, partition, created_at)"
        " VALUES (gen_random_uuid(), %s, 'k', 'x', 'old', 0, %s)",
        outbox.replies,
        f"{OLD} 12:00:00+00",
    )


def advance(engine: Engine, slot: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_logical_emit_message(true, 'later', 'x')"))
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_replication_slot_advance(:s, pg_current_wal_lsn())"), {"s": slot})


def test_a_day_goes_when_every_reader_has_passed_it(engine: Engine, slot: str) -> None:
    """Not while the slot stands before its rows, nor on the strength of what was confirmed before it was noted."""
    kept = Retention(7, 30)

    assert droppable(engine, kept) == []
    assert droppable(engine, kept) == []
    advance(engine, slot)
    assert droppable(engine, kept) == OLD_TABLES
    with engine.begin() as connection:
        drop(connection, OLD_TABLE)
    assert droppable(engine, kept) == OLD_TABLES[1:]
    with engine.begin() as connection:
        days = connection.execute(text("SELECT count(*) FROM pg_inherits WHERE inhparent = 'outbox'::regclass"))
        assert days.scalar_one() >= 4  # the default, today and the days to come


def test_a_day_stays_while_one_of_two_readers_lags(engine: Engine, slot: str) -> None:
    """The relay may have passed it, Debezium beside it has not."""
    kept = Retention(7, 30)
    other = f"{slot}_other"
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_create_logical_replication_slot(:s, 'pgoutput')"), {"s": other})
        connection.execute(text("SELECT pg_logical_emit_message(true, 'later', 'x')"))
    droppable(engine, kept)
    advance(engine, slot)

    assert droppable(engine, kept) == []
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_drop_replication_slot(:s)"), {"s": other})
    assert droppable(engine, kept) == OLD_TABLES


def test_a_day_goes_when_the_relay_that_polls_has_passed_it(engine: Engine) -> None:
    """Its position is a transaction number; a slot beside it has to have passed as well, and so does a second look."""
    kept = Retention(7, 30)

    def polled(below: str) -> None:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS outbox_polled (reader text PRIMARY KEY, below xid8)"))
            connection.execute(
                text(
                    f"INSERT INTO outbox_polled SELECT 'relay', {below} ON CONFLICT (reader)"
                    " DO UPDATE SET below = EXCLUDED.below"
                )
            )

    polled("(SELECT min(xid) FROM outbox)")
    assert droppable(engine, kept) == []

    def passed() -> bool:
        polled("pg_snapshot_xmin(pg_current_snapshot())")
        return droppable(engine, kept) == OLD_TABLES

    wait_until("the transactions that ran when it was noted have ended", passed)
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_create_logical_replication_slot('lagging_beside', 'pgoutput')"))
        connection.execute(text("SELECT pg_logical_emit_message(true, 'later', 'x')"))
    try:
        assert droppable(engine, Retention(7, 30)) == []
    finally:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_drop_replication_slot('lagging_beside')"))


def test_without_a_reader_nothing_goes(engine: Engine) -> None:
    """No slot, no proof: the rows stay however old they are."""
    kept = Retention(7, 30)

    assert [droppable(engine, kept) for _ in range(3)] == [[]] * 3


def test_a_younger_day_stays(engine: Engine, slot: str) -> None:
    """A day is kept for as long as was asked (and one more, lest midnight comes between)."""
    kept = Retention(12, 30)
    droppable(engine, kept)
    advance(engine, slot)

    assert droppable(engine, kept) == []


def test_a_day_in_use_is_tried_another_time(engine: Engine, slot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers are not held up behind a reader of the old day's table."""
    monkeypatch.setattr(retention, "LOCK_WAIT_SECONDS", 1)
    with engine.begin() as reader:
        reader.execute(text(f"SELECT * FROM {OLD_TABLE}"))
        with pytest.raises(Exception, match="lock timeout"), engine.begin() as connection:
            drop(connection, OLD_TABLE)
    with engine.begin() as connection:
        drop(connection, OLD_TABLE)


def test_the_inbox_forgets_what_is_old(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A portion at a time, and no row that is younger."""
    monkeypatch.setattr(retention, "INBOX_ROWS_MAX", 4)
    kept = Retention(7, 30)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO inbox (consumer, command_id, state, received_at) "
                "SELECT 'stock', n::text, 'answered', now() - (20 + n) * interval '1 day' FROM generate_series(1, 16) n"
            )
        )
    rounds = []
    for _ in range(3):
        with engine.begin() as connection:
            rounds.append(kept.forget_inbox(connection))

    with engine.begin() as connection:
        left = connection.execute(text("SELECT command_id::int FROM inbox ORDER BY 1")).scalars().all()
    assert rounds == [True, False, False]
    assert left == list(range(1, 10))


@pytest.mark.parametrize("days", [(0, 30), (7, 0)])
def test_less_than_a_day_is_refused(days: tuple[int, int]) -> None:
    """It names which, expected and got."""
    with pytest.raises(ValueError, match="expected at least 1 day, got 0"):
        Retention(*days)


def test_a_participant_drops_what_its_relay_has_sent(outbox: RealOutbox) -> None:
    """With both at work the old day is gone, its row is in Kafka, and new rows go on arriving."""
    engine = connect(outbox.dsn, "stock")
    with engine.begin() as connection:
        ensure_partitions(connection, OLD)
    service = Service(
        stock, engine, outbox.bootstrap, prefix=outbox.prefix, settings=replace(Settings(), chore_seconds=0.2)
    )
    outbox.make_topics(f"{outbox.prefix}stock.commands", f"{outbox.prefix}stock.dead")
    with outbox.streaming(), service:
        write_old(outbox)
        wait_until("the old day is gone", lambda: outbox.sql("SELECT to_regclass(%s)", OLD_TABLE) == [(None,)])
        outbox.write([("k", b"new")], partition=0)
        outbox.arrived([b"old", b"new"])
    engine.dispose()


@pytest.mark.parametrize("where", ["_carry", "_publish"])
def test_what_a_relay_has_yet_to_publish_stays(outbox: RealOutbox, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Its slot is made first and stands behind rows of before it: those go when they were published from the table."""

    def die(*_: object) -> bool:
        raise Killed

    engine = connect(outbox.dsn, "stock")
    kept = Retention(7, 30)
    with engine.begin() as connection:
        ensure_partitions(connection, OLD)
    write_old(outbox)
    assert droppable(engine, kept) == []
    with monkeypatch.context() as patch:
        patch.setattr(RelayService, where, die)
        with pytest.raises(Killed):
            RelayService(outbox.settings()).run()
    assert outbox.sql("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == [(1,)]
    assert droppable(engine, kept) == []

    with outbox.streaming():
        outbox.arrived([b"old"])
        wait_until("the old days are passed", lambda: droppable(engine, kept) == OLD_TABLES)
    engine.dispose()
