"""Stories of going forward: starts, calls, replies, retries, resends."""

from typing import Any

import pytest

from kompensate.orchestrator import NOTHING, Context, Policy, Saga, Step, saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.decide import Decision
from kompensate.orchestrator.kernel.effects import SendCommand
from kompensate.orchestrator.kernel.errors import Rejected, SagaError
from kompensate.orchestrator.kernel.tables import CallStatus, Status
from kompensate.schemas import payloads
from tests.fixtures.driving import (
    CHECKOUT,
    START_TIME,
    Charge,
    Driven,
    Order,
    Release,
    Reserve,
    Ship,
    commands,
    inventory,
    kinds,
    payments,
    shipping,
)


def test_a_start_sends_the_first_command() -> None:
    """Given nothing, when a start comes, then the saga has started and its first command goes out."""
    driven = Driven()

    decision = driven.start(Order("o7"))

    plan, policy = CHECKOUT.plan.hash, CHECKOUT.plan.steps[0].policy
    reserve, release = ("reserve", "inventory", "inventory.Reserve"), "inventory.Release"
    payload = b'{"order_id":"o7"}'
    assert decision == Decision(
        [
            e.SagaStarted("checkout", plan, payload, None, None),
            e.CallMade(1, *reserve, "compensatable", payload, release, payload, policy),
        ],
        [
            SendCommand(
                id=driven.state.calls[1].id,
                service="inventory",
                type="inventory.Reserve",
                step="reserve",
                phase="forward",
                attempt=1,
                payload=payload,
                compensates=None,
                expires_at=START_TIME + 300_000,
            )
        ],
    )


def test_four_steps_to_the_end() -> None:
    """Each reply sends the next command; the last one completes the saga."""
    driven = Driven()
    driven.start()

    sent = [commands(driven.reply()) for _ in range(3)]
    last = driven.reply()

    assert sent == [["forward charge#1"], ["forward ship#1"], ["forward confirm#1"]]
    assert kinds(last) == ["CallSucceeded", "SagaCompleted"]
    assert driven.state.status is Status.COMPLETED
    assert driven.state.next_due() is None


def test_steps_see_the_input_and_earlier_results() -> None:
    """Callables make commands from the saga's input and the results so far, and its result at the end."""
    definition = Saga(
        "made",
        Order,
        [
            Step("reserve", inventory, Reserve, undo=NOTHING, returns=int),
            Step("charge", payments, Charge, undo=NOTHING, make=lambda s: Charge(f"{s.input.order_id}/{s['reserve']}")),
        ],
        result=lambda s: {"charged": s["charge"]},
    )
    driven = Driven(definition)
    driven.start()

    driven.reply(value=7)
    assert driven.sent[-1].payload == b'{"order_id":"o1/7"}'

    driven.reply(value="yes")
    assert driven.state.result == b'{"charged":"yes"}'


def test_a_second_start_changes_nothing() -> None:
    """A duplicate start, while it runs or after its end, gives no events."""
    driven = Driven()
    driven.start()

    assert driven.start(Order("another")) == Decision()
    for _ in range(4):
        driven.reply()
    assert driven.start() == Decision()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("unheard-of", Order(), "expected the name of a saga of this application, got 'unheard-of'"),
        ("checkout", "o7", "saga 'checkout' cannot start: payload Order: Expected `object`, got `str`"),
    ],
)
def test_a_start_that_cannot_be(name: str, value: Any, told: str) -> None:
    """An unknown saga or a wrong input is rejected with expected and got, and leaves no trace."""
    driven = Driven()

    with pytest.raises(Rejected, match=told):
        driven.start(value, name=name)

    assert driven.state.status is None
    assert driven.start() is not None


def test_a_definite_failure_is_tried_again_with_a_new_id() -> None:
    """Failed: after the delay the next attempt goes out with its own id, three in all; then it failed for good."""
    driven = Driven()
    driven.start()
    ids = [driven.sent[-1].id]

    for attempt in (2, 3):
        assert kinds(driven.no(outcome="failed")) == ["AttemptFailed"]
        waited = driven.state.next_due()
        assert waited is not None
        delay = 1_000 * 2 ** (attempt - 2)
        assert delay // 2 <= waited - driven.now <= delay
        decision = driven.wait_until_due()
        assert (kinds(decision), commands(decision)) == (["AttemptMade"], [f"forward reserve#{attempt}"])
        ids.append(driven.sent[-1].id)
    decision = driven.no("broken", outcome="failed")

    assert len(set(ids)) == 3
    assert kinds(decision) == ["CallFailed", "CompensationStarted", "SagaCompensated"]
    assert driven.state.reason == "reserve: broken"


def test_backoff_and_jitter_are_the_same_everywhere() -> None:
    """Delays come from the policy and a hash of the command's id: two sagas alike wait alike."""
    delays = []
    for _ in range(2):
        driven = Driven()
        driven.start()
        driven.no(outcome="failed")
        delays.append((driven.state.next_due() or 0) - driven.now)
    policy = Policy(retry_initial=1_000, retry_percent=200, retry_max=3_000)

    assert delays == [692, 692]
    assert [policy.retry_delay(n, "some command") for n in (1, 2, 3, 4, 100)] == [521, 1041, 1561, 1561, 1561]


def test_no_answer_sends_the_same_command_again() -> None:
    """After `resend_after` the same id goes out again, each time twice as late."""
    driven = Driven()
    driven.start()
    times = []

    for _ in range(3):
        decision = driven.wait_until_due()
        assert (kinds(decision), commands(decision)) == (["CommandResent"], ["forward reserve#1"])
        times.append(driven.now - START_TIME)

    assert len({command.id for command in driven.sent}) == 1
    assert times == [15_000, 45_000, 105_000]


def test_an_expired_command_is_not_tried_again() -> None:
    """Expired: the participant did nothing, and the time is over: it failed for good."""
    driven = Driven()
    driven.start()

    assert kinds(driven.no(outcome="expired"))[0] == "CallFailed"


def test_replies_that_change_nothing() -> None:
    """A duplicate, and the answer to an attempt that is over, give no events."""
    driven = Driven()
    driven.start()
    first = driven.sent[-1]
    driven.no(outcome="failed")
    assert driven.reply(first) == Decision()
    driven.wait_until_due()
    assert driven.reply(first) == Decision()
    driven.reply()
    reserve = driven.command("reserve")

    assert driven.reply(reserve) == Decision()
    assert driven.no(command=reserve) == Decision()


def test_a_reply_by_the_wrong_service() -> None:
    """One service cannot answer for another: such a reply is rejected with both names."""
    driven = Driven()
    driven.start()

    with pytest.raises(Rejected, match=r"step 'reserve': expected a reply by 'inventory', got one by 'payments'"):
        driven.reply(service="payments")

    assert kinds(driven.reply()) == ["CallSucceeded", "CallMade"]


def test_a_reply_to_a_command_never_sent() -> None:
    """A reply that names no command of this saga is rejected, naming the id: somebody mixed sagas up."""
    driven, other = Driven(), Driven()
    driven.start()
    other.execution.state.run = "0.1"
    other.start()

    with pytest.raises(Rejected, match=f"expected a reply to a command of this saga, got one to {other.sent[-1].id!r}"):
        driven.reply(other.sent[-1])

    assert driven.state.calls[1].status is CallStatus.SENT


@saga("unawaited")
async def unawaited(ctx: Context, order: Order) -> str:
    ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    ctx.call(shipping, Ship("o1"), kind="pivot")
    return "returned"


def test_a_saga_ends_when_its_calls_are_answered() -> None:
    """A program that returns with commands out waits for their answers: no command is forgotten."""
    driven = Driven(unawaited)
    assert kinds(driven.start()) == ["SagaStarted", "CallMade", "CallMade"]
    assert kinds(driven.wait_until_due()) == ["CommandResent", "CommandResent"]

    driven.drop()
    assert kinds(driven.reply(driven.command("Ship"))) == ["CallSucceeded"]
    assert driven.no(command=driven.command("Reserve")).events == [
        e.CallRefused(1, b'{"reason":"no"}'),
        e.SagaCompleted(b'"returned"'),
    ]


@saga("catching")
async def catching(ctx: Context, order: Order) -> Any:
    try:
        await ctx.call(inventory, Reserve("o1"), undo=Release("o1"), returns=int)
    except SagaError as error:
        return [type(error).__name__, error.step, error.reason, error.detail]


@pytest.mark.parametrize(
    ("outcome", "value", "expected"),
    [
        ("refused", {"reason": "sold out", "detail": {"left": 0}}, ["StepRefused", "Reserve", "sold out", {"left": 0}]),
        ("expired", {"reason": "too late"}, ["StepFailed", "Reserve", "too late", None]),
        ("refused", "no object", ["StepRefused", "Reserve", "no reason given", "no object"]),
        ("refused", None, ["StepRefused", "Reserve", "no reason given", None]),
    ],
)
def test_a_program_can_catch_what_went_wrong(outcome: str, value: Any, expected: list[Any]) -> None:
    """A step's error tells what kind it is, the step, the reason and the detail; caught, the saga goes on."""
    driven = Driven(catching)
    driven.start()

    decision = driven.reply(outcome=outcome, value=value)

    assert kinds(decision)[-1] == "SagaCompleted"
    assert payloads.decode(driven.state.result, list) == expected


def test_a_result_of_the_wrong_type_is_held() -> None:
    """A result that is not what the program expects holds the saga, with expected and got."""
    driven = Driven(catching)
    driven.start()

    assert kinds(driven.reply(value="seven")) == ["CallSucceeded", "SagaQuarantined"]
    assert "Expected `int`, got `str`" in driven.state.hold_reason
