"""What a declared saga can say beyond a row of steps: conditions, groups, sagas within it, notifications."""

from dataclasses import dataclass
from typing import Any

import pytest

from kompensate.orchestrator import (
    NOTHING,
    Application,
    Context,
    DefinitionError,
    Parallel,
    Saga,
    Scope,
    Step,
    SubSaga,
    saga,
)
from kompensate.orchestrator.definitions.plan import Plan
from kompensate.orchestrator.kernel.effects import CancelChild
from kompensate.orchestrator.kernel.tables import Status
from tests.fixtures.driving import (
    CHECKOUT,
    Charge,
    Confirm,
    Driven,
    Order,
    Refund,
    Release,
    Reserve,
    Ship,
    commands,
    inventory,
    kinds,
    payments,
    shipping,
)

cached = pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])
RESERVE = Step("reserve", inventory, Reserve, undo=Release)
CHARGE = Step("charge", payments, Charge, undo=Refund)
SHIP = Step("ship", shipping, Ship, kind="pivot")
MAIL = Step("mail", shipping, Confirm, kind="notification")

WIDE = Saga("wide", Order, [Parallel(RESERVE, CHARGE), SHIP])


@cached
def test_a_group_is_begun_together(cached: bool) -> None:
    driven = Driven(WIDE, cached=cached)

    assert commands(driven.start()) == ["forward reserve#1", "forward charge#1"]
    assert commands(driven.reply(driven.command("charge"))) == []
    assert commands(driven.reply(driven.command("reserve"))) == ["forward ship#1"]


@cached
def test_one_of_a_group_that_fails_turns_it_back(cached: bool) -> None:
    """At once: the others, whose answers are out, are in doubt and undone whatever became of them."""
    driven = Driven(WIDE, cached=cached)
    driven.start()

    decision = driven.reply(driven.command("charge"), "refused", {"reason": "no"})
    assert kinds(decision) == ["CallRefused", "CallInDoubt", "CompensationStarted", "UndoSent"]
    assert kinds(driven.reply(driven.command("reserve"))) == ["LateReplyArrived"]
    driven.reply(driven.command("reserve", "compensate"))

    assert driven.state.status is Status.COMPENSATED


@cached
@pytest.mark.parametrize("physical", [True, False])
def test_a_condition(cached: bool, physical: bool) -> None:
    """A step that is left out has None as its result, and nothing to undo."""

    def seen(scope: Scope) -> Any:
        return [scope["reserve"], scope["charge"]]

    step = Step("reserve", inventory, Reserve, undo=Release, when=lambda s: s.input.order_id == "physical")
    driven = Driven(Saga("choosy", Order, [step, CHARGE], result=seen), cached=cached)
    driven.start(Order("physical" if physical else "download"))
    while not driven.state.ended:
        driven.reply(value=1)

    assert driven.state.result == (b"[1,1]" if physical else b"[null,1]")


@cached
def test_a_notification_holds_nobody_up(cached: bool) -> None:
    """It is sent, once and for good; the saga does not wait for what becomes of it, and never undoes it."""
    driven = Driven(Saga("telling", Order, [RESERVE, MAIL, CHARGE]), cached=cached)
    driven.start()

    assert kinds(driven.reply()) == ["CallSucceeded", "CallMade", "CallSucceeded", "CallMade"]
    assert kinds(driven.reply(driven.command("mail"), "failed")) == []
    assert kinds(driven.no()) == ["CallRefused", "CompensationStarted", "UndoSent"]
    assert driven.sent[-1].step == "reserve"


@cached
def test_a_notification_after_the_pivot(cached: bool) -> None:
    driven = Driven(Saga("telling", Order, [SHIP, MAIL]), cached=cached)
    driven.start()

    assert kinds(driven.reply()) == ["CallSucceeded", "CallMade", "CallSucceeded", "SagaCompleted"]


@dataclass
class Parcel:
    weight: int


@saga("dispatch")
async def dispatch(ctx: Context, parcel: Parcel) -> int:
    return parcel.weight


NESTED = Saga(
    "nested",
    Order,
    [
        RESERVE,
        SubSaga("dispatch", dispatch, make=lambda s: Parcel(3), returns=int),
        Step("charge", payments, Charge, make=lambda s: Charge(str(s["dispatch"])), undo=Refund),
    ],
)


@cached
def test_a_saga_within_a_saga(cached: bool) -> None:
    """Its result is the step's; where the outer one turns back meanwhile, it is cancelled first."""
    driven = Driven(NESTED, cached=cached, others=[dispatch])
    driven.start()
    driven.reply()
    assert driven.child().payload == b'{"weight":3}'

    assert commands(driven.child_ended(value=3)) == ["forward charge#1"]
    assert driven.sent[-1].payload == b'{"order_id":"3"}'

    back = Driven(NESTED, cached=cached, others=[dispatch])
    back.start()
    back.reply()
    back.cancel()
    assert len(back.told(CancelChild)) == 1
    back.child_ended("refused", {"reason": "cancel"})
    assert back.sent[-1].step == "reserve"


def test_a_plan_with_groups_is_read_again() -> None:
    """What a plan has no groups for keeps its bytes, so that sagas in flight keep their plan."""
    plan = Plan.decode(WIDE.plan.encode(), WIDE.plan.hash)

    assert plan == WIDE.plan
    assert [[step.name for step in group] for group in plan.groups] == [["reserve", "charge"], ["ship"]]
    assert b"group" not in CHECKOUT.plan.encode()


WRONG: list[tuple[list[Any], str]] = [
    ([Step("reserve", inventory, Reserve)], "step 'reserve': expected undo=…, the command that undoes it, got none"),
    (
        [Step("ship", shipping, Ship, kind="pivot", undo=NOTHING)],
        "a pivot step is never undone: leave undo=NOTHING out",
    ),
    ([Parallel(RESERVE)], "expected at least two steps in Parallel, got ['reserve']"),
    ([Parallel(RESERVE, SHIP)], "expected the pivot 'ship' by itself, got it in a Parallel with ['reserve', 'ship']"),
    ([Parallel(RESERVE, RESERVE)], "step 'reserve': expected each step's name once, got it again"),
    ([SHIP, SubSaga("late", dispatch)], "expected nothing that may fail after the pivot 'ship', got a saga"),
    ([SubSaga("early", dispatch)], "expected saga 'dispatch' to take Order, got Parcel: give a make callable"),
    ([SubSaga("what", Order)], "step 'what': expected a saga, got type"),
    (
        [SubSaga("how", CHECKOUT, on_close="explode")],
        "on_close: expected one of ('cancel', 'request_cancel', 'abandon'), got 'explode'",
    ),
    (["reserve"], "saga 'wrong': expected Step, SubSaga or Parallel, got str"),
    ([SHIP, CHARGE], "expected a retriable step after the pivot 'ship', got compensatable"),
]


@pytest.mark.parametrize(("parts", "told"), WRONG, ids=[told[:40] for _, told in WRONG])
def test_mistakes_are_told_when_the_module_is_imported(parts: list[Any], told: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        Saga("wrong", Order, parts)

    assert told in str(raised.value)


def test_a_make_callable_that_says_it_returns_something_else() -> None:
    def refund(scope: Scope) -> Refund:
        return Refund("o1")

    with pytest.raises(DefinitionError, match="expected a make callable that returns Charge, got Refund"):
        Saga("wrong", Order, [Step("charge", payments, Charge, make=refund, undo=Refund)])


def test_a_saga_within_it_must_be_the_applications() -> None:
    with pytest.raises(DefinitionError, match="expected saga 'dispatch' among its sagas, saga 'nested' starts it"):
        Application("shop", [NESTED])
