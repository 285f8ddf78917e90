"""Domain events as outbox rows, published and heard, on SQLite. (Servers: integration.)"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from kompensate.outbox.events import EventTopic
from kompensate.outbox.tables import create_tables
from kompensate.participants.database import connect
from kompensate.participants.orders import Later, Settled
from kompensate.participants.participant import BadHandler, Participant
from kompensate.participants.ports import Place, Record
from kompensate.participants.reading import read_event
from kompensate.schemas.payloads import BadPayload
from kompensate.schemas.topics import partition_of
from tests.fixtures import subscribers
from tests.fixtures.participants import World
from tests.fixtures.subscribers import TRACE, Happened, How, announced, command, event, listener, news


@dataclass
class OrderPlaced:
    order_id: str
    when: Any = None


ORDERS = EventTopic("eu.orders.events", service="orders", partitions=8)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = create_engine(f"sqlite:///{tmp_path}/shop.db")
    with made.begin() as connection:
        create_tables(connection)
    yield made
    made.dispose()


def rows(engine: Engine, columns: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT {columns} FROM outbox ORDER BY rowid"))]


# --- publishing


def test_what_commits_is_told(engine: Engine) -> None:
    """A row for the service's own topic, on its key's partition, with the type named like a reply's."""
    with Session(engine) as session, session.begin():
        told = ORDERS.publish(session, OrderPlaced("o-1"), key="o-1")

    columns = "aggregatetype, aggregateid, type, ce_source, ce_subject, ce_id, content_type, ce_specversion"
    assert rows(engine, columns) == [
        ("eu.orders.events", "o-1", "orders.OrderPlaced", "kompensate:orders", "o-1", told, "application/json", "1.0")
    ]
    [(id_, partition, payload, when, *cause)] = rows(
        engine, 'id, "partition", payload, ce_time, ce_correlationid, ce_causationid, ce_replyoutcome, traceparent'
    )
    assert (id_, partition) == (told, partition_of("o-1", 8))
    assert json.loads(payload) == {"order_id": "o-1", "when": None}
    assert datetime.fromisoformat(when).tzinfo is not None
    assert cause == [None] * 4


def test_what_rolls_back_was_never_told(engine: Engine) -> None:
    """With its transaction, and with a savepoint that is undone."""
    with Session(engine) as session:
        ORDERS.publish(session, OrderPlaced("o-1"), key="o-1")
        session.rollback()
    with engine.begin() as connection:
        savepoint = connection.begin_nested()
        ORDERS.publish(connection, OrderPlaced("o-2"), key="o-2")
        savepoint.rollback()
        ORDERS.publish(connection, OrderPlaced("o-3"), key="o-3")

    assert rows(engine, "aggregateid") == [("o-3",)]


@pytest.mark.parametrize(
    ("told", "key", "expected"),
    [
        (OrderPlaced("o-1", object()), "o-1", "payload OrderPlaced: expected .* got"),
        (OrderPlaced("x" * 1_000_000), "o-1", "expected at most 921600 bytes"),
        ({"order_id": "o-1"}, "o-1", "expected a dataclass, Struct or pydantic model, .* got dict"),
        (OrderPlaced("o-1"), "", "expected a key .* got ''"),
        (OrderPlaced("o-1"), None, "expected a key .* got None"),
        (OrderPlaced("o-1"), "a\0b", "without NUL"),
    ],
)
def test_what_cannot_be_told_writes_nothing(engine: Engine, told: Any, key: Any, expected: str) -> None:
    """It is refused before there is a row, and the text says what is expected."""
    with engine.begin() as connection, pytest.raises((ValueError, BadPayload), match=expected):
        ORDERS.publish(connection, told, key=key)

    assert rows(engine, "id") == []


def test_a_topic_is_declared_whole() -> None:
    """Without its count of partitions, or with a name that Kafka has not, there is no topic to publish to."""
    with pytest.raises(ValueError, match="expected how many partitions it has"):
        EventTopic("orders.events", service="orders", partitions=0)
    with pytest.raises(ValueError, match="event topic: expected"):
        EventTopic("orders/events", service="orders", partitions=1)


def test_asyncio_is_told_apart(engine: Engine) -> None:
    """An asyncio transaction has its own verb; each verb names the other for the wrong kind."""

    class AsyncSession:
        async def run_sync(self, function: Any) -> None:
            with Session(engine) as session, session.begin():
                function(session)

    asyncio.run(ORDERS.publish_async(AsyncSession(), OrderPlaced("o-1"), key="o-1"))
    assert rows(engine, "aggregateid") == [("o-1",)]
    wrong: Any = AsyncSession()
    with pytest.raises(TypeError, match="got AsyncSession"):
        ORDERS.publish(wrong, OrderPlaced("o-1"), key="o-1")
    with engine.connect() as connection:
        sync: Any = connection
        telling = ORDERS.publish_async(sync, OrderPlaced("o-1"), key="o-1")
        with pytest.raises(TypeError, match=r"use publish\Z"):
            asyncio.run(telling)


# --- from a handler


@pytest.fixture
def publishing(tmp_path: Path) -> World:
    return World(connect(f"sqlite:///{tmp_path}/news.db", "news"), news)


def published(world: World) -> list[tuple[Any, ...]]:
    columns = "ce_correlationid, ce_causationid, traceparent, tracestate, aggregateid, payload"
    return world.rows(f"SELECT {columns} FROM outbox WHERE aggregatetype = '{announced.name}' ORDER BY rowid")


def test_a_handler_publishes_with_its_answer(publishing: World) -> None:
    """Events name the saga and the command they came of; a duplicate of the command publishes nothing."""
    for _ in range(3):
        assert publishing.outcomes(command("c-1", 2), command("c-1", 2)) == ["done", "done"]

    cause = ("saga-1", "c-1", TRACE.parent, TRACE.state, "about-saga-1")
    told = published(publishing)
    assert [row[:5] for row in told] == [cause] * 2
    assert [json.loads(row[5])["number"] for row in told] == [0, 1]
    assert len(publishing.replies()) == 2 + 6


@pytest.mark.parametrize("how", ["refuse", "raise", "retry"])
def test_a_handler_that_does_not_return_has_published_nothing(publishing: World, how: How) -> None:
    """What it told goes with its other writes; its neighbours' events stay."""
    publishing.handle(command("c-1"), command("c-2", how=how), command("c-3", saga_id="saga-2"), last=False)
    publishing.handle(command("c-2", how=how))

    assert [row[1] for row in published(publishing)] == ["c-1", "c-3"]


# --- heard by another service


@pytest.fixture
def hearing(tmp_path: Path) -> World:
    return World(connect(f"sqlite:///{tmp_path}/listener.db", "listener"), listener)


def test_an_event_is_handled_once_and_not_answered(hearing: World) -> None:
    """However often it arrives, also twice in a group: one effect, an inbox row, nothing in the outbox."""
    hearing.handle(event("e-1"), event("e-1"), event("e-2"))
    hearing.handle(event("e-1"), event("e-2"))

    assert hearing.effects() == {("e-1", "heard"): 1, ("e-2", "heard"): 1}
    assert hearing.inbox() == {"e-1": ("answered", "done"), "e-2": ("answered", "done")}
    assert hearing.rows("SELECT id FROM outbox") == []


def test_an_event_is_retried_then_a_dead_letter(hearing: World) -> None:
    """Nobody is told that it failed; it stays unknown to the inbox, so that its dead letter can be tried again."""
    waits, heard = hearing.handle(event("e-1", "retry"), event("e-2", saga_id="saga-2"), last=False)
    assert isinstance(waits, Later)
    assert heard == Settled("done")
    hearing.handle(event("e-1", "raise"))

    assert hearing.effects() == {("e-2", "heard"): 1}
    assert [(id_, "ValueError" in reason) for id_, reason in hearing.dead] == [("e-1", True)]
    assert "e-1" not in hearing.inbox()
    hearing.handle(event("e-1"))
    assert hearing.effects()["e-1", "heard"] == 1
    assert hearing.rows("SELECT id FROM outbox") == []


def test_there_is_nobody_to_refuse(hearing: World) -> None:
    """An event has happened: a no to it is a dead letter at once."""
    hearing.handle(event("e-1", "refuse"), last=False)

    assert [id_ for id_, _ in hearing.dead] == ["e-1"]
    assert hearing.effects() == {}


def record(topic: str = "news.events", **headers: str) -> Record:
    return Record(Place(topic, 2), 7, b"k", b"{}", [(n, v.encode()) for n, v in headers.items()])


def test_events_are_chosen_by_topic_and_type() -> None:
    """Others of the topic are not ours; one without a type is nobody's, and is kept as a dead letter."""
    topics = {"news.Happened": "news.events"}
    found = read_event(record(ce_type="news.Happened", ce_id="e", ce_correlationid="s"), topics)
    assert found is not None
    assert found[0] is not None
    assert (found[0].id, found[0].saga_id, found[0].reply_to) == ("e", "s", "")

    assert read_event(record(ce_type="news.Other", ce_id="e"), topics) is None
    assert read_event(record("other.events", ce_type="news.Happened", ce_id="e"), topics) is None
    assert read_event(record(ce_id="e"), topics) == (None, "header ce_type: expected text, got nothing")
    named = [read_event(record(ce_type="news.Happened", **more), topics) for more in ({"id": "row"}, {"other": ""})]
    assert [one[0].id for one in named if one and one[0]] == ["row", "news.events/2@7"]


def test_an_event_has_one_handler_and_no_commands_of_its_name(tmp_path: Path) -> None:
    """A record of the event topic never runs a command's handler, nor the reverse."""
    shop = Participant("shop")

    @shop.on("shop.Happened", topic="shop.events")
    def one(happened: Happened) -> None: ...

    with pytest.raises(BadHandler, match=r"event shop\.Happened in shop: expected one handler, got .*one and .*two"):

        @shop.on("shop.Happened", topic="shop.events")
        def two(happened: Happened) -> None: ...

    world = World(connect(f"sqlite:///{tmp_path}/shop.db", "shop"), shop)
    assert world.outcomes(subscribers.command("c-1")) == ["failed"]
    assert shop.contracts == ()
