"""A saga goes on from another's history: what it begins with, whose ids its commands have, and who undoes what."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kompensate.orchestrator import Context, Saga, Step, StepInDoubt, saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.decide import Decision
from kompensate.orchestrator.kernel.errors import Rejected
from kompensate.orchestrator.kernel.forking import check_point, first_events, point_of
from kompensate.orchestrator.kernel.program import Definition
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.kernel.tables import CallStatus, Status
from tests.fixtures.driving import (
    APP,
    CHECKOUT,
    SAGA_ID,
    SERVICES,
    Charge,
    Confirm,
    Driven,
    Order,
    Refund,
    Release,
    Reserve,
    Ship,
    commands,
    dump,
    fold,
    inventory,
    kinds,
    payments,
    sends,
    shipping,
)
from tests.fixtures.forks import AT, NEW, events_of, forked
from tests.fixtures.programs import perform, programs
from tests.kernel.test_local import double
from tests.kernel.test_properties import Act, Twins, scripts

both = pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])
NAMES = [service.name for service in SERVICES]
both = pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])


def closed(cached: bool, done: int = 2) -> Driven:
    """A checkout that was closed when so many of its steps were done."""
    old = Driven(cached=cached)
    old.start()
    for _ in range(done):
        old.reply()
    old.order("close")
    return old


@both
def test_a_fork_goes_on_where_the_step_is_asked_for(cached: bool) -> None:
    """It begins with what was kept, and its own commands have ids of their own."""
    old = closed(cached)
    kept = point_of(events_of(old), "charge")

    new, decision = forked(old, kept, cached=cached)

    assert kinds(decision) == ["SagaResumed", "CallMade"]
    assert commands(decision) == ["forward charge#1"]
    assert events_of(new)[1 : kept + 1] == events_of(old)[:kept]
    assert new.command("charge").id != old.command("charge").id
    assert dump(new.state) == dump(fold(new.history, NEW, new.state.run))
    new.reply()
    new.reply()
    new.reply()
    assert new.state.status is Status.COMPLETED


@both
def test_what_undoes_a_kept_step_undoes_the_command_that_did_it(cached: bool) -> None:
    """Both ids are what the first saga would have sent: sent by both it is one compensation."""
    old = closed(cached)
    new, _ = forked(old, point_of(events_of(old), "charge"), cached=cached)
    straight = Driven(cached=cached)
    straight.start()
    straight.reply()
    straight.no()

    decision = new.no()

    assert commands(decision) == ["compensate reserve#1"]
    (undo,), (same,) = sends(decision), [straight.command("reserve", "compensate")]
    assert undo.compensates == old.command("reserve").id
    assert (undo.id, undo.compensates) == (same.id, same.compensates)


@both
def test_a_fork_of_a_fork(cached: bool) -> None:
    """Each step is undone under the ids of the saga that did it."""
    old = closed(cached)
    middle, _ = forked(old, point_of(events_of(old), "charge"), cached=cached, saga_id="middle")
    middle.reply()
    middle.order("close")
    new, _ = forked(middle, point_of(events_of(middle), "ship"), cached=cached)

    undone = [new.no()]
    undone.append(new.reply())

    ids = [sends(decision)[0].compensates for decision in undone]
    assert ids == [middle.command("charge").id, old.command("reserve").id]
    again, _ = forked(middle, point_of(events_of(middle), "reserve"), cached=cached)
    assert [fork[1] for fork in again.state.forks] == [SAGA_ID, "middle"]
    assert again.command("reserve").id != old.command("reserve").id, "it is its own: nothing was kept"


@both
def test_today_s_code_goes_on(cached: bool) -> None:
    """What is after the point may be another program; what is before it is compared, and a difference is refused."""
    old = closed(cached)
    shorter = Saga(
        "checkout",
        Order,
        [Step("reserve", inventory, Reserve, undo=Release), Step("ship", shipping, Ship, kind="pivot")],
    )

    _, decision = forked(old, point_of(events_of(old), "charge"), code=shorter, cached=cached)
    assert commands(decision) == ["forward ship#1"]

    with pytest.raises(
        Rejected, match=r"expected operation 2: call of 'payments.Charge'.*got operation 2: call of 'ship"
    ):
        forked(old, point_of(events_of(old), "ship"), code=shorter, cached=cached)


@saga("keeps")
async def keeps(ctx: Context, order: Order) -> str:
    """Every kind of operation that leaves nothing out."""
    ctx.publish("seen", 1)
    if ctx.patched("new-road"):
        await ctx.run(double, 1, undo=double)
    ctx.compensate(inventory, Release(ctx.uuid()), step="own")
    said: str = await ctx.receive("go", type=str)
    await ctx.sleep(60)
    await ctx.call(payments, Charge(ctx.uuid()), undo=Refund("o1"))
    await ctx.call(inventory, Confirm(said), kind="retriable")
    return said


@both
def test_at_every_point_at_which_nothing_is_out(cached: bool) -> None:
    """Whichever it is: the fork comes to the same end, replays as it lived, and has the other's ids up to the point."""
    old = Driven(keeps, cached=cached)
    old.start()
    old.ran(2)
    old.signal("later", "on")
    old.signal("go", "on")
    old.wait_until_due()
    old.reply()
    old.order("close")
    points = 0
    for kept in range(1, len(old.history) + 1):
        try:
            operations = check_point(SAGA_ID, "0.0", old.history, kept, reset=False)
        except ValueError:
            continue
        points += 1
        new, _ = forked(old, kept, code=keeps, cached=cached)
        ids = {number: call.forward_id for number, call in new.state.calls.items()}
        assert {n: id_ for n, id_ in ids.items() if n <= operations} == {
            n: old.state.calls[n].forward_id for n in ids if n <= operations
        }
        finish(new)
        assert new.state.status is Status.COMPLETED, kept
        assert dump(new.state) == dump(fold(new.history, NEW, new.state.run))
    assert points >= 9, points


def finish(new: Driven) -> None:
    """Everybody answers."""
    for _ in range(20):
        state = new.state
        if state.local:
            new.ran(2)
        elif state.receives:
            new.signal("go", "on")
        elif state.sleeps:
            new.wait_until_due()
        elif state.open:
            new.reply(new.sent[-1])


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(programs, scripts(), scripts(), st.randoms(use_true_random=False))
def test_a_fork_lives_as_any_saga(program: list[Any], before: list[Act], after: list[Act], draws: Random) -> None:
    """From whatever point of whatever history, whatever comes then: it replays as it lived, undoes what it has to, and
    what it kept has the ids of the saga that did it."""
    twins = Twins(lambda cached: Driven(perform, cached=cached), program)
    for act in before:
        twins.do(act)
    old = twins.cached
    kept = draws.choice(points_of(old) or [0])
    if not kept:
        return
    before_it = fold(old.history[:kept]).calls
    ids = {number: call.forward_id for number, call in before_it.items()}
    # What the old saga had begun to undo, it may have asked for itself.
    done = {number for number, call in before_it.items() if not call.undoing and call.status is not CallStatus.UNDONE}

    new = Twins(lambda cached: forked(old, kept, code=perform, cached=cached)[0], program)
    for act in after:
        new.do(act)
    new.finish()
    new.check_the_end()

    assert {number: call.forward_id for number, call in new.cached.state.calls.items() if number in ids} == ids
    undone = {command.compensates for command in new.cached.sent}
    sent = {command.id for command in new.cached.sent}
    for number, call in new.cached.state.calls.items():
        if number in done and call.status is CallStatus.UNDONE and call.made.service in NAMES:
            # A registered compensation undoes no command.
            assert ids[number] in undone if call.made.type else call.id in sent


def points_of(driven: Driven) -> list[int]:
    """The points from which another saga may go on."""
    found, state = [], driven.state
    for kept in range(1, len(driven.history) + 1):
        try:
            check_point(state.saga_id, state.run, driven.history, kept, reset=not state.ended)
        except ValueError:
            continue
        found.append(kept)
    return found


@saga("checkout", version=2)
async def second(ctx: Context, order: Order) -> bool:
    await ctx.call(inventory, Reserve(ctx.saga_id), undo=Release("o1"), step="reserve")
    return ctx.continue_as_new_suggested


def test_it_follows_the_version_named_and_is_nobody_s_child() -> None:
    """What another start asked for (a parent that waits, a deadline) was not asked for it."""
    old = Driven()
    old.give(i.StartAsked(old.origin(), "checkout", b"{}", deadline=old.now + 9, parent="order-0", parent_command="c1"))
    old.reply()
    old.order("close")
    kept = point_of(events_of(old), "charge")

    new, decision = forked(old, kept, code=second, version=2)

    assert kinds(decision) == ["SagaResumed", "SagaCompleted"]
    assert (new.state.version, new.state.parent, new.state.parent_command, new.state.deadline) == (2, None, None, None)
    assert decision.effects == []
    with pytest.raises(Rejected, match="expected saga 'checkout' in version 3 in this application, got none"):
        forked(old, kept, code=second, version=3)


def test_the_suggestion_to_continue_is_what_it_was() -> None:
    """The event that says where it comes from is not counted: the program saw it at another place then."""
    old = closed(cached=True, done=1)  # its answer was the third event

    for suggested_at, suggested in ((4, b"false"), (3, b"true")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kompensate.orchestrator.kernel.forked.EVENTS_SUGGESTED", suggested_at)
            assert forked(old, 3, code=second, version=2)[0].state.result == suggested


@saga("doubting")
async def doubting(ctx: Context, order: Order) -> None:
    with suppress(StepInDoubt):
        await ctx.child("checkout", order, timeout=1)
    await ctx.sleep(9)


def test_a_child_in_doubt_answers_to_the_saga_that_started_it() -> None:
    old = Driven(doubting, others=[CHECKOUT])
    old.start()
    old.wait_until_due()
    old.order("close")

    with pytest.raises(ValueError, match=r"expected children that have ended, got 'order-1\.1'"):
        forked(old, point_of(events_of(old), "2"), code=doubting)


def test_a_fork_that_was_begun_before_changes_nothing() -> None:
    """The same record comes once; another one of the same fork is a duplicate, one of another is refused."""
    old = closed(cached=True)
    kept = point_of(events_of(old), "charge")
    new, _ = forked(old, kept)
    new.pause()
    (first, _), *copied = new.history[: kept + 1]
    assert isinstance(first, e.SagaForked)
    later = AT._replace(offset=100)
    again = i.ForkAsked(later, "0.o100", first, [(event, AT) for event, _ in copied], held=False)

    assert new.give(again) == Decision()
    with pytest.raises(Rejected, match="expected an id that is not in use, got 'order-2', which is running"):
        new.give(replace(again, forked=replace(first, origin="order-7")))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"operations": 2}, "expected 3 events with 2 operations, got 3 with 1"),
        ({"events": 4}, "expected 4 events with 1 operations, got 3 with 1"),
    ],
)
def test_what_a_fork_says_of_itself_has_to_be_so(changes: dict[str, Any], why: str) -> None:
    old = closed(cached=True)
    with pytest.raises(Rejected, match=why):
        forked(old, point_of(events_of(old), "charge"), **changes)


def test_what_nobody_may_begin_with() -> None:
    """Whoever asked, the kernel looks for itself."""
    old = closed(cached=True)
    copied = [(event, AT) for event in events_of(old)]
    new = Driven()
    found = new.catalogue.find("checkout")

    def refused(kept: Sequence[tuple[e.Event, i.Origin]], why: str, definition: Definition | None = found) -> None:
        first = e.SagaForked(SAGA_ID, "0.0", len(kept), 2, 1, "ann", "why")
        with pytest.raises(Rejected, match=why):
            first_events(
                SagaState(APP, NEW, "0.o99"), definition, i.ForkAsked(AT, "0.o99", first, list(kept), held=False)
            )

    refused(copied[:4], "step 'charge'.*is sent")
    refused(copied[1:3], "CallMade is not allowed while pending")
    refused(copied, "SagaPaused is not allowed while failed")
    refused(copied[:3], "expected saga 'checkout' in version 1 in this application, got none", None)
