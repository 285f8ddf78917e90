"""Today's code over recorded histories: what a deployment would hold is found before it, with the author's line."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kompensate.orchestrator import Application, Context, Saga, Step, saga
from kompensate.orchestrator.client_errors import DamagedSaga
from kompensate.orchestrator.definitions.saga import AsyncSaga
from kompensate.orchestrator.kernel.errors import Rejected
from kompensate.orchestrator.kernel.tables import Hold
from kompensate.orchestrator.reading.recordings import BadRecording, Recording, read_file
from kompensate.orchestrator.replay import Difference, replay
from tests.fixtures.driving import (
    CHECKOUT,
    LIMITS,
    SERVICES,
    Driven,
    Order,
    Release,
    Reserve,
    Ship,
    inventory,
    payments,
    shipping,
)
from tests.fixtures.lives import paid, pay, recorded
from tests.fixtures.programs import SIGNALS, perform, programs


def application(*sagas: Saga | AsyncSaga) -> Application:
    return Application("shop", list(sagas), services=SERVICES, limits=LIMITS)


def differences(today: Saga | AsyncSaga, *histories: Recording) -> list[Difference]:
    return list(replay(application(today), histories))


def unpaid(driven: Driven) -> Driven:
    driven.start()
    driven.reply()
    driven.wait(60_000)
    return driven


def undone(driven: Driven) -> Driven:
    unpaid(driven)
    driven.reply()
    return driven


def cancelled(driven: Driven) -> Driven:
    driven.start()
    driven.reply()
    driven.cancel()
    driven.reply()
    return driven


def paused(driven: Driven) -> Driven:
    driven.start()
    driven.pause()
    driven.reply()
    return driven


def early(driven: Driven) -> Driven:
    driven.signal()
    return driven


LIVES: list[Callable[[Driven], Driven]] = [
    *(lambda d, stop=stop: paid(d, stop) for stop in ("reserved", "paid", "slept", "shipped", "")),
    *(unpaid, undone, cancelled, paused, early),
]


@pytest.mark.parametrize("life", range(len(LIVES)))
def test_the_same_code_has_no_difference(life: int) -> None:
    """Wherever a saga stands: under way at each wait, turned back, held, pending, or at each of its ends."""
    history = recorded(LIVES[life](Driven(pay)))

    assert differences(pay, history) == []
    (again,) = read_file(StringIO(history.line()), "file")
    assert again == history


def test_a_history_may_be_folded_and_have_more_beside_it() -> None:
    """A run's JSON over many lines reads as the same; so does one with fields that are for somebody else."""
    history = recorded(paid(Driven(pay)))
    folded = json.dumps({**json.loads(history.line()), "in words": ["1 it began"]}, indent=1)

    assert list(read_file(StringIO(folded + "\n"), "file")) == [history]


def test_a_declared_saga_carries_its_plan() -> None:
    """A history follows the plan that stands in its line; without it, or without its step, it differs."""
    driven = Driven(CHECKOUT)
    driven.start()
    driven.reply()
    history = recorded(driven)
    (again,) = read_file(StringIO(history.line()), "file")
    shorter = Saga("checkout", Order, [Step("reserve", inventory, Reserve, undo=Release)])

    assert differences(CHECKOUT, again) == []
    (found,) = differences(shorter, again)
    assert "expected step 'charge' with command 'payments.Charge'" in found.reason
    (found,) = differences(shorter, replace(again, plans={}))
    assert "expected the plan" in found.reason


@saga("pay")
async def sleeps_first(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    await ctx.sleep(1)
    return "never paid"


@saga("pay")
async def returns_early(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    return "at once"


@saga("pay")
async def goes_on(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    await ctx.receive("paid", timeout=60)
    await ctx.sleep(1)
    await ctx.call(shipping, Ship("o1"), kind="pivot")
    await ctx.sleep(2)
    return "later"


@saga("pay")
async def asks_more(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    await ctx.receive("paid", timeout=60)
    await ctx.sleep(1)
    await ctx.call(shipping, Ship("o1"), kind="pivot")
    ctx.call(payments, Release("o1"), kind="retriable")
    return "not awaited"


@saga("pay")
async def forgives(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    try:
        await ctx.receive("paid", timeout=60)
    except TimeoutError:
        await ctx.receive("paid at last")
    return "later"


@saga("pay")
async def breaks(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    return order.nothing  # type: ignore[attr-defined,no-any-return]  # that is the mistake


CHANGED: list[tuple[Callable[[Driven], Driven], AsyncSaga, int, str, str, str]] = [
    (
        *(lambda d: paid(d, "paid"), sleeps_first, 4, "ReceiveStarted"),
        *("replay: expected operation 2: receive of 'paid', got operation 2: sleep", "await ctx.sleep(1)"),
    ),
    (
        *(paid, returns_early, 4, "ReceiveStarted"),
        *("replay: expected operation 2: receive of 'paid', got the program returned", "await ctx.call(inventory"),
    ),
    (paid, goes_on, 11, "SagaCompleted", "expected the program to return, got a program that goes on", "ctx.sleep(2)"),
    (paid, asks_more, 11, "SagaCompleted", "got operation 5: call of 'payments.Release'", 'kind="pivot"'),
    (undone, forgives, 6, "CompensationStarted", "expected the program to raise: not paid, got", "paid at last"),
    (lambda d: paid(d, "paid"), breaks, 4, "ReceiveStarted", "got the program ended: the program raised Attr", ""),
]


@pytest.mark.parametrize("number", range(len(CHANGED)))
def test_changed_code_differs_at_an_event_and_a_line(number: int) -> None:
    """Expected and got, the number of the event at which they part, and the author's line: also where a saga ended
    otherwise than today's code would."""
    life, today, event, kind, reason, line = CHANGED[number]
    history = recorded(life(Driven(pay)))

    (found,) = differences(today, history)

    assert (found.event, found.kind) == (event, kind)
    assert reason in found.reason
    file, _, at = (found.where or found.reason.rpartition("(")[2].rstrip(")")).rpartition(":")
    assert file == __file__
    assert line in Path(file).read_text().splitlines()[int(at) - 1]
    assert str(found).startswith(f"saga 'order-1' (pay), event {event} ({kind}): ")


def test_a_held_saga_is_asked_whether_it_would_go_on() -> None:
    """Of a saga whose program broke, today's code tells whether it is mended: that is what resume would do."""
    driven = Driven(breaks)
    driven.start()
    driven.reply()
    history = recorded(driven)

    (found,) = differences(breaks, history)

    assert "expected a program that can go on, got the program raised AttributeError" in found.reason
    assert differences(pay, history) == []


@saga("pay", version=2)
async def second_version(ctx: Context, order: Order) -> str:
    await ctx.sleep(1)
    return "by another road"


@saga("pay")
async def on_and_on(ctx: Context, order: Order) -> str:
    if order.order_id == "o1":
        ctx.continue_as_new(Order("o2"))
    return "end"


@saga("pay")
async def at_its_end(ctx: Context, order: Order) -> str:
    return "end"


def test_a_history_is_replayed_by_the_version_it_follows() -> None:
    """Versions side by side: each history by its own; one whose version is gone says which is missing."""
    first, second = recorded(paid(Driven(pay), "slept")), Driven(second_version)
    second.start()
    both = Application("shop", [pay, second_version], services=SERVICES)

    assert list(replay(both, [first, recorded(second)])) == []
    (found,) = differences(pay, recorded(second))
    assert found.reason == "expected a saga definition 'pay' in version 2 in this application, got none"


@saga("pay")
async def patched(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    if ctx.patched("no-waiting"):
        return "at once"
    await ctx.receive("paid", timeout=60)
    return "paid"


def test_a_patch_is_no_difference() -> None:
    """A history from before it keeps to the old road; what the old road has no more is one still."""
    history = recorded(paid(Driven(pay), "paid"))

    assert differences(patched, history) == []
    assert differences(returns_early, history) != []


def test_a_run_that_went_on_as_a_new_one() -> None:
    """It has to go on in today's code too."""
    driven = Driven(on_and_on)
    driven.start()
    history = recorded(driven)

    assert history.status == "continued"
    assert differences(on_and_on, history) == []
    (found,) = differences(at_its_end, history)
    assert (found.kind, found.expected, found.got) == ("SagaContinued", "the program to continue as new", "its return")


def test_a_definition_that_is_gone_is_a_difference() -> None:
    """So is damage; a history is never passed over."""
    history = recorded(paid(Driven(pay)))
    damaged = replace(history, pages=(history.pages[0][:-9], *history.pages[1:]))

    (found,) = differences(CHECKOUT, history)
    assert found.reason == "expected a saga definition 'pay' in this application, got none"
    (found,) = differences(pay, damaged)
    assert "its pages are damaged" in found.reason
    with pytest.raises(DamagedSaga):
        damaged.recorded()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", "file: expected a recorded history, as `kompensate history --save` writes it, got '{'"),
        ("[]", "file:2: expected a recorded history"),
        ('{"format": "kompensate history 9"}', "expected format 'kompensate history 1', got 'kompensate history 9'"),
        (
            '{"format": "kompensate history 1", "app": "a", "saga_id": "b", "plans": {}, "pages": ["="]}',
            "file:2: expected a recorded history",
        ),
        ('{"format": "kompensate history 1", "pages": []}', "file:2: expected a recorded history"),
        ("{}", "KeyError: 'format'"),
    ],
)
def test_lines_that_are_none_are_named(line: str, text: str) -> None:
    """A file that is no recording is told with its line, not taken for an empty one."""
    with pytest.raises(BadRecording) as error:
        list(read_file(StringIO("\n" + line), "file"))

    assert text in str(error.value)


ACTS: list[Callable[[Driven], object]] = [
    *([lambda d: d.reply() if d.sent else None] * 4),
    *(lambda d, outcome=outcome: d.no(outcome=outcome) if d.sent else None for outcome in ("refused", "failed")),
    *([lambda d: d.wait_until_due() if d.state.next_due() is not None else None] * 3),
    *(lambda d, name=name: d.signal(name) for name in SIGNALS),
    *(lambda d: d.cancel(), lambda d: d.pause(), lambda d: d.resume()),
]


@pytest.mark.slow
@given(programs, st.lists(st.sampled_from(ACTS), max_size=25))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_life_of_any_program_differs_from_itself(program: list[Any], acts: list[Callable[[Driven], object]]) -> None:
    """Whatever happened to it so far; only one that is held because its program broke would be held again."""
    driven = Driven(perform)
    driven.start(program)
    for act in acts:
        with suppress(Rejected):
            act(driven)

    for found in differences(perform, recorded(driven)):
        assert driven.state.hold is Hold.QUARANTINED, found
        assert "expected a program that can go on" in found.reason
