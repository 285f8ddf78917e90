"""Sagas started by a commit: the caller's database, a relay, Kafka and the application's sagas, all of them real."""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from kompensate.orchestrator.client import Client
from kompensate.outbox.client import AsyncOutboxClient, OutboxClient
from kompensate.outbox.tables import MissingTables, check_tables, create_tables
from kompensate.schemas.messages import Request
from tests.fixtures.outboxes import RealOutbox
from tests.fixtures.stage import Order, Stage
from tests.fixtures.waiting import wait_until


@pytest.fixture
def stage(kafka: str, topic_prefix: str) -> Iterator[Stage]:
    made = Stage(kafka, topic_prefix)
    yield made
    made.close()


def requests(stage: Stage) -> list[Request]:
    records = stage.reader.scan(stage.topics.requests, {0: 0, 1: 0})
    return [Request.parse(record.headers, record.value) for record in records]


def test_a_saga_starts_when_its_callers_transaction_commits(stage: Stage, outbox: RealOutbox) -> None:
    """Invisible before the commit, gone with a rollback; committed it is relayed, placed, and run to its end."""
    shop = OutboxClient(stage.application, prefix=stage.prefix)
    outbox.sql("CREATE TABLE orders (id text PRIMARY KEY)")
    engine = create_engine(outbox.dsn.replace("postgresql://", "postgresql+psycopg://"))

    with outbox.streaming(), Client(stage.bootstrap, "shop", prefix=stage.prefix) as client:
        with Session(engine) as session:
            session.connection().exec_driver_sql("INSERT INTO orders VALUES ('o-1')")
            shop.start(session, "checkout", Order("1"), saga_id="o-1")
            with psycopg.connect(outbox.dsn) as other:
                shop.start(other, "checkout", Order("2"), saga_id="o-2")
                other.rollback()
                shop.start(other, "approval", Order("3"), saga_id="o-3")
                shop.signal(other.cursor(), "o-3", "approved", "ann", signal_id="s-1")
                shop.signal(other, "o-3", "approved", "ann again", signal_id="s-1")
                other.commit()
            wait_until("the other transaction's requests", lambda: len(requests(stage)) == 3)
            assert {r.saga_id for r in requests(stage)} == {"o-3"}, "o-1 is not committed, o-2 was rolled back"
            session.commit()
        wait_until("the commit's request", lambda: len(requests(stage)) == 4)
        stage.play()

        assert client.result("o-1", timeout=10).status == "completed"
        assert client.result("o-3", timeout=10).status == "completed"
        assert client.lookup.find("o-2") is None
    assert outbox.sql("SELECT id FROM orders") == [("o-1",)]
    engine.dispose()


def test_an_asyncio_connection_starts_sagas_too(stage: Stage, outbox: RealOutbox) -> None:
    """The same on psycopg's AsyncConnection."""
    shop = AsyncOutboxClient("shop", partitions=2, prefix=stage.prefix)

    async def work() -> None:
        async with await psycopg.AsyncConnection.connect(outbox.dsn) as connection:
            await shop.start(connection, "checkout", Order("1"), saga_id="o-1")
            await connection.rollback()
            await shop.start(
                connection, "checkout", Order("2"), saga_id="o-2", attributes={"customer": "Müller", "n": 2}
            )

    with outbox.streaming():
        asyncio.run(work())
        wait_until("the commit's request", lambda: requests(stage))

    assert [(r.saga_id, r.attributes) for r in requests(stage)] == [("o-2", '{"customer":"Müller","n":2}'.encode())]


def test_a_wrong_count_of_partitions_is_visible(stage: Stage, outbox: RealOutbox) -> None:
    """A request that was placed by another count lies in the quarantine, which names the right one; none is lost."""
    shop = OutboxClient("shop", partitions=1, prefix=stage.prefix)
    ids = [f"o-{n}" for n in range(8)]
    with outbox.streaming(), psycopg.connect(outbox.dsn) as connection:
        for saga_id in ids:
            shop.start(connection, "checkout", Order("1"), saga_id=saga_id)
        connection.commit()
        wait_until("the requests", lambda: len(requests(stage)) == len(ids))
    stage.play()

    reasons = {
        r.key: dict(r.headers or ())["q_reason"] for r in stage.reader.scan(stage.topics.quarantine, {0: 0, 1: 0})
    }
    started = {key for p in (0, 1) for key in stage.state(p) if not key.startswith(b"__")}
    assert reasons
    assert started | reasons.keys() == {saga_id.encode() for saga_id in ids}
    assert all(b"lives on partition 1 of 2" in (reason or b"") for reason in reasons.values())


@pytest.mark.parametrize("column", ["ce_time", "ce_sagaattributes"])
def test_an_old_table_gets_the_column_it_lacks(outbox: RealOutbox, column: str) -> None:
    """`schema.sql` may be run again on a table made before that column; rows of the old kind stay."""
    outbox.write([("k", b"1")])
    outbox.sql(f"ALTER TABLE outbox DROP COLUMN {column}")
    again = create_engine(outbox.dsn.replace("postgresql://", "postgresql+psycopg://"))

    with again.connect() as connection, pytest.raises(MissingTables, match=f"got none named {column}: run it again"):
        check_tables(connection)
    with again.begin() as connection:
        create_tables(connection)
        check_tables(connection)
    again.dispose()
    with outbox.streaming():
        outbox.arrived([b"1"])
