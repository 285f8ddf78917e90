"""Stories of replay: code that changed with sagas in flight is found out, held, and goes on once it is mended."""

import subprocess
import sys
from typing import Any

import pytest

from kompensate.orchestrator import NOTHING, Context, Saga, Step, saga
from kompensate.orchestrator.definitions.saga import AsyncSaga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.decide import Decision
from kompensate.orchestrator.kernel.tables import Hold
from tests.fixtures.driving import (
    CHECKOUT,
    Charge,
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

Lines = list[tuple[Any, ...]]


def _program(lines: Lines) -> AsyncSaga:
    """An async saga that awaits these operations, one after the other."""

    @saga("changed")
    async def changed(ctx: Context, order: Order) -> str:
        for verb, *arguments in lines:
            await getattr(ctx, verb)(*arguments)
        return "end"

    return changed


RESERVE, CHARGE = ("call", inventory, Reserve("o1")), ("call", payments, Charge("o1"))
SLEEP, RECEIVE, REST = ("sleep", 1), ("receive", "paid"), ("receive", "at last")
BEFORE = [RESERVE, SLEEP, RECEIVE, REST]

CHANGES: dict[str, tuple[Lines, str, str]] = {
    "another type": (
        [("call", inventory, Release("o1")), SLEEP, RECEIVE, REST],
        "operation 1: call of 'inventory.Reserve' as step 'Reserve'",
        "operation 1: call of 'inventory.Release' as step 'Release'",
    ),
    "another service": (
        [("call", payments, Reserve("o1")), SLEEP, RECEIVE, REST],
        "operation 1: call of 'inventory.Reserve' as step 'Reserve'",
        "operation 1: call of 'payments.Reserve' as step 'Reserve'",
    ),
    "another order": (
        [SLEEP, RESERVE, RECEIVE, REST],
        "operation 1: call of 'inventory.Reserve' as step 'Reserve'",
        "operation 1: sleep",
    ),
    "one more in between": (
        [RESERVE, RECEIVE, SLEEP, RECEIVE, REST],
        "operation 2: sleep",
        "operation 2: receive of 'paid'",
    ),
    "another signal": (
        [RESERVE, SLEEP, ("receive", "payed"), REST],
        "operation 3: receive of 'paid'",
        "operation 3: receive of 'payed'",
    ),
    "one missing at the end": ([RESERVE, SLEEP], "operation 3: receive of 'paid'", "the program returned"),
    "one missing in between": ([RESERVE, RECEIVE, REST], "operation 2: sleep", "operation 2: receive of 'paid'"),
    "nothing at all": ([], "operation 1: call of 'inventory.Reserve' as step 'Reserve'", "the program returned"),
    "one that raises": (
        [RESERVE, ("slept", 1)],
        "operation 2: sleep",
        "the program ended: the program raised AttributeError",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_code_is_held_with_expected_and_got(change: str) -> None:
    """Whatever the change, nothing is sent for it; the old code, or any that asks for the same, goes on."""
    lines, expected, got = CHANGES[change]
    driven = Driven(_program(BEFORE))
    driven.start()
    driven.reply()
    driven.wait(1_000)
    driven.deploy(_program(lines))

    decision = driven.signal()

    assert kinds(decision) == ["SagaQuarantined", "SignalKept"]
    assert decision.effects == []
    assert f"replay: expected {expected}, got {got}" in driven.state.hold_reason
    assert kinds(driven.resume()) == ["SagaResumed", "SagaQuarantined"]
    driven.deploy(_program([*BEFORE, CHARGE]))
    assert kinds(driven.resume()) == ["SagaResumed", "SignalReceived", "ReceiveStarted"]
    assert commands(driven.signal("at last")) == ["forward Charge#1"]


@saga("at-once")
async def one_at_once(ctx: Context, order: Order) -> None:
    first = ctx.call(inventory, Reserve("o1"))
    await ctx.sleep(1)
    await first


@saga("at-once")
async def two_at_once(ctx: Context, order: Order) -> None:
    first = ctx.call(inventory, Reserve("o1"))
    ctx.sleep(3)
    await ctx.sleep(1)
    await first


def test_one_operation_too_many_is_found() -> None:
    """Code that asks for something that was not asked then is held, also where all that was asked is there."""
    driven = Driven(one_at_once)
    driven.start()
    driven.deploy(two_at_once)

    driven.reply()

    assert driven.state.hold is Hold.QUARANTINED
    assert driven.state.hold_reason == "replay: expected nothing more yet, got operation 3: sleep"


def test_values_may_change() -> None:
    """Only what kind of operation and its names are compared: what was recorded stands."""
    driven = Driven(_program([("call", inventory, Reserve("o1")), ("sleep", 1), REST]))
    driven.start()
    driven.deploy(_program([("call", inventory, Reserve("another")), ("sleep", 100), REST]))

    assert kinds(driven.reply()) == ["CallSucceeded", "SleepStarted"]


def test_code_that_is_gone() -> None:
    """A saga whose definition the application no longer has is held, and keeps what arrives."""
    driven = Driven(_program(BEFORE))
    driven.start()
    driven.deploy(CHECKOUT)

    assert kinds(driven.reply()) == ["SagaQuarantined", "CallSucceeded"]
    assert driven.state.hold_reason == "expected a saga definition 'changed' in this application, got none"
    assert kinds(driven.resume()) == ["SagaResumed", "SagaQuarantined"]
    driven.deploy(_program(BEFORE))
    assert kinds(driven.resume()) == ["SagaResumed", "SleepStarted"]


RESERVE_STEP = Step("reserve", inventory, Reserve, undo=Release)
CHARGE_STEP = Step("charge", payments, Charge, undo=Refund)
SHIP_STEP = Step("ship", shipping, Ship, kind="pivot")


def _declared(*steps: Step) -> Saga:
    return Saga("planned", Order, list(steps))


def test_a_declared_saga_keeps_its_plan() -> None:
    """Steps added, moved or given other limits are for new sagas: one in flight follows the plan it began with."""
    driven = Driven(_declared(RESERVE_STEP, CHARGE_STEP))
    driven.start()
    quick = Step("charge", payments, Charge, undo=Refund, timeout=1)
    driven.deploy(_declared(quick, RESERVE_STEP, SHIP_STEP))

    assert commands(driven.reply()) == ["forward charge#1"]
    assert driven.state.calls[2].made.policy == CHARGE_STEP.policy()
    assert kinds(driven.reply()) == ["CallSucceeded", "SagaCompleted"]


@pytest.mark.parametrize(
    ("steps", "got"),
    [
        ((RESERVE_STEP,), "none of that name"),
        ((RESERVE_STEP, Step("charge", payments, Charge, undo=NOTHING)), "command 'payments.Charge' and undo None"),
        (
            (RESERVE_STEP, Step("charge", inventory, Charge, undo=Refund)),
            "command 'inventory.Charge' and undo 'inventory.Refund'",
        ),
    ],
)
def test_a_declared_saga_whose_step_is_gone(steps: tuple[Step, ...], got: str) -> None:
    """A step that the plan names and the code lacks holds the saga, with expected and got."""
    old = _declared(RESERVE_STEP, CHARGE_STEP)
    driven = Driven(old)
    driven.start()
    driven.deploy(_declared(*steps))

    assert kinds(driven.reply()) == ["SagaQuarantined", "CallSucceeded"]
    assert driven.state.hold_reason == (
        f"saga 'planned' follows plan {old.plan.hash}: expected step 'charge' with command 'payments.Charge' and "
        f"undo 'payments.Refund' in the code, got {got}"
    )
    driven.deploy(_declared(RESERVE_STEP, CHARGE_STEP, SHIP_STEP))
    assert commands(driven.resume()) == ["forward charge#1"]


def test_a_plan_that_is_missing() -> None:
    """A saga whose plan is not in the state topic is held, and says which plan."""
    old = _declared(RESERVE_STEP, CHARGE_STEP)
    driven = Driven(old)
    driven.start()
    driven.catalogue.plans.clear()
    driven.deploy(_declared(RESERVE_STEP))

    driven.reply()

    assert driven.state.hold_reason == (
        f"saga 'planned': expected the plan '{old.plan.hash}' that it follows in the state topic, got none"
    )


def test_declared_became_written() -> None:
    """A saga that began by declared steps cannot go on as an async def of the same name."""

    @saga("planned")
    async def written(ctx: Context, order: Order) -> None:
        await ctx.call(inventory, Reserve("o1"))

    driven = Driven(_declared(RESERVE_STEP, CHARGE_STEP))
    driven.start()
    driven.deploy(written)

    assert kinds(driven.reply())[0] == "SagaQuarantined"
    assert "expected the declared steps it started with, got an async def" in driven.state.hold_reason


def test_a_duplicate_needs_no_program() -> None:
    """Inputs that change nothing are told without a replay: mended or not, the code is not asked."""
    driven = Driven(_program(BEFORE))
    driven.start()
    driven.reply()
    driven.deploy(_program([]))

    assert driven.reply() == Decision()
    assert driven.start() == Decision()
    assert driven.state.hold is None


SAME_BYTES = "8e177e7e3adb93007976cc5e792a401db185eb0d40cb48157e9c5b51c57dd09d"
"""Of the history below, on every Python: a change of what the kernel decides may change it, nothing else may."""
HASHING = """
import sys
sys.path[:0] = {path!r}
from hashlib import sha256
from tests.kernel.test_replay import history_of_many_signals
from kompensate.orchestrator.sagas.journal import Page, block_of
from kompensate.orchestrator.kernel.inputs import Origin
page = Page("0.0")
for event, time in history_of_many_signals():
    page.append(block_of(Origin("", 0, -1, time), [event]), 1)
print(sha256(page.value()).hexdigest())
"""


def history_of_many_signals() -> list[tuple[e.Event, int]]:
    """A history with everything that a set or a dictionary could put out of order: names, ids, a hold."""

    @saga("many")
    async def many(ctx: Context, order: Order) -> None:
        waiting = [ctx.receive(f"signal {n}") for n in range(8)]
        calls = [ctx.call(inventory, Reserve(f"o{n}"), undo=Release(f"o{n}"), step=f"s{n}") for n in range(5)]
        for one in (*waiting, *calls):
            await one

    driven = Driven(many)
    driven.start()
    driven.pause()
    for n in (3, 1, 7, 5, 0, 2, 6, 4):
        driven.signal(f"signal {n}")
    driven.resume()
    driven.reply(driven.command("s3"))
    driven.reply(driven.command("s1"))
    driven.cancel()
    while not driven.state.ended:
        driven.reply()
    return driven.history


@pytest.mark.slow
def test_the_same_bytes_with_every_hash_seed() -> None:
    """Sets and dictionaries of strings differ from process to process; histories do not, on any Python."""
    path = [__file__.rpartition("/tests/")[0], *sys.path]
    found = {
        subprocess.run(
            [sys.executable, "-c", HASHING.format(path=path)],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2", "3")
    }

    assert found == {SAME_BYTES + "\n"}
