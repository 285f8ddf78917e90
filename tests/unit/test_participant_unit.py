"""The transaction of a group on SQLite: what is kept, undone and answered. (PostgreSQL: integration.)"""

import asyncio
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from kompensate.participants.database import connect
from kompensate.participants.orders import Kept, Later, Settled
from kompensate.participants.outcome import Refused
from kompensate.participants.participant import Participant
from kompensate.participants.unit import Undone, Unit
from tests.fixtures.participants import (
    SPOILT,
    How,
    World,
    async_stock,
    compensation,
    forward,
    give_back_plainly,
    is_waited_for,
    plain_stock,
    stock,
    take,
    take_plainly,
)


@pytest.fixture(params=[stock, plain_stock, async_stock], ids=["session", "connection", "async session"])
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(connect(f"sqlite:///{tmp_path}/stock.db", "stock"), request.param)
    yield world
    world.close()


def test_a_command_is_done_once_and_answered(world: World) -> None:
    """Effect, inbox row and reply commit together, and the reply carries what the command asked to carry."""
    assert world.outcomes(forward("a")) == ["done"]

    assert world.effects() == {("a", "take"): 1}
    assert world.inbox() == {"a": ("answered", "done")}
    assert world.payload("a") == {"by": "a"}
    columns = "aggregatetype, aggregateid, partition, type, ce_source, ce_correlationid, traceparent, tracestate"
    [row] = world.rows(f"SELECT {columns}, content_type, ce_specversion FROM outbox")
    trace = forward("a").trace
    assert row == (
        *("shop.replies.stock", "saga-1", 3, "stock.Taken", "kompensate:stock", "saga-1"),
        *(trace.parent, trace.state, "application/json", "1.0"),
    )


@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_tables_are_no_commands_fault(world: World, what: str) -> None:
    """They are waited for, and what came meanwhile is done when they are mended."""
    is_waited_for(world, what, "schema_sqlite.sql")


def test_a_duplicate_gets_the_stored_reply(world: World) -> None:
    """The same command again: no handler, the same answer, a row and an id of its own."""
    for _ in range(3):
        world.handle(forward("a"))

    assert world.effects() == {("a", "take"): 1}
    assert world.replies() == [("a", "done", "stock.Taken")] * 3
    assert len(set(world.rows("SELECT ce_id FROM outbox"))) == 3
    assert len(set(world.rows("SELECT payload FROM outbox"))) == 1


def test_a_group_may_hold_a_command_twice(world: World) -> None:
    """A duplicate in the same group is answered from the group's own work."""
    assert world.outcomes(forward("a"), forward("a"), forward("b")) == ["done"] * 3

    assert world.effects() == {("a", "take"): 1, ("b", "take"): 1}


def test_a_refusal_undoes_its_writes_only(world: World) -> None:
    """What a refusing handler wrote is gone, its neighbours' work stays, the reason travels."""
    assert world.outcomes(forward("a"), forward("b", "refuse"), forward("c")) == ["done", "refused", "done"]

    assert world.effects() == {("a", "take"): 1, ("c", "take"): 1}
    assert world.payload("b") == {"reason": "out of stock", "detail": {"wanted": 2, "have": 1}}
    assert ("b", "refused", "stock.Refused") in world.replies()
    assert world.dead == []


@pytest.mark.parametrize("how", ["raise", "retry", "break", "rollback"])
def test_an_error_is_tried_again_then_failed_once(world: World, how: How) -> None:
    """An unexpected error leaves nothing behind until it is the last try: then one failed reply, one dead letter."""
    if how == "rollback" and world.participant is plain_stock:
        pytest.skip("the session refuses it; a connection's undoes the group: see below")
    bad = forward("b", how)
    misuse = how == "rollback"

    first = world.outcomes(forward("a", saga_id="s2"), bad, last=False)
    assert first == ["done", "failed" if misuse else "Later"]
    assert world.inbox().get("b") == (("answered", "failed") if misuse else None)
    assert world.outcomes(bad) == ["failed"]
    assert world.outcomes(bad) == ["failed"]

    assert world.effects() == {("a", "take"): 1}
    assert [command for command, _ in world.dead] == ["b"]
    assert world.inbox()["b"] == ("answered", "failed")


def test_a_broken_statement_in_a_group_harms_nobody(world: World) -> None:
    """After a statement that the database refuses, the handlers before and after it keep their work."""
    ids = [forward("a"), forward("b", "break"), forward("c"), forward("d", "raise"), forward("e")]
    assert world.outcomes(*ids) == ["done", "failed", "done", "failed", "done"]

    assert world.effects() == {("a", "take"): 1, ("c", "take"): 1, ("e", "take"): 1}


def test_a_savepoint_left_open_is_misuse(world: World) -> None:
    """A handler ends what it begins: else its neighbours would work inside it."""
    ids = [forward("a"), forward("b", "half"), forward("c"), forward("d", "refuse"), forward("e")]
    assert world.outcomes(*ids) == ["done", "failed", "done", "refused", "done"]

    assert world.effects() == {("a", "take"): 1, ("c", "take"): 1, ("e", "take"): 1}
    assert "expected to be ended by the handler" in world.dead[0][1]


def test_a_rollback_of_the_connection_undoes_the_group(tmp_path: Path) -> None:
    """There is nothing left to commit: the group is done again, in parts, until only the culprit is given up."""
    world = World(connect(f"sqlite:///{tmp_path}/stock.db", "stock"), plain_stock)
    with pytest.raises(Undone, match="expected a handler to raise"):
        world.handle(forward("a"), forward("b", "rollback"))

    assert world.effects() == {}
    assert world.inbox() == {}


def test_handlers_with_and_without_a_session_share_a_group(tmp_path: Path) -> None:
    """Each begins where the one before it ended, whichever way it works."""
    mixed = Participant("stock")
    mixed.handles(take)
    mixed.handles(give_back_plainly)
    world = World(connect(f"sqlite:///{tmp_path}/stock.db", "stock"), mixed)
    world.handle(forward("a"), forward("b"))
    undone, refused = compensation("a"), compensation("b", how="refuse")

    assert world.outcomes(undone, forward("c"), refused, forward("d", "raise"), compensation("c"), forward("e")) == [
        *("done", "done", "refused", "failed", "done", "done"),
    ]
    kept = [
        ("a", "take"),
        ("b", "take"),
        ("c", "take"),
        ("e", "take"),
        ("undo-a", "give_back"),
        ("undo-c", "give_back"),
    ]
    assert world.effects() == dict.fromkeys(kept, 1)


def test_two_services_may_share_a_database(tmp_path: Path) -> None:
    """What one has answered the other has not seen: the inbox is kept by service, the outbox by topic."""
    engine = connect(f"sqlite:///{tmp_path}/both.db", "both")
    other = Participant("depot")
    other.handles(take)
    here, there = World(engine, stock), World(engine, other)

    assert here.outcomes(forward("a")) == ["done"]
    for _ in range(2):
        there.handle(replace(forward("a"), type="depot.Take", reply_to="shop.replies.depot"))

    assert here.effects() == {("a", "take"): 2}
    assert here.rows("SELECT consumer, state FROM inbox ORDER BY consumer") == [
        ("depot", "answered"),
        ("stock", "answered"),
    ]
    assert here.rows("SELECT aggregatetype, count(*) FROM outbox GROUP BY 1 ORDER BY 1") == [
        ("shop.replies.depot", 2),
        ("shop.replies.stock", 1),
    ]


class Dumb(Exception):
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


@pytest.mark.parametrize(
    ("error", "outcome", "told"),
    [
        (ValueError("garbage \udcff"), "failed", "ValueError: garbage \\udcff"),
        (Dumb(), "failed", "Dumb, whose text cannot be had (RuntimeError)"),
        (SystemExit(3), "failed", "expected the handler to return or raise an Exception, got SystemExit(3)"),
        (asyncio.CancelledError(), "failed", "got CancelledError()"),
        (ExceptionGroup("many", [ValueError("one")]), "failed", "ExceptionGroup: many"),
        (Refused("garbage \udcff"), "refused", "garbage \\udcff"),
        (Refused(7), "refused", "7"),  # type: ignore[arg-type]  # an author's mistake
        (Refused("no", why="\udcff"), "failed", "surrogates not allowed"),
        (Refused("no\0", why="\0"), "refused", "no"),
    ],
)
def test_whatever_a_handler_raises_is_an_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: BaseException, outcome: str, told: str
) -> None:
    """What it says may be no text, or it may mean to end the process: the command is answered, its group is kept."""
    caplog.set_level(logging.CRITICAL + 1)  # pytest's workers cannot hand over a log that is no text
    raising = Participant("stock")
    raising.handles(take_plainly)

    @raising.handles("GiveBack")
    def raise_it(command: dict[str, str]) -> None:
        raise error

    world = World(connect(f"sqlite:///{tmp_path}/stock.db", "stock"), raising)
    odd = replace(forward("b"), type="stock.GiveBack")
    assert world.outcomes(forward("a"), odd, forward("c")) == ["done", outcome, "done"]

    reply = world.payload("b")
    assert isinstance(reply, dict)
    assert told in reply["reason"]
    assert all(reason.encode() for _, reason in world.dead)


def test_slow_handlers_end_a_group_early(tmp_path: Path) -> None:
    """What a group's time does not reach is left to the next one, unclaimed and untried; one is always done."""
    now = [0.0]
    slow = Participant("stock")

    @slow.handles("Take")
    def take_long(command: dict[str, str], connection: Connection) -> None:
        now[0] += 0.3

    engine = connect(f"sqlite:///{tmp_path}/stock.db", "stock")
    world = World(engine, slow)
    world.unit = Unit(slow, engine, group_seconds=0.5, timer=lambda: now[0])
    commands = [forward(each, saga_id=each) for each in "abcd"]
    results = world.handle(*commands)

    assert [getattr(result, "full", None) for result in results] == [None, None, True, True]
    assert world.inbox().keys() == {"a", "b"}
    now[0] = -100.0  # a time-out of none at all is no reason to do nothing
    world.unit = Unit(slow, engine, group_seconds=0.0, timer=lambda: now[0])
    assert world.outcomes(*commands[2:]) == ["done", "Later"]


def test_an_answer_too_large_is_failed(world: World) -> None:
    """A result above the limit undoes the handler and is answered failed at once: trying again cannot help."""
    assert world.outcomes(forward("a", "oversize"), last=False) == ["failed"]

    assert world.effects() == {}
    assert "expected at most 921600 bytes" in world.dead[0][1]


def test_a_lane_waits_for_its_first(world: World) -> None:
    """Behind a command that is to be tried again, the later ones of its saga wait; other sagas go on."""
    results = world.handle(forward("a", "raise"), forward("b"), forward("c", saga_id="s2"), last=False)

    assert [type(result) for result in results] == [Later, Later, Settled]
    assert [result.counts for result in results if isinstance(result, Later)] == [True, False]
    assert world.inbox() == {"c": ("answered", "done")}


def test_a_compensation_undoes_what_was_done(world: World) -> None:
    """In one group or two, a compensation runs once after its command."""
    world.handle(forward("a"), compensation("a"))
    world.handle(forward("b"))
    world.handle(compensation("b"))
    world.handle(compensation("b"), compensation("a"))

    assert world.effects() == {(i, kind): 1 for i in "ab" for kind in ("take",)} | {
        (f"undo-{i}", "give_back"): 1 for i in "ab"
    }
    assert {outcome for _, outcome, _ in world.replies()} == {"done"}


@pytest.mark.parametrize("together", [True, False])
def test_a_compensation_before_its_command_forbids_it(world: World, together: bool) -> None:
    """The compensation is done with nothing, the late command is refused and never runs."""
    groups = [(compensation("a"), forward("a"))] if together else [(compensation("a"),), (forward("a"),)]
    outcomes = [outcome for group in groups for outcome in world.outcomes(*group)]

    assert outcomes == ["done", "refused"]
    assert world.effects() == {}
    assert world.payload("a") == {"reason": "compensated before it arrived", "detail": {}}
    assert ("undo-a", "done", "stock.NothingToUndo") in world.replies()
    assert world.inbox() == {"a": ("cancelled", None), "undo-a": ("answered", "done")}


@pytest.mark.parametrize("how", ["refuse", "raise"])
def test_nothing_is_undone_that_was_not_done(world: World, how: How) -> None:
    """The compensation of a refused or failed command is done without its handler."""
    world.handle(forward("a", how), compensation("a"))

    assert world.effects() == {}
    assert ("undo-a", "done", "stock.NothingToUndo") in world.replies()


def test_a_compensation_waits_with_its_command(world: World) -> None:
    """While the command is to be tried again its compensation waits, and no claim is left behind."""
    assert world.outcomes(forward("a", "retry"), compensation("a"), last=False) == ["Later", "Later"]

    assert world.inbox() == {}
    assert world.replies() == []


def test_an_expired_command_is_not_done(world: World) -> None:
    """After its time a forward command is answered expired; a compensation has no such time."""
    late = replace(forward("a"), expires_at=round(world.now * 1000) - 1)
    assert world.outcomes(late, compensation("a")) == ["expired", "done"]

    assert world.effects() == {}
    assert world.inbox()["a"] == ("answered", "expired")


@pytest.mark.parametrize(
    ("wrong_by", "outcomes"), [(3600, ["expired", "expired", "done"]), (-3600, ["done", "done", "done"])]
)
def test_a_clock_that_is_wrong_loses_nothing(world: World, wrong_by: int, outcomes: list[str]) -> None:
    """Ahead, commands in time are answered expired, with both times; behind, late ones are done, then undone."""
    command = replace(forward("a"), expires_at=round(world.now * 1000) + (1_000 if wrong_by > 0 else -1_000))
    world.now += wrong_by

    assert world.outcomes(command, command, compensation("a")) == outcomes
    assert world.effects() == ({} if wrong_by > 0 else {("a", "take"): 1, ("undo-a", "give_back"): 1})
    if wrong_by > 0:
        told = json.loads(bytes(world.rows("SELECT payload FROM outbox WHERE ce_causationid = 'a'")[0][0]))
        assert told["reason"] == f"expired at {command.expires_at}, read at {round(world.now * 1000)} (ms)"


def test_a_claim_that_somebody_holds_is_waited_for(world: World) -> None:
    """A claimed row of another (an external call is out) is neither run nor undone until it is answered."""
    with world.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO inbox (consumer, command_id, state) VALUES ('stock', 'a', 'claimed')")

    results = world.handle(forward("a"), forward("b", saga_id="s2"), compensation("a", saga_id="s3"))

    assert [type(result) for result in results] == [Kept, Settled, Later]
    assert world.effects() == {("b", "take"): 1}
    assert world.inbox() == {"a": ("claimed", None), "b": ("answered", "done")}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "stock.Nope"}, "expected one of stock.GiveBack, stock.Take, got 'stock.Nope'"),
        ({"payload": b"\xff"}, "payload Take"),
        ({"payload": None}, "got no value"),
        ({"payload": b'{"how":"\xff"}'}, "'utf-8' codec can't decode byte 0xff"),
        ({"payload": b'{"how":7}'}, "Expected `str`, got `int`"),
        ({"content_type": "application/avro"}, "expected content type application/json, got 'application/avro'"),
    ],
)
def test_what_cannot_be_handled_is_failed_and_kept(world: World, changes: dict[str, Any], reason: str) -> None:
    """Unknown type, undecodable payload: a failed reply and a dead letter at once, and the others go on."""
    bad = replace(forward("b"), **changes)
    assert world.outcomes(forward("a"), bad, last=False) == ["done", "failed"]

    assert [command for command, _ in world.dead] == ["b"]
    assert reason in world.dead[0][1]
    assert world.effects() == {("a", "take"): 1}


def test_a_doomed_command_still_meets_the_barrier(world: World) -> None:
    """A command given up is answered failed unhandled; one that was answered before keeps its answer."""
    world.handle(forward("a"))
    assert [r.outcome for r in world.handle(forward("a"), doom="spoilt") if isinstance(r, Settled)] == ["done"]
    assert [r.outcome for r in world.handle(forward("b"), doom="spoilt") if isinstance(r, Settled)] == ["failed"]

    assert world.effects() == {("a", "take"): 1}
    assert world.dead == [("b", "spoilt")]
