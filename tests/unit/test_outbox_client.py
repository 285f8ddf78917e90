"""Requests as outbox rows on SQLite: what the caller's transaction keeps or undoes. (PostgreSQL: integration.)"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.orm import Session

from kompensate.orchestrator import Application
from kompensate.outbox.client import AsyncOutboxClient, OutboxClient
from kompensate.outbox.tables import HEADER_COLUMNS, create_tables
from kompensate.outbox.writer import request_row
from kompensate.schemas.messages import Request, Trace
from kompensate.schemas.payloads import BadPayload
from kompensate.schemas.topics import partition_of


@dataclass
class Order:
    order_id: str


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path}/shop.db")
    with made.begin() as connection:
        create_tables(connection)
    yield made
    made.dispose()


SHOP = OutboxClient("shop", partitions=8, prefix="eu.")
COLUMNS = "aggregatetype, aggregateid, type, ce_sagatype, ce_subject, payload"


def rows(engine: Engine, columns: str = COLUMNS) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM outbox ORDER BY rowid"))]


def parsed(engine: Engine) -> list[Request]:
    """The rows as requests, read from the headers that a relay would make of them."""
    found = []
    for payload, *values in rows(engine, "payload, " + ", ".join(column for column, _ in HEADER_COLUMNS)):
        headers = [(header, v) for (_, header), v in zip(HEADER_COLUMNS, values, strict=True)]
        found.append(Request.parse(headers, payload))
    return found


def test_what_commits_is_asked(engine: Engine) -> None:
    """Each verb is a row on the saga's own partition, which reads as the very request that was returned."""
    with Session(engine) as session, session.begin():
        asked = [
            SHOP.start(
                session, "checkout", Order("1"), saga_id="o-1", attributes={"amount": 120, "customer": "Müller"}
            ),
            SHOP.signal(session, "o-2", "paid", {"by": "ann"}, signal_id="payment-7"),
            SHOP.cancel(session, "o-3", "too late"),
        ]

    assert rows(engine) == [
        ("eu.shop.requests", "o-1", "kompensate.start", "checkout", None, b'{"order_id":"1"}'),
        ("eu.shop.requests", "o-2", "kompensate.signal", None, "paid", b'{"by":"ann"}'),
        ("eu.shop.requests", "o-3", "kompensate.cancel", None, "too late", None),
    ]
    assert [p for (p,) in rows(engine, '"partition"')] == [partition_of(f"o-{n}", 8) for n in (1, 2, 3)]
    assert parsed(engine) == asked
    assert asked[0].time is not None
    assert asked[1].id == "payment-7"
    assert asked[0].attributes == '{"amount":120,"customer":"Müller"}'.encode()


def test_what_rolls_back_was_never_asked(engine: Engine) -> None:
    """The row goes with the transaction it was written in, also with a savepoint that is undone."""
    with Session(engine) as session:
        SHOP.start(session, "checkout", Order("1"), saga_id="o-1")
        session.rollback()
    with engine.begin() as connection:
        savepoint = connection.begin_nested()
        SHOP.start(connection, "checkout", Order("2"), saga_id="o-2")
        savepoint.rollback()
        SHOP.start(connection, "checkout", Order("3"), saga_id="o-3")

    assert [row[1] for row in rows(engine)] == ["o-3"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda c: SHOP.start(c, "checkout", saga_id="o/1"),
        lambda c: SHOP.start(c, "check out", saga_id="o-1"),
        lambda c: SHOP.start(c, "checkout", object(), saga_id="o-1"),
        lambda c: SHOP.start(c, "checkout", saga_id="o-1", attributes={"order-id": 1}),
        lambda c: SHOP.signal(c, "o-1", ""),
        lambda c: SHOP.cancel(c, "__wm"),
    ],
)
def test_bad_arguments_write_nothing(engine: Engine, ask: Callable[[Connection], Request]) -> None:
    """What a worker would refuse is refused here, before there is a row."""
    with engine.begin() as connection, pytest.raises((ValueError, BadPayload), match="expected"):
        ask(connection)

    assert rows(engine) == []


def test_the_application_gives_its_own_partitions() -> None:
    """From an Application the count is known; from a name it has to be said, and two that differ are refused."""
    app = Application("shop", [], partitions=12)

    assert OutboxClient(app)._partitions == 12
    with pytest.raises(ValueError, match="expected its own 12 partitions, got partitions=4"):
        OutboxClient(app, partitions=4)
    for count in (None, 0):
        with pytest.raises(ValueError, match="expected how many partitions its topics have"):
            OutboxClient("shop", partitions=count)


def test_a_header_without_a_column_is_refused() -> None:
    """A request that the outbox cannot carry whole does not go into it in part."""

    class Newer(Request):
        def headers(self) -> list[tuple[str, bytes | None]]:
            return [("ce_newer", b"1")]

    with pytest.raises(ValueError, match=r"expected headers ce_specversion, .* got ce_newer"):
        request_row(Newer("r", "kompensate.start", "o-1", "t", trace=Trace()), "shop.requests", 0)


class Recorder:
    """An asyncio driver's connection that only remembers."""

    def __init__(self) -> None:
        self.ran: list[Any] = []

    async def execute(self, query: Any, params: Any) -> None:
        self.ran.append((query, params))


def test_asyncio_connections_are_awaited(engine: Engine) -> None:
    """A driver's own execute() is awaited, and SQLAlchemy's asyncio objects lend their synchronous half."""

    class AsyncSession:
        async def run_sync(self, function: Callable[[Session], None]) -> None:
            with Session(engine) as session, session.begin():
                function(session)

    shop, driver = AsyncOutboxClient("shop", partitions=8), Recorder()
    asyncio.run(shop.start(driver, "checkout", Order("1"), saga_id="o-1"))
    asyncio.run(shop.signal(AsyncSession(), "o-2", "paid"))
    asyncio.run(shop.cancel(AsyncSession(), "o-3"))

    [(query, (rows_json,))] = driver.ran
    assert query.startswith("INSERT INTO outbox")
    assert '"aggregateid":"o-1"' in rows_json
    assert [row[1] for row in rows(engine)] == ["o-2", "o-3"]


def test_the_wrong_kind_of_connection_is_told(engine: Engine) -> None:
    """An asyncio connection that nobody awaits would write nothing, silently: it is refused, and the reverse."""
    anything: Any = Recorder()
    with pytest.raises(TypeError, match="got Recorder: use AsyncOutboxClient"):
        SHOP.start(anything, "checkout", saga_id="o-1")
    engine_itself: Any = engine
    with pytest.raises(TypeError, match="got Engine"):
        SHOP.start(engine_itself, "checkout", saga_id="o-1")
    with engine.connect() as connection:
        sync: Any = connection
        asking = AsyncOutboxClient("shop", partitions=8).start(sync, "checkout", saga_id="o-1")
        with pytest.raises(TypeError, match="got Connection: use OutboxClient"):
            asyncio.run(asking)
