"""Stories of programs with mistakes in them: each holds its own saga, says what and where, and can be mended."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kompensate.orchestrator import Context, saga
from kompensate.orchestrator.definitions.saga import AsyncSaga
from kompensate.orchestrator.kernel.errors import SagaError
from kompensate.orchestrator.kernel.tables import Hold, Status
from tests.fixtures.driving import Driven, Order, Release, Reserve, inventory, kinds

HERE = __file__


def _saga(body: Callable[[Context], Any]) -> AsyncSaga:
    """A saga that reserves, then does `body`."""

    @saga("broken")
    async def broken(ctx: Context, order: Order) -> Any:
        await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
        return await body(ctx)

    return broken


@saga("broken")
async def mended(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    return "mended"


async def _raises(ctx: Context) -> None:
    raise ZeroDivisionError("oops")


async def _cancels_itself(ctx: Context) -> None:
    raise asyncio.CancelledError


async def _exits(ctx: Context) -> None:
    raise SystemExit(3)


async def _returns_what_cannot_be_encoded(ctx: Context) -> object:
    return object()


async def _awaits_a_future(ctx: Context) -> None:
    loop = asyncio.new_event_loop()
    try:
        await loop.create_future()
    finally:
        loop.close()


async def _sleeps_for_no_time(ctx: Context) -> None:
    await asyncio.sleep(0)


async def _sleeps_for_real(ctx: Context) -> None:
    await asyncio.sleep(1)


_stolen: list[Any] = []


async def _awaits_anothers_operation(ctx: Context) -> None:
    other = Context("other", "0.0", Driven(mended).catalogue.find("broken").payloads, ())  # type: ignore[union-attr]  # it is there
    await other.sleep(1)


async def _calls_nobody(ctx: Context) -> None:
    await ctx.call("nobody", Reserve("o1"))


async def _sends_what_cannot_be_encoded(ctx: Context) -> None:
    await ctx.call(inventory, object())


async def _undoes_a_pivot(ctx: Context) -> None:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"), kind="pivot")


async def _kind_of_nothing(ctx: Context) -> None:
    await ctx.call(inventory, Reserve("o1"), kind="optional")


async def _sleeps_backwards(ctx: Context) -> None:
    await ctx.sleep(-1)


async def _sleeps_for_ever(ctx: Context) -> None:
    await ctx.sleep(1e17)


async def _waits_for_ever(ctx: Context) -> None:
    await ctx.receive("paid", timeout=float("inf"))


MISTAKES = [
    (_raises, "the program raised ZeroDivisionError: oops"),
    (_cancels_itself, "the program raised CancelledError"),
    (_exits, "the program raised SystemExit: 3"),
    (_awaits_a_future, "expected an operation of the saga's context to be awaited, got Future"),
    (_sleeps_for_no_time, "expected an operation of the saga's context to be awaited, got None"),
    (_sleeps_for_real, "the program raised RuntimeError: no running event loop"),
    (_sleeps_for_real, "; await only what ctx gives: ctx.call, ctx.run, ctx.child, ctx.sleep, ctx.receive"),
    (_awaits_anothers_operation, "expected an operation of the saga's context to be awaited, got another saga's sleep"),
    (_calls_nobody, "call: expected a service of this application (inventory, payments, shipping), got 'nobody'"),
    (_sends_what_cannot_be_encoded, "payload object: expected a dataclass"),
    (_undoes_a_pivot, "a pivot step is never undone, got undo Release"),
    (_kind_of_nothing, "kind: expected one of ('compensatable', 'pivot', 'retriable', 'notification'), got 'optional'"),
    (_sleeps_backwards, "sleep: expected 0 to 3162240000 seconds (100 years), got -1"),
    (_sleeps_for_ever, "sleep: expected 0 to 3162240000 seconds (100 years), got 1e+17"),
    (_waits_for_ever, "receive: expected 0 to 3162240000 seconds (100 years), got inf"),
]


@pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited")
@pytest.mark.parametrize(("body", "told"), MISTAKES, ids=[body.__name__ for body, _ in MISTAKES])
def test_a_mistake_holds_the_saga(body: Callable[[Context], Any], told: str) -> None:
    """The saga is quarantined with what happened and the author's own line; mended, it goes on from there."""
    driven = Driven(_saga(body))
    driven.start()

    assert kinds(driven.reply()) == ["CallSucceeded", "SagaQuarantined"]

    reason = driven.state.hold_reason
    line = body.__code__.co_firstlineno
    assert told in reason
    assert any(f"{HERE}:{line + offset}" in reason for offset in range(1, 6)), reason
    assert driven.state.status is Status.RUNNING
    assert kinds(driven.resume()) == ["SagaResumed", "SagaQuarantined"]
    driven.deploy(mended)
    assert kinds(driven.resume()) == ["SagaResumed", "SagaCompleted"]


def test_a_result_that_cannot_be_encoded() -> None:
    """A result that no JSON can hold is the program's mistake too."""
    driven = Driven(_saga(_returns_what_cannot_be_encoded))
    driven.start()
    driven.reply()

    assert (
        "the program returned what cannot be encoded: payload object: expected a dataclass" in driven.state.hold_reason
    )


def test_text_that_cannot_be_stored_is_made_storable() -> None:
    """A message with half a surrogate pair is escaped: the reason has to fit into an Avro string."""

    async def raises(ctx: Context) -> None:
        raise ValueError("\ud800")

    driven = Driven(_saga(raises))
    driven.start()
    driven.reply()

    assert "ValueError: \\ud800" in driven.state.hold_reason


def test_what_a_broken_program_asked_for_is_not_sent() -> None:
    """Commands asked for in the step that broke stay unsent: mended code may want others."""

    async def asks_and_raises(ctx: Context) -> None:
        ctx.call(inventory, Reserve("o2"))
        raise ValueError("too late")

    driven = Driven(_saga(asks_and_raises))
    driven.start()

    assert driven.reply().effects == []


async def _cleans_up_with_a_call(ctx: Context) -> None:
    try:
        await ctx.sleep(1)
    finally:
        await ctx.call(inventory, Release("o1"))


async def _cleans_up_badly(ctx: Context) -> None:
    try:
        await ctx.sleep(1)
    finally:
        raise ValueError("while cleaning up")


async def _swallows(ctx: Context) -> None:
    for _ in range(3):
        try:
            await ctx.sleep(1)
        except BaseException:  # it is the mistake that this test is about
            continue


@pytest.mark.parametrize("body", [_cleans_up_with_a_call, _cleans_up_badly, _swallows])
def test_a_program_is_let_go_whatever_it_does(body: Callable[[Context], Any]) -> None:
    """Code that runs while a program is closed cannot hinder a pause, a cancel or an eviction."""
    driven = Driven(_saga(body))
    driven.start()
    driven.reply()

    assert kinds(driven.pause()) == ["SagaPaused"]
    driven.resume()
    driven.drop()

    assert kinds(driven.cancel()) == ["CompensationStarted", "UndoSent"]
    assert kinds(driven.reply()) == ["CallUndone", "SagaCancelled"]


def test_an_operation_may_be_awaited_again() -> None:
    """Awaiting a settled operation gives its outcome again, its error too."""

    async def awaits_twice(ctx: Context) -> list[str]:
        call = ctx.call(inventory, Reserve("o2"))
        found = []
        for _ in range(2):
            try:
                await call
            except SagaError as error:
                found.append(str(error))
        return found

    driven = Driven(_saga(awaits_twice))
    driven.start()
    driven.reply()
    driven.no("sold out")

    assert driven.state.hold is not Hold.QUARANTINED
    assert driven.state.result == b'["Reserve: sold out","Reserve: sold out"]'


def test_now_is_the_time_of_the_input() -> None:
    """`now` is the time of the input that the program goes on with, the same in each replay."""

    async def times(ctx: Context) -> list[int]:
        first = ctx.now()
        await ctx.sleep(2.5)
        return [first, ctx.now()]

    for cached in (True, False):
        driven = Driven(_saga(times), cached=cached)
        driven.start()
        driven.now += 10
        driven.reply()
        driven.wait(3_000)
        assert driven.state.result == b"[1000010,1003010]"
