"""Commands ordered by another key than the saga's id."""

import pytest

from kompensate.orchestrator import Context, RetryPolicy, Saga, Step, saga
from kompensate.orchestrator.kernel import events as e
from tests.fixtures.driving import (
    Charge,
    Driven,
    Order,
    Refund,
    Release,
    Reserve,
    inventory,
    kinds,
    payments,
    sends,
)

pytestmark = pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])


@saga("keyed")
async def keyed(ctx: Context, order: Order) -> str:
    retry = RetryPolicy(maximum_attempts=2)
    await ctx.call(payments, Charge("o"), undo=Refund("o"), key="account-7", retry=retry, resend_after=1)
    found: str = await ctx.call(inventory, Reserve("o"), undo=Release("o"), key="shelf-3", limit="narrow")
    return found


def test_every_record_of_a_call_carries_its_key(cached: bool) -> None:
    """The command, when it is sent again or tried anew, and what undoes it; others keep the saga's id."""
    driven = Driven(keyed, cached=cached)
    decision = driven.start()
    assert kinds(decision) == ["SagaStarted", "CallMade", "CallKeyed"]
    assert driven.history[-1][0] == e.CallKeyed(1, "account-7")
    keys = [command.key for command in sends(decision)]
    keys += [command.key for command in sends(driven.wait_until_due())]
    driven.no(outcome="failed")
    keys += [command.key for command in sends(driven.wait_until_due())]
    decision = driven.reply()
    assert kinds(decision) == ["CallSucceeded", "CallMade", "CallKeyed", "CallQueued"]
    keys += [command.key for command in sends(driven.room(2))]
    keys += [command.key for command in sends(driven.no())]

    assert keys == ["account-7"] * 3 + ["shelf-3", "account-7"]


def test_a_step_takes_its_key_from_the_scope(cached: bool) -> None:
    """A declared step's key is made of the input and of what was done before; one without has none."""
    steps = [
        Step("reserve", inventory, Reserve, undo=Release),
        Step("charge", payments, Charge, undo=Refund, key=lambda scope: f"{scope.input.order_id}-{scope['reserve']}"),
    ]
    driven = Driven(Saga("stepped", Order, steps), cached=cached)
    first, second = sends(driven.start()), sends(driven.reply(value=7))

    assert [command.key for command in first + second] == ["", "o1-7"]


@pytest.mark.parametrize("key", ["", "x" * 201, 7])
def test_what_is_no_key_is_refused(cached: bool, key: object) -> None:
    """An empty key, one too long, or no text at all is the author's mistake, and says so."""

    @saga("mistaken")
    async def mistaken(ctx: Context, order: Order) -> str:
        try:
            await ctx.call(payments, Charge("o"), key=key)  # type: ignore[arg-type]  # the mistake under test
        except ValueError as error:
            return str(error)
        return "taken"

    driven = Driven(mistaken, cached=cached)
    driven.start()

    assert driven.state.result is not None
    assert b"call: expected a text of 1 to 200 characters as key" in driven.state.result
    assert driven.sent == []
