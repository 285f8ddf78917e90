"""gather, at_least, select, and what a saga draws: stories of each, live and with a replay before every input."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from kompensate.orchestrator import Context, StepRefused, saga
from kompensate.orchestrator.definitions.saga import AsyncSaga
from kompensate.orchestrator.kernel.operation import Operation
from kompensate.orchestrator.kernel.tables import Hold, Status
from kompensate.schemas import payloads
from tests.fixtures.driving import START_TIME, Charge, Driven, Order, Release, Reserve, inventory, payments


def _saga(body: Callable[[Context], Any]) -> AsyncSaga:
    @saga("combined")
    async def combined(ctx: Context, order: Order) -> Any:
        return await body(ctx)

    return combined


@pytest.fixture(params=[True, False], ids=["cached", "replayed"])
def drive(request: pytest.FixtureRequest) -> Callable[[Callable[[Context], Any]], Driven]:
    """Starts a saga that returns what `body` does."""

    def start(body: Callable[[Context], Any]) -> Driven:
        driven = Driven(_saga(body), cached=request.param)
        driven.start()
        return driven

    return start


Drive = Callable[[Callable[[Context], Any]], Driven]


def reserve(ctx: Context, order_id: str) -> Operation:
    return ctx.call(inventory, Reserve(order_id), undo=Release(order_id), step=order_id)


def answer(driven: Driven, step: str, outcome: str = "done", payload: object = None) -> None:
    """The newest command of this step is answered."""
    command = next(command for command in reversed(driven.sent) if command.step == step)
    driven.reply(command, outcome, payload)


def result(driven: Driven) -> Any:
    assert driven.state.status is Status.COMPLETED, driven.state
    return payloads.decode(driven.state.result, Any)


async def three(ctx: Context) -> list[Any]:
    return await ctx.gather(*(reserve(ctx, name) for name in "abc"))


def test_gather_sends_all_and_keeps_their_order(drive: Drive) -> None:
    """All commands go out at once; results stand in the order given, whichever came first."""
    driven = drive(three)
    assert [command.step for command in driven.sent] == ["a", "b", "c"]

    for step, payload in (("c", 3), ("a", 1), ("b", 2)):
        answer(driven, step, payload=payload)

    assert result(driven) == [1, 2, 3]


def test_a_failure_in_a_gather_turns_back_at_once(drive: Drive) -> None:
    """It is raised while others are still out; those count as in doubt and are undone too, the last completed first."""
    driven = drive(three)
    answer(driven, "b")
    answer(driven, "c", "refused", {"reason": "sold out"})

    assert driven.state.status is Status.COMPENSATING
    while driven.state.status is Status.COMPENSATING:
        driven.reply()
    assert driven.state.status is Status.COMPENSATED
    assert [command.step for command in driven.sent if command.phase == "compensate"] == ["a", "b"]


def test_tolerated_failures_stand_among_the_results(drive: Drive) -> None:
    """Up to that many; one more is raised."""

    async def body(ctx: Context) -> list[Any]:
        found = await ctx.gather(*(reserve(ctx, name) for name in "abc"), tolerate=1)
        return [str(each) if isinstance(each, StepRefused) else each for each in found]

    driven = drive(body)
    answer(driven, "b", "refused", {"reason": "sold out"})
    answer(driven, "a", payload=1)
    answer(driven, "c", payload=3)
    assert result(driven) == [1, "b: sold out", 3]

    driven = drive(body)
    answer(driven, "b", "refused")
    answer(driven, "a", "refused")
    assert driven.state.status is Status.COMPENSATING


def test_gather_of_nothing_is_nothing(drive: Drive) -> None:
    """As asyncio has it."""

    async def body(ctx: Context) -> list[Any]:
        return await ctx.gather()

    assert result(drive(body)) == []


async def two_of_three(ctx: Context) -> list[Any]:
    return await ctx.at_least(2, *(reserve(ctx, name) for name in "abc"))


def test_at_least_takes_the_first_to_succeed(drive: Drive) -> None:
    """In the order in which they did; the saga completes when the last command is answered as well."""
    driven = drive(two_of_three)
    answer(driven, "c", payload=3)
    answer(driven, "a", payload=1)
    assert driven.state.status is Status.RUNNING, "b is still out"
    answer(driven, "b", payload=2)

    assert result(driven) == [3, 1]


def test_at_least_raises_when_too_few_are_left(drive: Drive) -> None:
    """One failure of three leaves two; the second leaves too few."""
    driven = drive(two_of_three)
    answer(driven, "a", "refused", {"reason": "sold out"})
    left_after_one = driven.state.status
    answer(driven, "b", "refused", {"reason": "sold out"})

    assert (left_after_one, driven.state.status) == (Status.RUNNING, Status.COMPENSATING)
    assert driven.state.reason == "b: sold out"


async def signal_or_time(ctx: Context) -> list[Any]:
    name, value = await ctx.select(approved=ctx.receive("approved"), late=ctx.sleep(60))
    return [name, value]


def test_select_gives_name_and_value_of_the_first(drive: Drive) -> None:
    """A signal or a time-out, whichever comes first."""
    driven = drive(signal_or_time)
    driven.signal("approved", "ann")
    assert result(driven) == ["approved", "ann"]

    driven = drive(signal_or_time)
    driven.wait(60_000)
    assert result(driven) == ["late", None]


def test_what_select_left_can_be_awaited_later(drive: Drive) -> None:
    """Nobody is cancelled: the slower one is there when it is asked for."""

    async def body(ctx: Context) -> list[Any]:
        card = ctx.call(payments, Charge("o1"), step="card")
        first, _ = await ctx.select(card=card, reminder=ctx.sleep(5))
        return [first, await card]

    driven = drive(body)
    driven.wait(5_000)
    answer(driven, "card", payload="paid")

    assert result(driven) == ["reminder", "paid"]


def test_select_raises_the_error_of_the_first(drive: Drive) -> None:
    """It can be caught, and another road taken."""

    async def body(ctx: Context) -> str:
        try:
            await ctx.select(card=ctx.call(payments, Charge("o1"), step="card"), late=ctx.sleep(5))
        except StepRefused as error:
            return str(error.step)
        return "no"

    driven = drive(body)
    answer(driven, "card", "refused")

    assert result(driven) == "card"


WRONG: list[tuple[Callable[[Context], Any], str]] = [
    (
        lambda ctx: ctx.gather(1),  # type: ignore[arg-type]  # that is the mistake
        "gather: expected what ctx.call, ctx.run, ctx.child, ctx.sleep and ctx.receive return, got int",
    ),
    (lambda ctx: ctx.gather(tolerate=-1), "gather: expected to tolerate 0 failures or more, got -1"),
    (lambda ctx: ctx.at_least(2, ctx.sleep(1)), "at_least: expected a count from 1 to 1, the operations given, got 2"),
    (lambda ctx: ctx.select(), "select: expected at least one operation, got none"),
    (
        lambda ctx: ctx.sleep_until(datetime(2026, 1, 1)),  # that is the mistake
        "sleep_until: expected a datetime with a time zone, got 2026-01-01T00:00:00",
    ),
]


@pytest.mark.parametrize(("body", "text"), WRONG)
def test_wrong_use_holds_the_saga(drive: Drive, body: Callable[[Context], Any], text: str) -> None:
    """It is the program's mistake: the saga is held, with expected, got and the author's line."""
    driven = drive(body)

    assert driven.state.hold is Hold.QUARANTINED
    assert text in driven.state.hold_reason
    assert __file__ in driven.state.hold_reason


def test_another_sagas_operation_in_a_select_is_found(drive: Drive) -> None:
    """Also where it stands among others."""
    kept: list[Operation] = []

    async def keep(ctx: Context) -> None:
        kept.append(ctx.sleep(1))

    drive(keep)

    async def body(ctx: Context) -> None:
        await ctx.select(own=ctx.sleep(1), other=kept[0])

    driven = drive(body)

    assert driven.state.hold is Hold.QUARANTINED
    assert "expected an operation of the saga's context" in driven.state.hold_reason


def test_sleeping_until_a_time(drive: Drive) -> None:
    """To the millisecond; a time that is past ends at once."""

    async def body(ctx: Context) -> int:
        await ctx.sleep_until(datetime.fromtimestamp(0, UTC))
        await ctx.sleep_until(datetime.fromtimestamp((START_TIME + 5_000) / 1000, UTC))
        return ctx.now()

    driven = drive(body)
    driven.wait(0)
    driven.wait_until_due()

    assert result(driven) == START_TIME + 5_000


def test_what_is_drawn_is_the_same_in_every_replay(drive: Drive) -> None:
    """Each draw another; the same whether the program was replayed in between or not, and another for another run."""

    async def body(ctx: Context) -> list[Any]:
        before = [ctx.uuid(), ctx.uuid(), ctx.random()]
        await ctx.sleep(1)
        return [*before, ctx.random()]

    driven = drive(body)
    driven.wait(1_000)
    first, second, low, high = result(driven)

    assert [UUID(first).version, UUID(first).variant] == [8, "specified in RFC 4122"]
    assert first != second
    assert 0 <= low < 1
    assert low != high
    # For ever: sagas under way replay them.
    assert [first, low] == ["63fbbad3-0c96-8d07-b5f7-0c7aabb1ae7c", 0.3569783233611955]
