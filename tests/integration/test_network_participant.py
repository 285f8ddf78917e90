"""A participant on lines that fail, to its database and to Kafka: each effect once, and nothing lost."""

from collections.abc import Callable

import pytest

from kompensate.participants import database
from kompensate.participants.main import Service
from kompensate.participants.settings import Settings
from kompensate.schemas.messages import Command
from tests.fixtures.network import Line
from tests.fixtures.participants import World, forward, stock
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

QUICK = Settings(retry_seconds_first=0.01)
FAULTS: dict[str, Callable[[Line], object]] = {
    "silent": lambda line: line.fall_silent(),
    "silent from the server": lambda line: line.fall_silent(["down"]),
    "silent after what is said next": lambda line: line.fall_silent_after_question(),
    "reset": lambda line: line.reset(),
    "cut in mid-message": lambda line: line.cut_after(100),
}


def done(world: World, count: int) -> None:
    wait_until(f"{count} effects", lambda: len(world.effects()) >= count, 60)


@pytest.mark.slow
def test_a_line_to_the_database_fails_under_load(
    kafka: str, topic_prefix: str, world: World, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever moment of a group the line fails, the next connection finds out what was committed."""
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 2.0)
    monkeypatch.setattr(database, "COMMIT_SECONDS", 1.0)
    topics = ServiceTopics(kafka, topic_prefix)
    topics.make()
    sent: list[Command] = []
    with Line.to_database(postgres) as line, Service(
        stock, line.dsn(postgres), kafka, prefix=topic_prefix, settings=QUICK
    ):  # fmt: skip
        for act in FAULTS.values():
            before = len(sent)
            sent += [forward(f"c{n}", saga_id=f"saga-{n % 40}") for n in range(before, before + 200)]
            topics.send(sent[before:])
            done(world, before + 20)
            act(line)
            line.mend()
            done(world, len(sent))
        wait_until("all offsets committed", lambda: topics.committed() == topics.ends())

    assert set(world.effects().values()) == {1}
    assert {(command, outcome) for command, outcome, _ in world.replies()} == {(c.id, "done") for c in sent}
