"""Domain events on real servers: told by a handler, carried by the relay, heard once by a service that is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from kompensate.orchestrator.cli.dlq import dlq
from kompensate.outbox.main import RelayService, RelaySettings
from kompensate.participants import Call, Participant, Refused
from kompensate.participants.database import connect
from kompensate.participants.kafka import CannotStart
from kompensate.participants.main import Service
from kompensate.participants.settings import Settings
from kompensate.schemas.faults import VARIABLE
from tests.fixtures.outboxes import QUICK
from tests.fixtures.participants import World
from tests.fixtures.subscribers import PREFIX, Announce, Happened, announced, command, listener, news
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

ROOT = Path(__file__).parents[2]
CLI = (sys.executable, "-Im", "kompensate.orchestrator.cli")
POINTS = ("after_claim", "after_handler", "before_db_commit", "after_db_commit")


class Newsroom:
    """Both services' databases and topics, under a prefix that this run alone has."""

    def __init__(self, bootstrap: str, prefix: str, dsns: tuple[str, str]) -> None:
        self.bootstrap, self.prefix, self.dsns = bootstrap, prefix, dsns
        self.worlds = [World(connect(dsn, one.name), one) for dsn, one in zip(dsns, (news, listener), strict=True)]
        self.commands = ServiceTopics(bootstrap, prefix, "news")
        self.environment = {**os.environ, PREFIX: prefix, "KOMPENSATE_PREFIX": prefix}

    def topics(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`kompensate topics …` with both services."""
        services = [f"--participant=tests.fixtures.subscribers:{name}" for name in ("news", "listener")]
        where = ["--app", "tests.fixtures.echo_app:app", "--app-dir", str(ROOT), "--bootstrap", self.bootstrap]
        return subprocess.run(
            [*CLI, "topics", *arguments, *where, *services],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def listen(self, fault: str = "") -> subprocess.Popen[bytes]:
        """The listener as users run it, in a process of its own."""
        target = ["participant", "tests.fixtures.subscribers:listener", "--app-dir", str(ROOT), "--group-max", "8"]
        options = ["-X", "session.timeout.ms=1500", "-X", "heartbeat.interval.ms=300"]
        return subprocess.Popen(
            [*CLI, *target, "--dsn", self.dsns[1], "--bootstrap", self.bootstrap, *options],
            env={**self.environment, VARIABLE: fault},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def heard(self) -> int:
        return sum(self.worlds[1].effects().values())


@pytest.fixture
def newsroom(kafka: str, topic_prefix: str, fresh_database: Callable[[], str]) -> Iterator[Newsroom]:
    found = Newsroom(kafka, topic_prefix, (fresh_database(), fresh_database()))
    yield found
    for world in found.worlds:
        world.engine.dispose()


@pytest.mark.slow
def test_each_event_is_heard_once(newsroom: Newsroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a listener killed at every point, with commands doubled: as many effects as events, all different."""
    done = newsroom.topics("apply")
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(announced, "name", f"{newsroom.prefix}news.events")
    dsn, bootstrap, prefix = newsroom.dsns[0], newsroom.bootstrap, newsroom.prefix
    told = 20 * (len(POINTS) + 1)
    with ExitStack() as running:
        running.enter_context(Service(news, dsn, bootstrap, prefix=prefix))
        running.enter_context(RelayService(RelaySettings(dsn, bootstrap, service="news", prefix=prefix, limits=QUICK)))
        for point in (*POINTS, ""):
            commands = [command(f"{point}-{n}", 2, saga_id=f"saga-{point}-{n}") for n in range(10)]
            newsroom.commands.send([*commands, *commands[:3]])
            process = newsroom.listen(f"participant.{point}:kill:1" if point else "")
            try:
                if not point:
                    wait_until(f"{told} events are heard", lambda: newsroom.heard() >= told, 60)
                    process.send_signal(signal.SIGTERM)
                _, errors = process.communicate(timeout=60)
            finally:
                process.kill()
            assert process.returncode == (-signal.SIGKILL if point else 0), errors.decode()

    published = newsroom.worlds[0].rows("SELECT ce_id, ce_correlationid FROM outbox WHERE type = 'news.Happened'")
    assert len(published) == told
    assert newsroom.worlds[1].effects() == {(id_, "heard"): 1 for id_, _ in published}
    assert newsroom.worlds[1].rows("SELECT id FROM outbox") == []


def test_topics_that_are_missing_or_differ_are_told(newsroom: Newsroom, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service does not start where its events would be lost; `topics check` says the same."""
    assert newsroom.topics("apply").returncode == 0
    assert newsroom.topics("check").returncode == 0
    service = Service(news, newsroom.dsns[0], newsroom.bootstrap, prefix=newsroom.prefix)
    with pytest.raises(
        CannotStart, match=r"topic news\.events with 8 partitions .* got none: make it with `kompensate topics"
    ):
        service.start()
    monkeypatch.setattr(announced, "name", f"{newsroom.prefix}news.events")
    monkeypatch.setattr(announced, "partitions", 9)
    with pytest.raises(CannotStart, match=r"9 partitions .* got 8: give EventTopic\(…, partitions=8\)"):
        service.start()
    deaf = Service(listener, newsroom.dsns[1], newsroom.bootstrap, prefix=newsroom.prefix)
    with pytest.raises(CannotStart, match=r"events that are subscribed to, got no news\.events: is the name whole"):
        deaf.start()


def test_a_dead_event_may_be_handed_in_again(newsroom: Newsroom, kafka: str) -> None:
    """Nobody was answered, so its letter is not final: retried once the handler is mended, it takes effect once."""
    topic, broken = f"{newsroom.prefix}news.events", [True]
    assert newsroom.topics("apply").returncode == 0
    listening = Participant("listener")

    @listening.on("news.Happened", topic=topic)
    def hear(event: Happened, connection: Connection, call: Call) -> None:
        connection.execute(text("INSERT INTO effect (command_id, kind) VALUES (:id, 'heard')"), {"id": call.id})
        if broken:
            raise ValueError("not yet")

    producer = Producer({"bootstrap.servers": kafka})
    headers: dict[str, str | bytes | None] = {"ce_type": "news.Happened", "ce_id": "e-1"}
    producer.produce(topic, b'{"number": 1}', b"k", headers=headers)
    assert producer.flush(20) == 0
    letters = ["--bootstrap", kafka, "--prefix", newsroom.prefix, "--service", "listener"]
    with Service(listening, newsroom.dsns[1], kafka, prefix=newsroom.prefix, settings=Settings(tries_max=1)):
        [letter] = ServiceTopics(kafka, newsroom.prefix, "listener").dead_letters(1)
        assert "q_answered" not in dict(letter.headers() or [])
        broken.clear()
        done = CliRunner().invoke(dlq, ["retry", *letters, "--where", "answered=no", "--reason", "mended"])
        assert done.exit_code == 0, done.output
        wait_until("it is heard", lambda: newsroom.heard() == 1, 30)
    assert newsroom.worlds[1].inbox() == {"e-1": ("answered", "done")}


def test_every_kind_of_handler_can_tell(postgres: str) -> None:
    """With a Session, an AsyncSession, psycopg's own connection or cursor: the event goes with the handler's writes."""
    kinds = Participant("kinds")

    @kinds.handles("Sync")
    def with_session(asked: Announce, session: Session, call: Call) -> None:
        announced.publish(session, Happened(1), key=call.id, call=call)
        _fail_if(asked)

    @kinds.handles("Async")
    async def with_async_session(asked: Announce, session: AsyncSession, call: Call) -> None:
        await announced.publish_async(session, Happened(2), key=call.id, call=call)
        _fail_if(asked)

    @kinds.handles("Driver")
    def with_driver(asked: Announce, connection: psycopg.Connection[Any], call: Call) -> None:
        announced.publish(connection, Happened(3), key=call.id, call=call)
        _fail_if(asked)

    @kinds.handles("Cursor")
    def with_cursor(asked: Announce, cursor: psycopg.Cursor[Any], call: Call) -> None:
        announced.publish(cursor, Happened(4), key=call.id, call=call)
        _fail_if(asked)

    world = World(connect(postgres, "kinds"), kinds)
    names = ("Sync", "Async", "Driver", "Cursor")
    asked = [replace(command(f"{name}-ok", saga_id=f"{name}-ok"), type=f"kinds.{name}") for name in names]
    refused = [
        replace(command(f"{name}-no", how="refuse", saga_id=f"{name}-no"), type=f"kinds.{name}") for name in names
    ]
    outcomes = world.outcomes(*(one for pair in zip(asked, refused, strict=True) for one in pair))
    told = world.rows("SELECT aggregateid, ce_causationid FROM outbox WHERE type = 'news.Happened'")
    world.unit.close()
    world.engine.dispose()

    assert outcomes == ["done", "refused"] * 4
    assert sorted(told) == sorted((f"{name}-ok", f"{name}-ok") for name in names)


def _fail_if(asked: Announce) -> None:
    if asked.how == "refuse":
        raise Refused("no")
