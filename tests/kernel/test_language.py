"""The rest of the language: partial undo, blocks, losers, the pivot, published values, patches, runs that go on."""

from collections.abc import Callable
from typing import Any

import pytest

from kompensate.orchestrator import Context, FailSaga, OperationCancelled, StepRefused, saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.tables import Hold, Status
from kompensate.schemas import payloads
from tests.fixtures.driving import Charge, Driven, Order, Refund, Release, Reserve, inventory, kinds, payments

pytestmark = pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])


@saga("second-try")
async def second_try(ctx: Context, order: Order) -> str:
    async def book(what: str) -> None:
        await ctx.call(inventory, Reserve(what), undo=Release(what))
        await ctx.call(payments, Charge(what), undo=Refund(what))

    await ctx.call(inventory, Reserve("before"), undo=Release("before"), step="before")
    await ctx.block(book, "trip", attempts=2, wait=3)
    return "booked"


def test_a_block_is_undone_and_begins_anew(cached: bool) -> None:
    """What was done in it, not what was done before it; after a wait."""
    driven = Driven(second_try, cached=cached)
    driven.start()
    driven.reply()
    driven.reply()

    assert kinds(driven.no()) == ["CallRefused", "UndoStarted", "UndoSent"]
    assert kinds(driven.reply()) == ["CallUndone", "UndoEnded", "SleepStarted"]
    assert kinds(driven.wait_until_due()) == ["SleepEnded", "CallMade"]
    driven.reply()
    driven.reply()

    assert driven.state.status is Status.COMPLETED
    assert [c.type for c in driven.sent if c.phase == "compensate"] == ["inventory.Release"]


def test_a_block_that_never_succeeds_turns_the_saga_back(cached: bool) -> None:
    driven = Driven(second_try, cached=cached)
    driven.start()
    driven.reply()
    for _ in range(2):
        driven.no()
        if driven.state.status is Status.RUNNING:
            driven.wait_until_due()

    driven.reply()
    assert driven.state.status is Status.COMPENSATED
    assert [c.payload for c in driven.sent if c.phase == "compensate"] == [b'{"order_id":"before"}']


def test_a_cancel_during_a_partial_undo(cached: bool) -> None:
    """What is being undone is undone once; the rest follows."""
    driven = Driven(second_try, cached=cached)
    driven.start()
    driven.reply()
    driven.reply()
    driven.no()

    assert kinds(driven.cancel()) == ["CompensationStarted"]
    assert kinds(driven.reply()) == ["CallUndone", "UndoSent"]
    assert kinds(driven.reply()) == ["CallUndone", "SagaCancelled"]


def test_a_partial_undo_that_fails_for_ever_holds(cached: bool) -> None:
    driven = Driven(second_try, cached=cached)
    driven.start()
    driven.reply()
    driven.reply()
    driven.no()
    for _ in range(10):
        driven.reply(None, "failed")
        if driven.state.hold is None:
            driven.wait_until_due()

    assert driven.state.hold is Hold.QUARANTINED
    driven.resume()
    driven.wait_until_due()
    assert kinds(driven.reply()) == ["CallUndone", "UndoEnded", "SleepStarted"]


@saga("race")
async def race(ctx: Context, order: Order) -> str:
    slow = ctx.call(inventory, Reserve("slow"), undo=Release("slow"))
    name, _ = await ctx.select(cancel_losers=True, slow=slow, paid=ctx.receive("paid"), asleep=ctx.sleep(60))
    if order.order_id == "again":
        try:
            await ctx.receive("never", timeout=1)
        except TimeoutError:
            name += " and on"
    return name


def test_losers_are_undone(cached: bool) -> None:
    """A call that is out is undone whether it was done or not; a sleep and a receive are dropped."""
    driven = Driven(race, cached=cached)
    driven.start()

    decision = driven.signal("paid")

    assert kinds(decision) == [
        *("SignalKept", "SignalReceived", "UndoStarted", "CallInDoubt", "UndoSent", "UndoStarted", "UndoEnded")
    ]
    assert driven.state.sleeps == {}
    assert driven.state.status is Status.RUNNING, "it completes when what is out is answered"
    assert kinds(driven.reply()) == ["CallUndone", "UndoEnded", "SagaCompleted"]
    assert driven.state.result == b'"paid"'


@saga("dropped")
async def awaits_dropped(ctx: Context, order: Order) -> str:
    asleep = ctx.sleep(60)
    await ctx.undo(asleep)
    try:
        await asleep
    except OperationCancelled:
        return "dropped"
    return "slept"


def test_awaiting_what_was_dropped(cached: bool) -> None:
    driven = Driven(awaits_dropped, cached=cached)

    assert kinds(driven.start()) == ["SagaStarted", "SleepStarted", "UndoStarted", "UndoEnded", "SagaCompleted"]

    assert driven.state.result == b'"dropped"'


@saga("past")
async def past(ctx: Context, order: Order) -> None:
    reserved = ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    await reserved
    ctx.pivot()
    if order.order_id == "undo":
        await ctx.undo(reserved)
    await ctx.call(payments, Charge("o1"), undo=Refund("o1"))


def test_the_pivot_needs_no_step(cached: bool) -> None:
    """From there on calls are only repeated, and a cancel is refused."""
    driven = Driven(past, cached=cached)
    driven.start()

    assert kinds(driven.reply()) == ["CallSucceeded", "PivotPassed", "CallMade"]
    assert driven.state.calls[3].made.kind == "retriable"
    assert kinds(driven.cancel()) == ["CancelRefused"]
    assert kinds(driven.no()) == ["AttemptFailed"]


def test_nothing_is_undone_past_the_pivot(cached: bool) -> None:
    driven = Driven(past, cached=cached)
    driven.start(Order("undo"))
    driven.reply()

    assert driven.state.hold is Hold.QUARANTINED
    assert "expected to go forward only" in driven.state.hold_reason


@saga("loses-pivot")
async def loses_pivot(ctx: Context, order: Order) -> str:
    charged = ctx.call(payments, Charge("o1"), kind="pivot")
    name, _ = await ctx.select(cancel_losers=True, charged=charged, asleep=ctx.sleep(60))
    return name


def test_a_pivot_that_loses_is_not_given_up(cached: bool) -> None:
    """It goes on until it is answered: nobody could say otherwise whether it was done."""
    driven = Driven(loses_pivot, cached=cached)
    driven.start()

    assert kinds(driven.wait(60_000))[-3:] == ["SleepEnded", "UndoStarted", "UndoEnded"]
    assert driven.state.pivot_out
    assert kinds(driven.reply()) == ["CallSucceeded", "SagaCompleted"]


@saga("shows")
async def shows(ctx: Context, order: Order) -> None:
    for done in range(3):
        ctx.publish("progress", {"done": done})
        await ctx.sleep(1)


def test_the_newest_published_value_stands(cached: bool) -> None:
    driven = Driven(shows, cached=cached)

    assert kinds(driven.start()) == ["SagaStarted", "ValuePublished", "SleepStarted"]
    driven.wait_until_due()

    assert driven.state.published == {"progress": b'{"done":1}'}


def _rounds(*, patch: Callable[[Context], bool] | None = None) -> Any:
    """A loop that asks for a reservation each round; the patched code for a charge."""

    @saga("rounds")
    async def rounds(ctx: Context, order: Order) -> int:
        for _ in range(3):
            if patch is not None and patch(ctx):
                await ctx.call(payments, Charge("o1"))
            else:
                await ctx.call(inventory, Reserve("o1"))
        return 3

    return rounds


def new_road(ctx: Context) -> bool:
    return ctx.patched("charge")


def only_new(ctx: Context) -> bool:
    ctx.deprecate_patch("charge")
    return True


def test_a_patch_in_a_loop_under_way(cached: bool) -> None:
    """Rounds that were begun by the old code replay as they were; later ones take the new road."""
    driven = Driven(_rounds(), cached=cached)
    driven.start()
    driven.deploy(_rounds(patch=new_road))

    assert kinds(driven.reply()) == ["CallSucceeded", "PatchMarked", "CallMade"]
    assert kinds(driven.reply()) == ["CallSucceeded", "PatchMarked", "CallMade"]
    assert kinds(driven.reply())[-1] == "SagaCompleted"
    assert [c.type for c in driven.sent] == ["inventory.Reserve", "payments.Charge", "payments.Charge"]


def test_a_deprecated_patch(cached: bool) -> None:
    """Sagas that recorded it replay without it; new ones record nothing; those of the old road are held."""
    driven = Driven(_rounds(patch=new_road), cached=cached)
    driven.start()
    driven.deploy(_rounds(patch=only_new))
    assert kinds(driven.reply()) == ["CallSucceeded", "CallMade"]

    fresh = Driven(_rounds(patch=only_new), cached=cached)
    assert kinds(fresh.start()) == ["SagaStarted", "CallMade"]

    old = Driven(_rounds(), cached=cached)
    old.start()
    old.deploy(_rounds(patch=only_new))
    assert kinds(old.reply()) == ["SagaQuarantined", "CallSucceeded"]
    assert "expected operation 1: call of 'inventory.Reserve'" in old.state.hold_reason


def test_rolling_a_patch_back_holds(cached: bool) -> None:
    """Code without the patch meets its mark: told with expected and got, and mended by the code that has it."""
    driven = Driven(_rounds(patch=new_road), cached=cached)
    driven.start()
    driven.deploy(_rounds())

    driven.reply()
    assert "expected operation 1: patch 'charge'" in driven.state.hold_reason
    driven.deploy(_rounds(patch=new_road))
    assert kinds(driven.resume()) == ["SagaResumed", "PatchMarked", "CallMade"]


def test_a_patch_mends_a_broken_program(cached: bool) -> None:
    """Held where it broke, the saga takes the new road on release: that stretch was never recorded."""

    @saga("mended")
    async def broken(ctx: Context, order: Order) -> str:
        await ctx.call(inventory, Reserve("o1"))
        raise ArithmeticError("a mistake")

    @saga("mended")
    async def mended(ctx: Context, order: Order) -> str:
        await ctx.call(inventory, Reserve("o1"))
        if ctx.patched("mend"):
            return "mended"
        raise ArithmeticError("a mistake")

    driven = Driven(broken, cached=cached)
    driven.start()
    driven.reply()
    assert driven.state.hold is Hold.QUARANTINED
    driven.deploy(mended)

    assert kinds(driven.resume()) == ["SagaResumed", "PatchMarked", "SagaCompleted"]


@saga("monthly")
async def monthly(ctx: Context, order: Order) -> None:
    await ctx.call(inventory, Reserve(order.order_id))
    if order.order_id == "wrong":
        ctx.continue_as_new({"nothing": 1})
    ctx.continue_as_new(Order("next"))


def test_a_run_goes_on_as_a_new_one(cached: bool) -> None:
    driven = Driven(monthly, cached=cached)
    driven.start()

    decision = driven.reply()

    assert kinds(decision) == ["CallSucceeded", "SagaContinued"]
    assert decision.events[-1] == e.SagaContinued(b'{"order_id":"next"}')
    assert driven.state.status is Status.CONTINUED


def test_an_input_that_cannot_begin_a_run_holds(cached: bool) -> None:
    """Before the old run is given up."""

    @saga("strict")
    async def strict(ctx: Context, order: Order) -> None:
        ctx.continue_as_new(7)

    driven = Driven(strict, cached=cached)
    driven.start()

    assert driven.state.hold is Hold.QUARANTINED
    assert "ctx.continue_as_new: payload Order" in driven.state.hold_reason


def test_a_delayed_start(cached: bool) -> None:
    """It begins when its time has come; signals that came before are found; a cancel before it lets it go."""
    driven = Driven(race, cached=cached)
    asked = i.StartAsked(driven.origin(), "race", payloads.encode(Order()), not_before=driven.now + 5_000)

    assert kinds(driven.give(asked)) == ["StartDelayed"]
    assert driven.state.status is Status.PENDING
    assert kinds(driven.give(asked)) == [], "the same start again"
    driven.signal("paid")
    assert kinds(driven.wait(4_999)) == []
    assert kinds(driven.wait(1))[:2] == ["SagaStarted", "CallMade"]

    let_go = Driven(race, cached=cached)
    let_go.give(asked)
    assert kinds(let_go.cancel()) == ["SagaCancelled"]


def test_signals_before_a_start_that_asks_for_more(cached: bool) -> None:
    cases: list[tuple[dict[str, Any], list[str]]] = [
        ({"deadline": 9_999_999}, ["SagaConfigured", "SagaStarted"]),
        ({"not_before": 9_999_999}, ["StartDelayed"]),
        ({"not_before": 9_999_999, "deadline": 10_000_000}, ["SagaConfigured", "StartDelayed"]),
    ]
    for fields, expected in cases:
        driven = Driven(race, cached=cached)
        driven.signal("paid")
        asked = i.StartAsked(driven.origin(), "race", payloads.encode(Order()), **fields)

        assert kinds(driven.give(asked))[: len(expected)] == expected


@pytest.mark.parametrize("before", [False, True])
def test_a_run_knows_what_the_one_before_received(cached: bool, before: bool) -> None:
    """Its signals come again and are the same; those that were kept are newer than all that was received."""
    driven = Driven(race, cached=cached)
    if before:
        driven.signal("paid", id_="s3")
    asked = i.StartAsked(driven.origin(), "race", payloads.encode(Order()), signal_ids=["s1", "s2"])

    assert kinds(driven.give(asked))[:2] == ["SignalsRemembered", "SagaStarted"]
    assert kinds(driven.signal("paid", id_="s2")) == []
    assert list(driven.state.signal_ids) == ["s1", "s2", *(["s3"] if before else [])]


@pytest.mark.parametrize("past_it", [False, True])
def test_a_deadline_cancels(cached: bool, past_it: bool) -> None:
    """As a cancel would: past the pivot it is refused, once."""
    driven = Driven(past, cached=cached)
    driven.give(i.StartAsked(driven.origin(), "past", payloads.encode(Order()), deadline=driven.now + 5_000))
    if past_it:
        driven.reply()
        assert "CancelRefused" in kinds(driven.wait(5_000))
        assert "CancelRefused" not in kinds(driven.wait(60_000))
    else:
        assert "CompensationStarted" in kinds(driven.wait(5_000))
        assert "deadline" in driven.state.reason


def test_versions_stand_side_by_side(cached: bool) -> None:
    """New sagas follow the highest; one under way keeps to its own, and is held where nobody runs that any more."""

    @saga("priced", version=1)
    async def old(ctx: Context, order: Order) -> str:
        await ctx.call(inventory, Reserve("o1"))
        return "old"

    @saga("priced", version=2)
    async def new(ctx: Context, order: Order) -> str:
        await ctx.call(payments, Charge("o1"))
        return "new"

    driven = Driven(old, cached=cached)
    driven.start()
    driven.others = [old]
    driven.deploy(new)
    driven.reply()
    assert driven.state.result == b'"old"'

    fresh = Driven(new, cached=cached, others=[old])
    assert kinds(fresh.start()) == ["SagaConfigured", "SagaStarted", "CallMade"]
    fresh.others = []
    fresh.deploy(old)
    fresh.reply()
    assert "expected a saga definition 'priced' in version 2 in this application" in fresh.state.hold_reason


@saga("careful")
async def careful(ctx: Context, order: Order) -> None:
    try:
        await ctx.call(inventory, Reserve("o1"))
    except StepRefused as error:
        raise FailSaga("no stock") from error


def test_a_program_may_say_why_it_fails(cached: bool) -> None:
    driven = Driven(careful, cached=cached)
    driven.start()

    assert kinds(driven.no())[-1] == "SagaFailed"

    assert driven.state.reason == "no stock"


def test_a_partial_undo_goes_on_after_a_pause(cached: bool) -> None:
    """Its compensation is answered while the saga is held: on release the next one goes out."""
    driven = Driven(second_try, cached=cached)
    driven.start()
    driven.reply()
    driven.reply()
    driven.no()
    driven.pause()

    assert kinds(driven.reply()) == ["CallUndone"]

    assert kinds(driven.resume()) == ["SagaResumed", "UndoEnded", "SleepStarted"]
