"""Handlers on psycopg's own connection and cursor: in the group's transaction, and none may end it."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kompensate.participants import Call, Participant, calling
from kompensate.participants.database import connect
from kompensate.participants.participant import BadHandler
from kompensate.participants.unit import Undone, Unit
from tests.fixtures.participants import (
    Take,
    World,
    compensation,
    driver_stock,
    forward,
    give_back_by_driver,
    take,
)


@pytest.fixture
def world(postgres: str) -> Iterator[World]:
    engine = connect(postgres, "stock")
    yield World(engine, driver_stock)
    engine.dispose()


def test_a_psycopg_handler_cannot_commit(world: World) -> None:
    """Its commit, rollback and close are refused before they happen: it alone fails, its group is kept."""
    assert world.outcomes(forward("a"), forward("b", "commit", "s2"), forward("c", saga_id="s3")) == [
        *("done", "failed", "done"),
    ]

    assert world.effects() == {("a", "take"): 1, ("c", "take"): 1}
    assert "commit(), rollback() or close() of the connection" in world.dead[0][1]


def test_without_the_refusal_a_commit_tears_the_group(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why it is refused: claims would be committed whose commands nobody answers any more."""
    monkeypatch.setattr(calling, "_lent", lambda driver: nullcontext())
    with pytest.raises(Undone):
        world.handle(forward("a"), forward("b", "commit", "s2"))
    world.engine.dispose()  # the connection has the row factory that the handler set, too

    assert world.inbox() == {"a": ("claimed", None), "b": ("claimed", None)}


def test_psycopg_handlers_share_a_group_with_sessions(world: World) -> None:
    """Each begins where the one before it ended, whichever way it works, and row factories are set back."""
    mixed = Participant("stock")
    mixed.handles(take)
    mixed.handles(give_back_by_driver)
    world = World(world.engine, mixed)
    world.handle(forward("a"), forward("b"))
    refused = compensation("b", how="refuse")

    assert world.outcomes(compensation("a"), forward("c"), refused, forward("d", "raise"), compensation("c")) == [
        *("done", "done", "refused", "failed", "done"),
    ]
    kept = [("a", "take"), ("b", "take"), ("c", "take"), ("undo-a", "give_back"), ("undo-c", "give_back")]
    assert world.effects() == dict.fromkeys(kept, 1)


def test_contention_in_a_psycopg_handler_undoes_the_group(world: World) -> None:
    """A serialization failure or deadlock in psycopg's own clothes is nobody's error: the group is done again."""
    busy = Participant("stock")

    @busy.handles
    def take_later(command: Take, connection: psycopg.Connection[Any]) -> None:
        raise psycopg.errors.SerializationFailure("could not serialize access")

    with pytest.raises(Undone, match="could not serialize") as caught:
        World(world.engine, busy).handle(forward("a"))
    assert caught.value.contended


def test_a_lost_connection_in_a_psycopg_handler_undoes_the_group(world: World) -> None:
    """The backend ends under a handler: nothing of the group is left, and the same group again does it once."""
    unlucky = [True]
    falling = Participant("stock")

    @falling.handles("Take")
    def fall(command: dict[str, str], connection: psycopg.Connection[Any], call: Call) -> None:
        connection.execute("INSERT INTO effect VALUES (%s, 'take', %s)", (call.id, call.saga_id))
        if call.id == "b" and unlucky.pop():
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    world = World(world.engine, falling)
    with pytest.raises(Undone, match="connection is lost") as caught:
        world.handle(forward("a"), forward("b"))
    assert not caught.value.contended
    unlucky.append(False)

    assert world.outcomes(forward("a"), forward("b")) == ["done", "done"]
    assert world.effects() == {("a", "take"): 1, ("b", "take"): 1}


def test_psycopg_handlers_need_postgresql(tmp_path: Path) -> None:
    """On another database such a service does not start, and says which handler it is."""
    with pytest.raises(BadHandler, match=r"handler of stock.Take: expected .* psycopg reaches, .* sqlite\+pysqlite"):
        Unit(driver_stock, connect(f"sqlite:///{tmp_path}/stock.db", "stock"))
