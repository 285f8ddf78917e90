"""Behaviours that durable execution is expected to have, told of sagas under test: see docs/behaviours.md.

Run them in every mode with `--kompensate-modes=all`, as ./check does.
"""

from collections.abc import Callable
from typing import Any

import pytest

from kompensate.orchestrator import Application, Context, RetryPolicy, StepFailed, saga
from kompensate.orchestrator.kernel import context
from kompensate.orchestrator.testing import SagaTest, done, failed, in_turn, late, never, refused, twice
from tests.fixtures.driving import CHECKOUT, Charge, Confirm, Order, Refund, Release, Reserve, Ship, inventory, payments

Kit = Callable[..., SagaTest]
DAY = 86_400.0
UNDOS: dict[type, list[str]] = {Charge: ["reserve"], Ship: ["charge", "reserve"]}


def weigh(order_id: str) -> int:
    return len(order_id)


@saga("parcel")
async def parcel(ctx: Context, order: Order) -> str:
    """A child: one step, then a word from outside."""
    await ctx.call(inventory, Reserve(order.order_id), undo=Release(order.order_id))
    word: str = await ctx.receive("word")
    return word


@saga("family")
async def family(ctx: Context, order: Order) -> str:
    await ctx.call(payments, Charge(order.order_id), undo=Refund(order.order_id))
    word: str = await ctx.child(parcel, order)
    return word


@saga("grandparents")
async def grandparents(ctx: Context, order: Order) -> str:
    try:
        word: str = await ctx.child(family, order)
    except StepFailed as error:
        return f"told: {error.reason}"
    return word


@saga("blocked")
async def blocked(ctx: Context, on: str) -> None:
    """Has done one step, and then waits for what its input says."""
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    match on:
        case "call":
            await ctx.call(payments, Charge("o1"), undo=Refund("o1"))
        case "sleep":
            await ctx.sleep(DAY)
        case "receive":
            await ctx.receive("word")
        case "child":
            await ctx.child(parcel, Order("o2"))
        case "gather":
            await ctx.gather(ctx.sleep(DAY), ctx.receive("word"))
        case "select":
            await ctx.select(slept=ctx.sleep(DAY), word=ctx.receive("word"))
        case _:
            await ctx.run(weigh, "o1")
            await ctx.call(payments, Charge("o1"), undo=Refund("o1"), step="second")


APP = Application("shop", [CHECKOUT, parcel, family, grandparents, blocked], services=[inventory, payments])


@pytest.fixture
def shop(saga_test: Kit) -> SagaTest:
    return saga_test(APP)


@pytest.mark.parametrize("command", [Reserve, Charge, Ship])
def test_a_failure_at_every_step(shop: SagaTest, command: type) -> None:
    """What was done before it is undone once, in reverse, and nothing else."""
    shop.on(command, refused("no"))
    order = shop.start(CHECKOUT, Order())
    shop.run()

    order.assert_compensated("no")
    assert order.undone == UNDOS.get(command, [])
    assert [seen.step for seen in order.seen if seen.phase == "compensate"] == UNDOS.get(command, [])


def test_an_undo_that_fails_three_times_and_then_succeeds(shop: SagaTest) -> None:
    """It is tried again, later each time."""
    shop.on(Charge, refused("no"))
    shop.on(Release, in_turn(failed("down"), failed("down"), failed("down"), done()))
    order = shop.start(CHECKOUT, Order())
    shop.run()

    order.assert_compensated("no")
    assert [seen.attempt for seen in order.seen if seen.phase == "compensate"] == [1, 2, 3, 4]


def test_an_undo_that_never_succeeds_stops_nobody_else(shop: SagaTest) -> None:
    """Its saga is held with the reason; its neighbours end."""
    shop.on(Charge, lambda charge: refused("no") if charge.order_id == "bad" else done())
    shop.on(Release, failed("the warehouse is gone"))
    bad, good = shop.start(CHECKOUT, Order("bad")), shop.start(CHECKOUT, Order("good"))
    shop.run()

    bad.assert_held("the warehouse is gone")
    good.assert_completed()


def test_past_the_pivot_it_only_goes_forward(shop: SagaTest) -> None:
    """However often the step after it fails."""
    shop.on(Confirm, in_turn(*[failed("down")] * 20, done()))
    order = shop.start(CHECKOUT, Order())
    shop.run()

    order.assert_completed()
    assert order.undone == []
    assert [seen.attempt for seen in order.seen if seen.step == "confirm"] == list(range(1, 22))


@pytest.mark.parametrize("on", ["call", "sleep", "receive", "child", "gather", "select", "run"])
def test_a_cancel_reaches_whatever_a_saga_waits_for(shop: SagaTest, on: str) -> None:
    """And what was done is undone; a call that is out counts as done."""
    shop.on(Charge, never())
    found = shop.start(blocked, on, saga_id="s1")
    found.cancel("enough", after="Reserve", delay=60)
    shop.run()

    found.assert_cancelled("enough")
    out = {"call": ["Charge"], "run": ["second"], "child": ["parcel"]}.get(on, [])
    assert found.undone == [*out, "Reserve"]
    if on == "child":
        shop.saga("s1.2").assert_cancelled()


def test_a_cancel_before_the_start(shop: SagaTest) -> None:
    """Nothing was sent, and nothing ever is."""
    order = shop.start(CHECKOUT, Order(), delay=0, start_at=shop.now.replace(year=shop.now.year + 1))
    order.cancel("changed my mind", delay=5)
    shop.run()

    order.assert_cancelled()
    assert order.commands == []


def test_a_cancel_after_the_last_answer_is_too_late(shop: SagaTest) -> None:
    """A saga that has completed stays so, and the cancel is told that it came too late."""
    order = shop.start(CHECKOUT, Order())
    order.cancel("late", after="confirm")
    shop.run()

    order.assert_completed()
    assert "has ended" in order.quarantined[0]


def test_a_cancel_while_the_last_step_is_out_stays(shop: SagaTest) -> None:
    """Its answer comes when the saga is cancelled already: it is undone with the rest."""
    shop.on(Charge, late(10))
    found = shop.start(blocked, "call")
    found.cancel("enough", after="Reserve", delay=5)
    shop.run()

    found.assert_cancelled("enough")
    assert found.undone == ["Charge", "Reserve"]


@pytest.mark.parametrize("word_first", [True, False])
def test_a_cancel_and_the_childs_end_at_once(shop: SagaTest, word_first: bool) -> None:
    """One of them is first: either the child undid all, or it completed and stands whatever its parent does."""
    found = shop.start(family, Order(), saga_id="s1")
    shop.run()
    if word_first:
        shop.saga("s1.2").signal("word", "yes")
        found.cancel("enough")
    else:
        found.cancel("enough")
        shop.saga("s1.2").signal("word", "yes")
    shop.run()

    child = shop.saga("s1.2")
    if child.status == "cancelled":
        found.assert_cancelled("enough")
        assert found.undone == ["parcel", "Charge"]
        assert child.undone == ["Reserve"]
    else:
        child.assert_completed("yes")
        assert found.status == "completed" or found.undone == ["Charge"]
        assert not found.hold


def test_a_reason_travels_up_through_callers(shop: SagaTest) -> None:
    """From the participant's words in a grandchild to the one who asked; each one on the way has undone its own."""
    shop.on(Reserve, refused("sold out"))
    found = shop.start(grandparents, Order(), saga_id="s1")
    shop.run()

    assert found.status == "completed"
    assert "sold out" in found.result
    shop.saga("s1.1").assert_compensated("sold out")
    shop.saga("s1.1.2").assert_compensated("sold out")
    assert shop.saga("s1.1").undone == ["Charge"]


def test_waits_that_are_fed_in_the_other_order(saga_test: Kit) -> None:
    """Each receive gets the signal of its own name, whichever came first, also before it was waited for."""

    @saga("pair")
    async def pair(ctx: Context, _: None) -> list[str]:
        found: list[str] = await ctx.gather(ctx.receive("a"), ctx.receive("b"))
        return [*found, await ctx.receive("early")]

    test = saga_test(pair)
    found = test.start(pair)
    test.run()
    for name in ("early", "b", "a"):
        found.signal(name, name.upper())
    test.run()

    found.assert_completed(["A", "B", "EARLY"])


def test_a_signal_is_received_once(saga_test: Kit) -> None:
    """Over a time-out, a retry of what follows, and its own coming again, within a batch or later."""

    @saga("receives")
    async def receives(ctx: Context, _: None) -> list[Any]:
        try:
            first = await ctx.receive("n", timeout=10)
        except TimeoutError:
            first = await ctx.receive("n")
        await ctx.call(payments, Charge("o1"), undo=Refund("o1"))
        return [first, await ctx.receive("n")]

    test = saga_test(receives, services=[payments])
    test.on(Charge, in_turn(failed("down"), done()))
    found = test.start(receives)
    test.advance(30)
    for _ in range(2):
        found.signal("n", 1, signal_id="first")
    test.run()
    found.assert_waits_for("n")
    found.signal("n", 1, signal_id="first")
    found.signal("n", 2, signal_id="second")
    test.run()

    found.assert_completed([1, 2])


def test_a_timer_that_nobody_waits_for_any_more(saga_test: Kit) -> None:
    """What a select left asleep does nothing after the saga's end."""

    @saga("impatient")
    async def impatient(ctx: Context, _: None) -> str:
        name, _nothing = await ctx.select(short=ctx.sleep(1), long=ctx.sleep(DAY))
        return name

    test = saga_test(impatient)
    found, began = test.start(impatient), test.now
    test.run()
    found.assert_completed("short")
    events = len(found.events)
    test.advance(2 * DAY)

    assert len(found.events) == events
    assert (test.now - began).total_seconds() == 1 + 2 * DAY


def test_many_sleeps(saga_test: Kit) -> None:
    """Each ends at its time, also when they were asked for at once, in whatever order."""

    @saga("sleepers")
    async def sleepers(ctx: Context, count: int) -> int:
        began = ctx.now()
        await ctx.gather(*(ctx.sleep(seconds) for seconds in range(count, 0, -1)))
        return ctx.now() - began

    test = saga_test(sleepers)
    found = test.start(sleepers, 60)
    test.run()

    found.assert_completed(60_000)
    assert found.events.count("SleepEnded") == 60


def test_tries_are_spaced_and_nothing_waits_after_the_last(saga_test: Kit) -> None:
    """Three attempts, two pauses that grow; then the step has failed at once. A refusal is not tried again."""

    @saga("tries")
    async def tries(ctx: Context, _: None) -> str:
        retry = RetryPolicy(initial_interval=10, backoff_coefficient=3, maximum_attempts=3)
        try:
            await ctx.call(payments, Charge("o1"), undo=Refund("o1"), retry=retry)
        except StepFailed as error:
            return error.reason
        return "done"

    test = saga_test(tries, services=[payments])
    test.on(Charge, failed("down"))
    found = test.start(tries)
    test.run()

    found.assert_completed("down")
    at = [seen.at for seen in found.seen]
    assert len(at) == 3
    assert 5_000 <= at[1] - at[0] <= 10_000 < at[2] - at[1] <= 30_000
    assert round(test.now.timestamp() * 1000) == at[2], "the end came with the last answer"

    test.on(Charge, refused("no money"))
    refusal = test.start(tries)
    test.run()
    refusal.assert_compensated("no money")
    assert len(refusal.seen) == 1


def test_silence_is_not_a_new_attempt(shop: SagaTest) -> None:
    """Without an answer the same command goes out again; its doubled answer counts once."""
    shop.on(Charge, twice(late(40)))
    order = shop.start(CHECKOUT, Order())
    shop.run()

    order.assert_completed()
    charge = next(seen for seen in order.seen if seen.step == "charge")
    assert (charge.attempt, charge.deliveries > 1) == (1, True)
    assert order.done.count("charge") == 1


def test_an_answer_after_its_compensation_began(shop: SagaTest) -> None:
    """The step was given up in doubt and is undone; what comes late is noted, and changes nothing."""
    shop.on(Charge, late(3 * DAY))
    order = shop.start(CHECKOUT, Order())
    shop.run()

    order.assert_compensated("no answer")
    assert order.undone == ["charge", "reserve"]
    assert order.done == ["reserve"]


def test_a_slow_saga_holds_nobody_up(shop: SagaTest) -> None:
    """On one partition: one waits for a day, one breaks and is held, and ten others end meanwhile."""
    shop.on(Charge, lambda charge: late(20) if charge.order_id == "slow" else done())
    slow = shop.start(CHECKOUT, Order("slow"))
    others = [shop.start(CHECKOUT, Order(f"o{n}")) for n in range(10)]
    shop.run_until_idle()

    assert slow.waiting == ["charge"]
    for other in others:
        other.assert_completed()


def test_a_history_that_grows_too_long_begins_anew(saga_test: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The saga asks whether its history is long, and goes on as a new run; what waits for it is not lost."""
    monkeypatch.setattr(context, "EVENTS_SUGGESTED", 30)

    @saga("counter")
    async def counter(ctx: Context, left: int) -> str:
        while left:
            left -= 1
            await ctx.sleep(1)
            if ctx.continue_as_new_suggested:
                ctx.continue_as_new(left)
        word: str = await ctx.receive("word")
        return word

    test = saga_test(counter)
    found = test.start(counter, 100)
    found.signal("word", "kept")
    test.run()

    found.assert_completed("kept")
    assert len(found.events) < 40
    assert found.events.count("SleepEnded") < 30


def test_a_signal_that_comes_again_in_the_next_run(saga_test: Kit) -> None:
    """Its id was received by the run before: it is the same signal still."""

    @saga("runs")
    async def runs(ctx: Context, total: int) -> int:
        total += await ctx.receive("n")
        if total < 10:
            ctx.continue_as_new(total)
        return total

    test = saga_test(runs)
    found = test.start(runs, 0)
    for signal_id, number in (("first", 1), ("first", 1), ("second", 9)):
        found.signal("n", number, signal_id=signal_id)
        test.run()

    found.assert_completed(10)
