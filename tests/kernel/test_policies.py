"""How often and how long a call is tried past the pivot, where its author said something, but not that."""

from typing import Any

import pytest

from kompensate.orchestrator import Context, RetryPolicy, Saga, Step, saga
from kompensate.orchestrator.definitions.saga import AsyncSaga
from kompensate.orchestrator.kernel.policy import Policy
from kompensate.orchestrator.kernel.tables import CallStatus, Status
from tests.fixtures.driving import Confirm, Driven, Order, Ship, inventory, kinds, shipping

QUICK = RetryPolicy(initial_interval=0.5)
SAID: list[dict[str, Any]] = [{}, {"retry": QUICK}, {"resend_after": 7}, {"retry": QUICK, "resend_after": 7}]
KINDS = ("compensatable", "pivot", "retriable")


def add(number: int) -> int:
    return number + 1


def past(kind: str, said: dict[str, Any]) -> Driven:
    """A saga whose one call past the pivot is out."""

    @saga("past")
    async def found(ctx: Context, order: Order) -> None:
        await ctx.call(shipping, Ship("o1"), kind="pivot")
        await ctx.call(inventory, Confirm("o1"), kind=kind, **said)

    return begun(found)


def begun(definition: Saga | AsyncSaga) -> Driven:
    driven = Driven(definition, cached=False)
    driven.start()
    driven.reply()
    return driven


def refused_often(driven: Driven) -> None:
    for _ in range(20):
        assert kinds(driven.no()) == ["AttemptFailed"]
        assert kinds(driven.wait_until_due()) == ["AttemptMade"]


@pytest.mark.parametrize("said", SAID, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_tried_for_ever(kind: str, said: dict[str, Any]) -> None:
    """Neither attempts nor time have a limit that nobody set; what was said holds."""
    driven = past(kind, said)
    policy = driven.state.calls[2].made.policy
    assert policy == Policy.of(Policy(attempts=0), said.get("retry"), said.get("resend_after"))
    refused_often(driven)

    for _ in range(20):
        assert kinds(driven.wait_until_due()) == ["CommandResent"]
    driven.reply()
    assert driven.state.status is Status.COMPLETED


@pytest.mark.parametrize("kind", KINDS)
def test_limits_that_were_set_hold(kind: str) -> None:
    """Also those that are the default of another kind."""
    driven = past(kind, {"retry": RetryPolicy(maximum_attempts=3), "timeout": 300})
    policy = driven.state.calls[2].made.policy
    assert (policy.attempts, policy.timeout) == (3, 300_000)
    for _ in range(2):
        driven.no()
        driven.wait_until_due()

    assert kinds(driven.no()) == ["AttemptFailed", "SagaQuarantined"]


def test_before_the_pivot_three_attempts() -> None:
    """What was not said is the kind's own."""

    @saga("before")
    async def found(ctx: Context, order: Order) -> None:
        await ctx.call(inventory, Confirm("o1"), retry=QUICK)

    driven = Driven(found)
    driven.start()
    policy = driven.state.calls[1].made.policy

    assert (policy.attempts, policy.timeout, policy.retry_initial) == (3, 300_000, 500)


@pytest.mark.parametrize("said", [{}, {"retry": QUICK}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_local_steps_are_tried_for_ever_too(kind: str, said: dict[str, Any]) -> None:
    @saga("local")
    async def found(ctx: Context, order: Order) -> None:
        await ctx.call(shipping, Ship("o1"), kind="pivot")
        await ctx.run(add, 1, kind=kind, **said)

    driven = begun(found)
    for _ in range(20):
        assert kinds(driven.ran(None, "failed")) == ["AttemptFailed"]
        driven.wait_until_due()

    assert driven.state.calls[2].status is CallStatus.SENT


def test_one_that_runs_at_most_once_does() -> None:
    """Past the pivot too: tried once, then somebody looks."""

    @saga("once")
    async def found(ctx: Context, order: Order) -> None:
        await ctx.call(shipping, Ship("o1"), kind="pivot")
        await ctx.run(add, 1, at_most_once=True, retry=QUICK)

    driven = begun(found)

    assert kinds(driven.ran(None, "failed")) == ["AttemptFailed", "SagaQuarantined"]


@pytest.mark.parametrize("said", SAID, ids=str)
def test_declared_steps_are_tried_for_ever(said: dict[str, Any]) -> None:
    steps = [Step("ship", shipping, Ship, kind="pivot"), Step("confirm", inventory, Confirm, kind="retriable", **said)]

    refused_often(begun(Saga("declared", Order, steps)))
