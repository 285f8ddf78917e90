"""Recorded histories: saved by one test, replayed by the code of another day."""

from base64 import b64encode
from collections.abc import Callable
from json import dumps, loads
from pathlib import Path
from typing import Any

import pytest

from kompensate.orchestrator import Application, Context, Saga, Service, Step, saga
from kompensate.orchestrator.definitions.saga import AsyncSaga
from kompensate.orchestrator.replay import BadRecording, read
from kompensate.orchestrator.sagas.journal import read_pages
from kompensate.orchestrator.testing import SagaTest, assert_replays, refused
from tests.fixtures.driving import (
    APP,
    CHECKOUT,
    Charge,
    Confirm,
    Order,
    Refund,
    Release,
    Reserve,
    Ship,
    inventory,
    payments,
    shipping,
)

A = Service("a")


def app(*sagas: Saga | AsyncSaga) -> Application:
    return Application(APP, sagas, services=[A])


def program(body: Callable[[Context], Any]) -> AsyncSaga:
    """A saga `written` with this body."""

    @saga("written")
    async def written(ctx: Context, _: None) -> Any:
        return await body(ctx)

    return written


async def yesterday(ctx: Context) -> str:
    await ctx.call(A, Reserve("o1"))
    await ctx.receive("go")
    return "done"


def recorded(path: Path, body: Any = yesterday, *, ended: bool = True) -> Path:
    test = SagaTest(app(program(body)))
    found = test.start("written", saga_id="w-1")
    test.run()
    if ended:
        found.signal("go")
        test.run()
        found.assert_completed("done")
    found.save_history(path / "w-1.json")
    return path / "w-1.json"


@pytest.mark.parametrize("ended", [True, False])
def test_a_history_replays_with_the_code_that_made_it(tmp_path: Path, ended: bool) -> None:
    """Of sagas that ended and of sagas under way."""
    assert_replays(recorded(tmp_path, ended=ended), app(program(yesterday)))


async def another_step(ctx: Context) -> str:
    await ctx.call(A, Charge("o1"))
    await ctx.receive("go")
    return "done"


async def goes_on(ctx: Context) -> str:
    await ctx.call(A, Reserve("o1"))
    await ctx.receive("go")
    await ctx.sleep(1)
    return "done"


async def returns_early(ctx: Context) -> str:
    await ctx.call(A, Reserve("o1"))
    return "done"


async def breaks(ctx: Context) -> str:
    await ctx.call(A, Reserve("o1"))
    await ctx.receive("go")
    raise KeyError("go")


@pytest.mark.parametrize(
    ("today", "expected"),
    [
        (
            another_step,
            "expected operation 1: call of 'a.Reserve' as step 'Reserve', got operation 1: call of 'a.Charge'",
        ),
        (returns_early, "expected operation 2: receive of 'go', got the program returned"),
        (goes_on, "expected the program to return, got a program that goes on"),
        (breaks, "expected the program to return, got KeyError: 'go'"),
    ],
)
def test_code_that_does_otherwise_is_found(tmp_path: Path, today: Any, expected: str) -> None:
    """With expected and got, and the history in words."""
    path = recorded(tmp_path)

    with pytest.raises(AssertionError) as caught:
        assert_replays(path, app(program(today)))

    assert expected in str(caught.value)
    assert "2 call made: Reserve (a.Reserve, compensatable)" in str(caught.value)


def test_a_declared_sagas_history_carries_its_plan(tmp_path: Path) -> None:
    """Today's steps may be more: the saga follows those it started with. One that is gone is found."""
    test = SagaTest(app(CHECKOUT))
    test.on(Charge, refused())
    order = test.start("checkout", Order(), saga_id="o1")
    test.run()
    order.assert_compensated()
    order.save_history(tmp_path / "o1.json")

    steps = list(CHECKOUT.steps.values())
    more = Saga("checkout", Order, [Step("check", inventory, Confirm, undo=Release), *steps])
    assert_replays(tmp_path / "o1.json", app(more))

    fewer = Saga("checkout", Order, steps[1:])
    with pytest.raises(AssertionError, match=r"expected step 'reserve' with command 'inventory\.Reserve'"):
        assert_replays(tmp_path / "o1.json", app(fewer))
    with pytest.raises(AssertionError, match="expected a saga definition 'checkout' in this application"):
        assert_replays(tmp_path / "o1.json", app(program(yesterday)))


def test_a_declared_step_of_another_type_is_found(tmp_path: Path) -> None:
    """The same step name with another undo."""
    test = SagaTest(app(CHECKOUT))
    order = test.start("checkout", Order(), saga_id="o1")
    test.run()
    order.assert_completed()
    order.save_history(tmp_path / "o1.json")

    other = Saga(
        "checkout",
        Order,
        [
            Step("reserve", inventory, Reserve, undo=Release),
            Step("charge", payments, Charge, undo=Release),
            Step("ship", shipping, Ship, kind="pivot"),
            Step("confirm", inventory, Confirm, kind="retriable"),
        ],
    )
    with pytest.raises(AssertionError, match=f"step 'charge' .* undo 'payments.{Refund.__name__}'"):
        assert_replays(tmp_path / "o1.json", app(other))


def test_pages_are_those_of_the_wire(tmp_path: Path) -> None:
    """The file holds the state topic's own bytes, a long history in several pages, and words beside them."""

    async def long(ctx: Context) -> str:
        for _ in range(50):
            await ctx.call(A, Reserve("o1"))
        await ctx.receive("go")
        return "done"

    path = recorded(tmp_path, long)
    test = SagaTest(app(program(long)))
    again = test.start("written", saga_id="w-1")
    test.run()
    again.signal("go")
    test.run()

    found = loads(path.read_text(encoding="utf-8"))
    assert len(again.pages) == 2
    assert found["pages"] == [b64encode(page).decode() for page in again.pages], "the same run is the same bytes"
    assert sum(len(page.events) for page in read_pages(again.pages)) == len(again.events) == len(found["in words"])
    assert found["in words"][-1].endswith("saga completed")
    assert_replays(path, app(program(long)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: {**found, "format": "2"}, "expected format 'kompensate history 1', got '2'"),
        (lambda found: [], "expected a recorded history, .*TypeError"),
        (lambda found: {**found, "pages": ["?"]}, "expected a recorded history, .* base64"),
    ],
)
def test_a_file_that_is_none_says_so(tmp_path: Path, change: Any, message: str) -> None:
    """With its name, expected and got."""
    path = recorded(tmp_path)
    path.write_text(dumps(change(loads(path.read_text(encoding="utf-8")))), encoding="utf-8")

    with pytest.raises(BadRecording, match=message):
        assert_replays(path, app(program(yesterday)))


def test_pages_that_do_not_read_are_a_difference(tmp_path: Path) -> None:
    """They are in the file as they stood in the topic, so the file is right and the saga is not."""
    path = recorded(tmp_path)
    path.write_text(dumps({**loads(path.read_text(encoding="utf-8")), "pages": ["AAAA"]}), encoding="utf-8")

    with pytest.raises(AssertionError, match="saga 'w-1': its pages are damaged"):
        assert_replays(path, app(program(yesterday)))


def test_the_file_is_the_command_lines(tmp_path: Path) -> None:
    """What a test saved, `kompensate replay` reads, and what the command saved a test reads."""
    path = recorded(tmp_path)
    (found,) = read(path)
    assert (found.saga_id, found.definition, found.status) == ("w-1", "written", "completed")

    path.write_text(found.line() + "\n" + found.line() + "\n", encoding="utf-8")
    assert_replays(path, app(program(yesterday)))
    with pytest.raises(AssertionError, match="expected operation 1"):
        assert_replays(path, app(program(another_step)))


def test_what_has_not_started_has_no_history(tmp_path: Path) -> None:
    """A saga that only signals came for, or none at all."""
    test = SagaTest(app(program(yesterday)))
    with pytest.raises(ValueError, match="saga 'w-1': expected one that has started, got none"):
        test.saga("w-1").save_history(tmp_path / "w.json")
