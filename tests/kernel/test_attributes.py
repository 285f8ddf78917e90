"""Search attributes in the kernel: given with a start, set by the program, the same in every replay."""

from dataclasses import replace
from typing import Any

import pytest

from kompensate.orchestrator import Context, saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.decide import Decision
from kompensate.orchestrator.kernel.tables import Hold, Status
from kompensate.schemas import payloads
from tests.fixtures.driving import CHECKOUT, Driven, Order, kinds

pytestmark = pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])

GIVEN = b'{"amount":120,"customer":"c-7"}'


@saga("marked")
async def marked(ctx: Context, order: Order) -> None:
    ctx.set_attributes(stage="begun")
    await ctx.sleep(1)
    ctx.set_attributes(stage=None, amount=ctx.now())
    await ctx.sleep(1)


def start(driven: Driven, **fields: Any) -> Decision:
    asked = i.StartAsked(driven.origin(), driven.name, payloads.encode(Order()), attributes=GIVEN)
    return driven.give(replace(asked, **fields))


def test_the_program_changes_what_came_with_the_start(cached: bool) -> None:
    """What it does not name stays, None removes, and each change is in the history with its operation's number."""
    driven = Driven(marked, cached=cached)

    assert kinds(start(driven)) == ["AttributesSet", "SagaStarted", "AttributesSet", "SleepStarted"]
    assert driven.state.attributes == b'{"amount":120,"customer":"c-7","stage":"begun"}'
    driven.wait_until_due()
    assert driven.state.attributes == b'{"amount":%d,"customer":"c-7"}' % driven.now
    driven.wait_until_due()

    assert driven.state.status is Status.COMPLETED
    found = [event for event, _ in driven.history if isinstance(event, e.AttributesSet)]
    assert [event.number for event in found] == [0, 1, 3]


def test_without_attributes_nothing_is_recorded(cached: bool) -> None:
    driven = Driven(cached=cached)

    assert kinds(start(driven, attributes=b"")) == ["SagaStarted", "CallMade"]
    assert driven.state.attributes == b""


def test_a_saga_that_waits_for_its_start_has_them_already(cached: bool) -> None:
    """A delayed one, and one that a signal came to before."""
    driven = Driven(marked, cached=cached)
    driven.signal()

    assert kinds(start(driven, not_before=driven.now + 5_000)) == ["AttributesSet", "StartDelayed"]
    assert (driven.state.status, driven.state.attributes) == (Status.PENDING, GIVEN)
    driven.wait(5_000)

    assert driven.state.attributes == b'{"amount":120,"customer":"c-7","stage":"begun"}'


@saga("marked")
async def unmarked(ctx: Context, order: Order) -> None:
    await ctx.sleep(1)


@saga("marked")
async def marked_otherwise(ctx: Context, order: Order) -> None:
    ctx.set_attributes(phase="begun")
    await ctx.sleep(1)


def test_code_that_sets_none_any_more_is_found(cached: bool) -> None:
    """It is an operation like the others; other names and values are no difference: nothing depends on them."""
    driven = Driven(marked, cached=cached)
    start(driven)
    driven.deploy(unmarked)

    driven.wait_until_due()
    assert driven.state.hold is Hold.QUARANTINED
    assert "operation 1: set of attributes, got operation 1: sleep" in driven.state.hold_reason

    driven.deploy(marked_otherwise)
    assert kinds(driven.resume())[0] == "SagaResumed"
    driven.wait(0)
    assert driven.state.status is Status.COMPLETED


@saga("misused")
async def misused(ctx: Context, order: Order) -> None:
    ctx.set_attributes(stage="begun")
    ctx.set_attributes(items=[1, 2])


def test_misuse_holds_the_saga_and_names_the_line(cached: bool) -> None:
    """And nothing of that stretch is recorded: mended code may set something else."""
    driven = Driven(misused, cached=cached)

    start(driven)

    assert driven.state.hold is Hold.QUARANTINED
    assert "attribute 'items': expected str, int, float, bool, a datetime" in driven.state.hold_reason
    assert f"{__file__}:" in driven.state.hold_reason
    assert driven.state.attributes == GIVEN


@saga("too-many")
async def too_many(ctx: Context, order: Order) -> None:
    ctx.set_attributes(**{f"n{number}": number for number in range(15)})


def test_those_of_the_start_count(cached: bool) -> None:
    """The limit is on all that the saga has, not on what one line sets."""
    driven = Driven(too_many, cached=cached)

    start(driven)

    assert "attributes: expected at most 16, got 17: amount, customer, n0, n1" in driven.state.hold_reason


@saga("parent")
async def parent(ctx: Context, order: Order) -> None:
    ctx.set_attributes(role="parent")
    await ctx.child(CHECKOUT, order, attributes={"customer": "c-8", "vip": None})


def test_a_child_has_its_own(cached: bool) -> None:
    driven = Driven(parent, cached=cached, others=[CHECKOUT])

    driven.start()

    assert driven.child().attributes == b'{"customer":"c-8"}'
    assert driven.state.attributes == b'{"role":"parent"}'
