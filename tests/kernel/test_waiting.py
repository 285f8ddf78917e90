"""Stories of waiting: sleeps, signals, holds."""

import pytest

from kompensate.orchestrator import Context, saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.decide import Decision
from kompensate.orchestrator.kernel.errors import Rejected
from kompensate.orchestrator.kernel.tables import CallStatus, Hold, Status
from tests.fixtures.driving import START_TIME, Driven, Order, Release, Reserve, commands, inventory, kinds


@saga("sleeper")
async def sleeper(ctx: Context, order: Order) -> None:
    await ctx.sleep(90 * 24 * 3600)


def test_a_sleep_ends_at_its_time_and_not_before() -> None:
    """Ninety days are one event; a millisecond early nothing happens."""
    driven = Driven(sleeper)
    driven.start()

    assert driven.state.next_due() == START_TIME + 90 * 24 * 3_600_000
    assert driven.wait(90 * 24 * 3_600_000 - 1) == Decision()
    assert kinds(driven.wait(1)) == ["SleepEnded", "SagaCompleted"]


def test_a_clock_that_is_set_back() -> None:
    """An hour back: nothing is due early, and its time comes once."""
    driven = Driven(sleeper)
    driven.start()
    driven.wait(60_000)

    assert driven.wait(-3_600_000) == Decision()
    assert driven.wait(90 * 24 * 3_600_000 + 3_600_000 - 60_000 - 1) == Decision()
    assert kinds(driven.wait(1)) == ["SleepEnded", "SagaCompleted"]
    assert driven.wait(-1) == driven.wait(2) == Decision()


@saga("restless")
async def restless(ctx: Context, order: Order) -> None:
    while True:
        await ctx.sleep(0)


@saga("asking")
async def asking(ctx: Context, order: Order) -> None:
    while True:
        try:
            await ctx.receive("paid", timeout=0)
        except TimeoutError:
            continue


@pytest.mark.parametrize("definition", [restless, asking])
def test_a_program_that_waits_for_no_time_gives_its_turn_back(definition: object) -> None:
    """A loop without a pause is one round a turn: others come in between, and nothing hangs."""
    driven = Driven(definition)  # type: ignore[arg-type]  # both are sagas
    driven.start()

    for _ in range(5):
        assert len(driven.wait(0).events) == 2

    assert driven.state.next_due() == driven.now


@saga("waiter")
async def waiter(ctx: Context, order: Order) -> list[str]:
    first = await ctx.receive("paid", type=str)
    try:
        second = await ctx.receive("paid", timeout=10, type=str)
    except TimeoutError as error:
        second = str(error)
    return [first, second]


def test_signals_are_received_in_order() -> None:
    """Each receive gets the oldest signal of its name that nobody had, others are kept."""
    driven = Driven(waiter)
    driven.start()

    assert kinds(driven.signal("shipped", 1)) == ["SignalKept"]
    assert kinds(driven.signal("paid", "a")) == ["SignalKept", "SignalReceived", "ReceiveStarted"]
    assert kinds(driven.signal("paid", "b")) == ["SignalKept", "SignalReceived", "SagaCompleted"]
    assert driven.state.result == b'["a","b"]'
    assert [s.name for s in driven.state.signals] == ["shipped"]


def test_a_receive_times_out() -> None:
    """After its time the program hears of a TimeoutError that names the signal."""
    driven = Driven(waiter)
    driven.start()
    driven.signal("paid", "a")

    assert kinds(driven.wait(10_000)) == ["ReceiveTimedOut", "SagaCompleted"]
    assert driven.state.result == b'["a","no signal \'paid\' in time"]'


def test_signal_and_time_out_the_first_wins() -> None:
    """Due but not yet fired, a signal that comes first is received; the timer then finds nothing."""
    driven = Driven(waiter)
    driven.start()
    driven.signal("paid", "a")
    driven.now += 10_000

    assert kinds(driven.signal("paid", "b")) == ["SignalKept", "SignalReceived", "SagaCompleted"]
    assert driven.wait(0) == Decision()


def test_signals_before_the_start() -> None:
    """Signals may come first: the saga is pending, and reads them when it starts."""
    driven = Driven(waiter)
    assert kinds(driven.signal("paid", "a")) == ["SignalKept"]
    assert driven.state.status is Status.PENDING
    assert driven.wait(1_000) == Decision()
    driven.signal("paid", "b")

    decision = driven.start()

    assert kinds(decision)[0] == "SagaStarted"
    assert kinds(decision)[-1] == "SagaCompleted"
    assert driven.state.result == b'["a","b"]'


def test_the_same_signal_again() -> None:
    """A signal id that was seen, also one long received, changes nothing."""
    driven = Driven(waiter)
    driven.start()
    driven.signal("paid", "a", id_="s1")

    assert driven.signal("paid", "a", id_="s1") == Decision()


def test_a_signal_after_the_end() -> None:
    """Nobody will read it: rejected, with how the saga ended."""
    driven = Driven()
    driven.start()
    driven.no()

    with pytest.raises(Rejected, match="expected a saga under way, got a signal 'paid' for one that is compensated"):
        driven.signal()


def test_a_signal_while_it_goes_back_is_kept() -> None:
    """Kept, though nobody will read it: it is no reason to stop undoing."""
    driven = Driven()
    driven.start()
    driven.reply()
    driven.no()

    assert kinds(driven.signal()) == ["SignalKept"]
    assert kinds(driven.reply()) == ["CallUndone", "SagaCompensated"]


@saga("two-receives")
async def two_receives(ctx: Context, order: Order) -> list[str]:
    waiting = [ctx.receive(name, type=str) for name in ("b", "a", "b", "c")]
    return [await one for one in waiting]


def test_signals_that_came_during_a_hold_are_received_on_resume() -> None:
    """All of them, in the order of the receives that wait for them."""
    driven = Driven(two_receives)
    driven.start()
    driven.pause()
    for name, value in (("a", "1"), ("b", "2"), ("c", "3"), ("b", "4")):
        assert kinds(driven.signal(name, value)) == ["SignalKept"]

    decision = driven.resume()

    received = [event.number for event in decision.events if isinstance(event, e.SignalReceived)]
    assert received == [1, 2, 3, 4]
    assert driven.state.result == b'["2","1","4","3"]'


def test_a_paused_saga_keeps_replies_and_sends_nothing() -> None:
    """A reply during a pause is recorded; on resume the saga goes on from it."""
    driven = Driven()
    driven.start()
    assert driven.pause("maintenance").events == [e.SagaPaused("maintenance")]

    assert driven.reply().events == [e.CallSucceeded(1, b"null")]
    assert driven.wait(1_000_000) == Decision()
    assert driven.state.next_due() is None
    assert driven.pause() == Decision()
    decision = driven.resume()

    assert kinds(decision) == ["SagaResumed", "CallMade"]
    assert commands(decision) == ["forward charge#1"]
    assert driven.resume() == Decision()


@pytest.mark.parametrize("outcome", ["refused", "failed"])
def test_a_paused_saga_keeps_bad_news_too(outcome: str) -> None:
    """A refusal during a pause turns the saga back on resume; a failure is tried again then."""
    driven = Driven()
    driven.start()
    driven.pause()
    driven.no(outcome=outcome)

    decision = driven.resume()

    if outcome == "refused":
        assert kinds(decision) == ["SagaResumed", "CompensationStarted", "SagaCompensated"]
    else:
        assert kinds(decision) == ["SagaResumed"]
        assert commands(driven.wait_until_due()) == ["forward reserve#2"]


def test_time_goes_on_during_a_pause() -> None:
    """What was due meanwhile is due at once on resume: here the step's whole time is over."""
    driven = Driven()
    driven.start()
    driven.pause()
    driven.now += 400_000
    driven.resume()

    decision = driven.wait(0)

    assert kinds(decision)[-3:] == ["CallInDoubt", "CompensationStarted", "UndoSent"]


def test_a_pause_while_it_goes_back() -> None:
    """The compensation that is out may be answered; the next one waits for the resume."""
    driven = Driven()
    driven.start()
    driven.reply()
    driven.reply()
    driven.no()
    driven.pause()

    assert kinds(driven.reply()) == ["CallUndone"]
    assert commands(driven.resume()) == ["compensate reserve#1"]
    driven.pause()
    assert kinds(driven.no()) == ["UndoFailed"]
    assert kinds(driven.resume()) == ["SagaResumed"]
    assert commands(driven.wait_until_due()) == ["compensate reserve#2"]
    assert kinds(driven.reply()) == ["CallUndone", "SagaCompensated"]


def test_the_last_undo_is_answered_during_a_pause() -> None:
    """On resume nothing is left to undo: that is the end."""
    driven = Driven()
    driven.start()
    driven.reply()
    driven.no()
    driven.pause()
    driven.reply()

    assert kinds(driven.resume()) == ["SagaResumed", "SagaCompensated"]


def test_a_pending_saga_can_be_paused() -> None:
    """Its start is recorded, and it begins on resume."""
    driven = Driven()
    driven.signal()
    driven.pause()

    assert kinds(driven.start()) == ["SagaStarted"]
    assert commands(driven.resume()) == ["forward reserve#1"]


def test_a_pending_saga_can_be_resumed() -> None:
    """Released before its start, it simply starts later."""
    driven = Driven()
    driven.signal()
    driven.pause()

    assert kinds(driven.resume()) == ["SagaResumed"]
    assert kinds(driven.start()) == ["SagaStarted", "CallMade"]


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_holding_what_is_not_there(verb: str) -> None:
    """A saga that does not exist, or has ended, cannot be held or released."""
    driven = Driven()
    with pytest.raises(Rejected, match=f"got a {verb} for one that does not exist"):
        getattr(driven, verb)()
    driven.start()
    driven.no()
    with pytest.raises(Rejected, match=f"got a {verb} for one that is compensated"):
        getattr(driven, verb)()


@saga("racing")
async def racing(ctx: Context, order: Order) -> list[int]:
    ctx.sleep(5)
    ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    ctx.receive("paid", timeout=5)
    await ctx.sleep(20)
    return [ctx.now()]


def test_timers_fire_in_the_order_of_their_times() -> None:
    """After an outage everything due fires in one turn: the earliest first, then by number."""
    driven = Driven(racing)
    driven.start()

    decision = driven.wait(60_000)

    assert kinds(decision) == ["SleepEnded", "ReceiveTimedOut", "CommandResent", "SleepEnded"]
    assert [getattr(event, "number", None) for event in decision.events] == [1, 3, 2, 4]
    assert driven.state.hold is not Hold.QUARANTINED
    assert driven.state.calls[2].status is CallStatus.SENT
    assert kinds(driven.reply()) == ["CallSucceeded", "SagaCompleted"]
