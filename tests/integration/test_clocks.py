"""Whose clock decides, on a real PostgreSQL: the database's, whatever a service's own says.

A command's expiry alone is judged by the service's (tests/unit/test_participant_unit.py).
"""

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo

import pytest
from sqlalchemy import Engine, text

from kompensate.outbox import retention, tables
from kompensate.outbox.retention import Retention
from kompensate.outbox.tables import OUTBOX, create_tables
from kompensate.participants import OutsideCall, Participant, Refused
from kompensate.participants.database import connect
from tests.fixtures.at_work import at_work
from tests.fixtures.outside import Charge, Charged, Stage, charge
from tests.fixtures.waiting import wait_until

WRONG_BY = timedelta(days=20)


class WrongClock(datetime):
    """A service's clock that is ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + WRONG_BY


@pytest.fixture
def engine(postgres: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A database, and this process's clock twenty days ahead of it."""
    truly = time.time
    for module in (tables, retention):
        monkeypatch.setattr(module, "datetime", WrongClock, raising=False)
    monkeypatch.setattr(time, "time", lambda: truly() + WRONG_BY.total_seconds())
    found = connect(postgres, "payments")
    yield found
    found.dispose()


def test_days_of_the_outbox_are_the_databases(engine: Engine) -> None:
    """Rows fall into partitions that were made for them, and no day of today is dropped as an old one."""
    with engine.begin() as connection:
        create_tables(connection)
        today: date = connection.execute(text("SELECT (now() AT TIME ZONE 'UTC')::date")).scalar_one()
        connection.execute(
            text(
                "INSERT INTO outbox (id, aggregatetype, aggregateid, type, partition)"
                " VALUES (gen_random_uuid(), 't', 'k', 'x', 0)"
            )
        )
        found = connection.execute(text("SELECT tableoid::regclass::text FROM outbox")).scalar_one()
        assert found in {f"{OUTBOX}_{day:%Y%m%d}" for day in (today, today + timedelta(days=1))}

    kept = Retention(outbox_days=7, inbox_days=30)
    with engine.begin() as connection:
        kept.droppable(connection)
    assert kept._noted == {}, "of no day of these it is asked whether readers have passed it"


def test_outside_calls_are_timed_by_the_database(engine: Engine) -> None:
    """When a key went out, how long a call may be, when a breaker opened: no process's own clock is in it."""
    stage = Stage(engine)
    service = Participant("payments")

    @service.external(timeout=5, tries=9, breaker_failures=1, breaker_seconds=30)
    def call(command: Charge, call: OutsideCall) -> Charged:
        if call.id == "refused":
            raise Refused("no")
        raise ConnectionResetError

    with at_work(service, engine) as (send, _):
        send(charge("refused", "saga-0"))
        wait_until("an answer", stage.replies)
        send(charge("down", "saga-1"))
        wait_until("the breaker opens", lambda: stage.rows("SELECT 1 FROM breaker WHERE state = 'open'"))

    times = (
        "SELECT called_at FROM idempotency UNION ALL SELECT opened_at FROM breaker UNION ALL SELECT lease FROM inbox"
    )
    [(now,)] = stage.rows("SELECT clock_timestamp()")
    found = [at for (at,) in stage.rows(times) if at is not None]
    assert len(found) >= 3
    assert all(abs(at - now.astimezone(UTC)) < timedelta(minutes=5) for at in found), found
