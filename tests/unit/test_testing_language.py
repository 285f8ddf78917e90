"""What sagas do beside calls, under test: local steps, children, runs that go on, in every mode."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kompensate.orchestrator import Application, Context, StepFailed, StepRefused, saga
from kompensate.orchestrator.kernel.errors import Refuse
from kompensate.orchestrator.testing import SagaTest, late, refused
from tests.fixtures.driving import Charge, Order, Refund, Release, Reserve, inventory, payments

RAN: list[tuple[str, ...]] = []


def weigh(order_id: str, idempotency_key: str) -> int:
    RAN.append(("weigh", order_id, idempotency_key))
    return len(order_id)


def ask_the_bank(order_id: str) -> str:
    RAN.append(("ask", order_id))
    return "receipt" if ("pay", order_id) in RAN else "none"


def pay(order_id: str) -> str:
    RAN.append(("pay", order_id))
    return "receipt"


async def label(order_id: str) -> str:
    RAN.append(("label", order_id))
    return f"label of {order_id}"


def tear(order_id: str) -> None:
    RAN.append(("tear", order_id))


def say_no() -> None:
    raise Refuse("no paper")


def break_down() -> None:
    raise OSError("no ink")


@saga("parcel")
async def parcel(ctx: Context, order: Order) -> str:
    weight = await ctx.run(weigh, order.order_id)
    text = await ctx.run(label, order.order_id, undo=tear)
    await ctx.call(inventory, Reserve(order.order_id), undo=Release(order.order_id))
    return f"{text}, {weight} g"


@saga("order")
async def order(ctx: Context, value: Order) -> str:
    await ctx.call(payments, Charge(value.order_id), undo=Refund(value.order_id))
    found: str = await ctx.child("parcel", value)
    return found


@saga("torn")
async def torn(ctx: Context, value: Order) -> None:
    try:
        await ctx.call(inventory, Reserve(value.order_id))
    except StepRefused:
        ctx.compensate(inventory, Release(value.order_id))
        ctx.compensate(tear, value.order_id)
        ctx.publish("torn", True)
        raise


@saga("counts")
async def counts(ctx: Context, left: int) -> int:
    await ctx.sleep(30 * 86_400)
    await ctx.run(tear, str(left))
    if left:
        ctx.continue_as_new(left - 1)
    return left


@saga("tries")
async def tries(ctx: Context, way: str) -> str:
    try:
        await ctx.run(say_no if way == "refused" else break_down)
    except (StepRefused, StepFailed) as error:
        return f"{type(error).__name__}: {error.reason}"
    return "done"


@saga("charges-once")
async def charges_once(ctx: Context, _: None) -> None:
    await ctx.run(tear, "o1", at_most_once=True)


@saga("pays-once")
async def pays_once(ctx: Context, order_id: str) -> str:
    first, second = await ctx.gather(
        ctx.run(pay, order_id, at_most_once=True, reconcile=ask_the_bank), ctx.run(weigh, order_id)
    )
    ctx.publish("receipt", first)
    return f"{first}, {second} g"


APP = Application("shop", [parcel, order, torn, counts, tries, charges_once, pays_once], services=[inventory, payments])


@pytest.fixture
def shop(saga_test: Callable[..., SagaTest]) -> SagaTest:
    RAN.clear()
    return saga_test(APP)


def test_local_steps_run_in_place(shop: SagaTest) -> None:
    """Sync or async, once each, with their key; twice with the same key where the worker died before their end."""
    found = shop.start(parcel, Order("o1"))
    shop.run()

    found.assert_completed("label of o1, 2 g")
    assert found.done == ["weigh", "label", "Reserve"]
    times = 2 if shop.mode.crashes else 1
    assert [name for name, *_ in RAN] == ["weigh"] * times + ["label"] * times
    assert len({key for name, *rest in RAN if name == "weigh" for key in rest[1:]}) == 1


def test_local_steps_run_in_a_test_that_is_a_coroutine(shop: SagaTest) -> None:
    """A loop runs in its thread already, so the steps have one of their own."""

    async def test() -> None:
        found = shop.start(parcel, Order("o1"))
        shop.run()
        found.assert_completed("label of o1, 2 g")

    asyncio.run(test())


def test_local_steps_are_undone(shop: SagaTest) -> None:
    """By their function, after what came later."""
    shop.on(Reserve, refused("sold out"))
    found = shop.start(parcel, Order("o1"))
    shop.run()

    found.assert_compensated("sold out")
    assert found.undone == ["label"]
    assert set(RAN[-1:]) == {("tear", "o1")}


@pytest.mark.parametrize(
    ("way", "result"), [("refused", "StepRefused: no paper"), ("failed", "StepFailed: OSError: no ink")]
)
def test_a_local_step_that_does_not_succeed(shop: SagaTest, way: str, result: str) -> None:
    """What the function raises is the step's outcome; failures are tried again first."""
    found = shop.start(tries, way)
    shop.run()

    found.assert_completed(result)


def test_what_is_asked_for_before_a_raise(shop: SagaTest) -> None:
    """Without a wait in between."""
    shop.on(Reserve, refused("sold out"))
    found = shop.start(torn, Order("o1"))
    shop.run()

    found.assert_compensated()
    assert found.published == {"torn": True}
    assert found.messages(Release) == [Release("o1")]
    assert ("tear", "o1") in RAN


def test_a_step_that_runs_at_most_once(shop: SagaTest) -> None:
    """No mode runs its function twice."""
    found = shop.start(charges_once)
    shop.run()

    found.assert_completed()
    assert RAN == [("tear", "o1")]


def test_a_step_whose_worker_died_is_reconciled(shop: SagaTest) -> None:
    """Its end was lost with the worker: it is asked for, and the function is not run again. Others are run again."""
    found = shop.start(pays_once, "o1")
    shop.run()

    found.assert_completed("receipt, 2 g")
    assert found.published == {"receipt": "receipt"}
    assert [name for name, *_ in RAN].count("pay") == 1
    assert [name for name, *_ in RAN].count("ask") == (1 if shop.mode.crashes else 0)
    assert [name for name, *_ in RAN].count("weigh") == (2 if shop.mode.crashes else 1)
    assert found.events.count("CommandResent") == (2 if shop.mode.crashes else 0)


def test_children_run_too(shop: SagaTest) -> None:
    """The child is a saga of the test, and what it returns its parent's step."""
    shop.on(Reserve, late(60))
    found = shop.start(order, Order("o1"), saga_id="o1")
    found.run_until("parcel")
    shop.run()

    found.assert_completed("label of o1, 2 g")
    assert shop.saga_ids == ["o1", "o1.2"]
    child = shop.saga("o1.2")
    child.assert_completed("label of o1, 2 g")
    assert child.commands == ["inventory.Reserve"]
    assert found.commands == ["payments.Charge"]


def test_a_child_that_does_not_succeed_turns_its_parent_back(shop: SagaTest) -> None:
    """Both undo what they did."""
    shop.on(Reserve, refused("sold out"))
    found = shop.start(order, Order("o1"), saga_id="o1")
    shop.run()

    found.assert_compensated("sold out")
    assert found.undone == ["Charge"]


def test_a_saga_that_goes_on_as_a_new_run(shop: SagaTest) -> None:
    """Three months, three runs: what the handle tells is the newest one's."""
    found = shop.start(counts, 2)
    began = shop.now
    shop.run()

    found.assert_completed(0)
    assert (shop.now - began).days == 90
    assert list(dict.fromkeys(RAN)) == [("tear", "2"), ("tear", "1"), ("tear", "0")]


def test_the_story_names_local_steps() -> None:
    """As it does calls."""
    RAN.clear()
    test = SagaTest(APP)
    found: Any = test.start(parcel, Order("o1"))
    test.run()

    assert "call made: weigh (weigh (worker), compensatable)" in found.story
