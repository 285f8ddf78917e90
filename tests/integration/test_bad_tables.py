"""Tables that are not what they should be, as a participant starts and while it works: said clearly, nothing lost."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import patch

import psycopg
import pytest

from kompensate.participants import unit
from kompensate.participants.main import Service
from kompensate.participants.settings import Settings
from tests.fixtures.participants import SPOILT, World, forward, stock
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

QUICK = Settings(retry_seconds_first=0.01, undone_seconds_max=0.01, outage_seconds_max=0.1)
TRIES = 2 * QUICK.undone_alone_max
"""More than a single command is given that spoils its transaction."""
BROKEN = SPOILT | {
    "the answer": ("ALTER TABLE inbox DROP COLUMN reply", "ALTER TABLE inbox ADD COLUMN reply bytea"),
}


def sql(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


def undefended() -> AbstractContextManager[object]:
    """Whatever the database refuses is taken for the command's fault."""
    return patch.object(unit, "of_tables", lambda _: False)


@pytest.mark.parametrize("what", BROKEN)
def test_tables_that_are_away_for_a_while_cost_no_command(
    what: str, topics: ServiceTopics, world: World, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits and says for what, and does all that came meanwhile once they are mended; no letter, no failure."""
    found = away(what, topics, world, postgres, lambda: caplog.text.count("nothing is lost") > TRIES)

    assert found == {f"c{n}": "done" for n in range(12)}
    assert set(world.effects().values()) == {1}
    assert "nothing is lost, trying again: inbox and outbox: expected the tables of" in caplog.text
    assert "dead letter" not in caplog.text


def test_without_that_commands_pay_for_it(
    topics: ServiceTopics, world: World, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are given up as if they were to blame."""
    with undefended():
        found = away("the outbox", topics, world, postgres, lambda: "dead letter" in caplog.text)

    assert "dead letter" in caplog.text
    assert list(found.values()).count("done") < 12


def away(what: str, topics: ServiceTopics, world: World, postgres: str, until: Callable[[], bool]) -> dict[str, str]:
    """Break it under a participant at work, mend it, and wait until all commands are settled: outcomes by command."""
    spoil, mend = BROKEN[what]
    with Service(stock, postgres, topics.bootstrap, prefix=topics.prefix, settings=QUICK):
        topics.send([forward("c0", saga_id="s0")])
        wait_until("the first reply", world.replies)
        sql(postgres, spoil)
        topics.send([forward(f"c{n}", saga_id=f"s{n}") for n in range(1, 11)])
        wait_until("it was away for long", until, 60)
        sql(postgres, mend)
        topics.send([forward("c11", saga_id="s11")])
        wait_until("all settled", lambda: topics.committed() == topics.ends())
    return {command: outcome for command, outcome, _ in world.replies()}
