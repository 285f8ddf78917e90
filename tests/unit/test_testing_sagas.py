"""The test kit: sagas driven in memory, their participants scripted, assertions that read like the saga."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kompensate.orchestrator import Application, Context, FailSaga, Service, StepRefused, saga
from kompensate.orchestrator.testing import (
    MODES,
    SagaTest,
    done,
    environment,
    expired,
    failed,
    in_turn,
    late,
    never,
    refused,
    twice,
)
from kompensate.schemas.messages import SIGNAL
from kompensate.schemas.messages import Request as Message
from tests.fixtures.driving import CHECKOUT, Charge, Confirm, Order, Refund, Release, Reserve, Ship, payments

DAY = 86_400


@dataclass
class Request:
    """Who asks for access, and who has to agree."""

    person: str
    approvers: list[str]


@dataclass
class Grant:
    person: str


@saga("access")
async def access(ctx: Context, request: Request) -> str:
    for approver in request.approvers:
        answer = await ctx.receive(f"answer-{approver}", timeout=7 * DAY)
        if answer != "yes":
            raise FailSaga(f"{approver} said {answer}")
    await ctx.call("directory", Grant(request.person), kind="pivot")
    return f"granted to {request.person}"


ACCESS = Application("office", [access], services=["directory"])
CHAIN = Request("ann", ["bob", "cyd", "dan", "eve", "fay"])


def checkout(mode: str = "cached") -> SagaTest:
    return SagaTest(CHECKOUT, mode=mode)


@pytest.mark.parametrize("mode", MODES)
class TestInEveryMode:
    """What a test says of a saga holds in every mode."""

    def test_a_saga_completes(self, mode: str) -> None:
        """Unless a script says otherwise every command is done, with null."""
        test = checkout(mode)
        order = test.start("checkout", Order("o1"))

        test.run()

        order.assert_completed(result=None)
        assert order.commands == ["inventory.Reserve", "payments.Charge", "shipping.Ship", "inventory.Confirm"]
        assert order.done == ["reserve", "charge", "ship", "confirm"]
        assert order.messages(Charge) == [Charge("o1")]
        assert [seen.deliveries for seen in order.seen] == [1, 1, 1, 1]

    def test_a_refusal_compensates(self, mode: str) -> None:
        """Done steps are undone in reverse, and the reason is the participant's."""
        test = checkout(mode)
        test.on(Ship, refused("no such street"))
        order = test.start(CHECKOUT, Order("o1"))

        test.run()

        order.assert_compensated("no such street")
        assert order.undone == ["charge", "reserve"]
        assert order.commands[-2:] == ["payments.Refund", "inventory.Release"]

    def test_answers_in_turn(self, mode: str) -> None:
        """Fails twice, then is done: two more attempts, after virtual seconds."""
        test = checkout(mode)
        test.on(Charge, in_turn(failed("down"), failed("down"), done({"receipt": 7})))
        order = test.start("checkout", Order())
        began = test.now

        test.run()

        order.assert_completed()
        assert [seen.attempt for seen in order.seen if seen.type == "payments.Charge"] == [1, 2, 3]
        assert timedelta(seconds=1) < test.now - began < timedelta(seconds=4)

    def test_silence_leaves_a_step_in_doubt(self, mode: str) -> None:
        """A command that is never answered is sent again, given up after five minutes, and undone."""
        test = checkout(mode)
        test.on(Charge, never())
        order = test.start("checkout", Order())
        began = test.now

        test.run()

        order.assert_compensated("no answer within 300000 ms")
        assert order.undone == ["charge", "reserve"]
        assert test.now - began == timedelta(minutes=5)
        (charge,) = (seen for seen in order.seen if seen.type == "payments.Charge")
        assert charge.deliveries == 5, "resent after 15, 45, 105 and 225 seconds"

    def test_a_late_answer_only_adds_an_event(self, mode: str) -> None:
        """An answer after the step was given up changes nothing: its compensation was sent."""
        test = checkout(mode)
        test.on(Charge, late(310))
        test.on(Refund, late(60))
        order = test.start("checkout", Order())

        test.run()

        order.assert_compensated()
        assert order.events.count("LateReplyArrived") == 1

    def test_seven_days_each_for_five_approvers(self, mode: str) -> None:
        """The clock jumps: a chain that takes weeks is a test of milliseconds."""
        test = SagaTest(ACCESS, mode=mode)
        asked = test.start("access", CHAIN)
        began = test.now
        for name in CHAIN.approvers:
            test.advance(6 * DAY)
            asked.signal(f"answer-{name}", "yes")

        test.run()

        asked.assert_completed("granted to ann")
        assert test.now - began == timedelta(days=30)

    def test_nobody_answers_for_seven_days(self, mode: str) -> None:
        """A time-out of a receive comes by itself; one that nobody catches holds the saga."""
        test = SagaTest(ACCESS, mode=mode)
        asked = test.start("access", CHAIN)
        began = test.now

        test.run()

        asked.assert_held("TimeoutError")
        assert test.now - began == timedelta(days=7)

    def test_signals_after_a_step_and_later(self, mode: str) -> None:
        """What is asked of a saga can come once a step is done, or at a virtual time."""
        test = checkout(mode)
        test.on(Charge, late(60))  # or the pause might come after the end
        order = test.start("checkout", Order())
        order.pause("look", after="reserve")
        order.resume(after="reserve", delay=3600)
        began = test.now

        test.run()

        order.assert_completed()
        assert test.now - began == timedelta(hours=1)
        assert "SagaPaused" in order.events

    def test_a_cancel_while_a_step_is_out(self, mode: str) -> None:
        """Driven to a step that waits, then cancelled: what is out is undone too."""
        test = checkout(mode)
        test.on(Charge, late(60))
        order = test.start("checkout", Order())

        order.run_until("charge")
        order.assert_waits_for("charge")
        order.cancel("changed my mind")
        test.run()

        order.assert_cancelled("changed my mind")
        assert order.undone == ["charge", "reserve"]

    def test_an_answer_that_comes_twice_and_one_that_expired(self, mode: str) -> None:
        """A doubled reply changes nothing; an expired command is known not to be done."""
        test = checkout(mode)
        test.on(Reserve, twice(done("shelf 3")))
        test.on(Charge, expired())
        order = test.start("checkout", Order())

        test.run()

        order.assert_compensated()
        assert order.undone == ["reserve"]
        assert order.commands == ["inventory.Reserve", "payments.Charge", "inventory.Release"]

    def test_many_sagas_at_once(self, mode: str) -> None:
        """Each saga's commands and outcome are its own; functions answer by what a command says."""
        test = checkout(mode)

        def charge(command: Charge) -> Any:
            return refused("no money") if command.order_id == "o3" else {"of": command.order_id}

        test.on("payments.Charge", charge)
        orders = [test.start("checkout", Order(f"o{n}")) for n in range(10)]

        test.run()

        assert [order.status for order in orders] == ["completed"] * 3 + ["compensated"] + ["completed"] * 6
        assert orders[3].messages(Release) == [Release("o3")]
        assert all(order.messages(Confirm) == [Confirm(f"o{n}")] for n, order in enumerate(orders) if n != 3)


def test_now_is_what_the_test_says() -> None:
    """A test can begin at a date, and sagas see it."""

    @saga("until")
    async def until(ctx: Context, _: None) -> str:
        await ctx.sleep_until(datetime(2030, 2, 1, tzinfo=UTC))
        return datetime.fromtimestamp(ctx.now() / 1000, UTC).isoformat()

    test = SagaTest(until, now=datetime(2030, 1, 1, tzinfo=UTC))
    found = test.start(until)
    test.run()

    found.assert_completed("2030-02-01T00:00:00+00:00")
    assert found.result_as(datetime) == test.now == datetime(2030, 2, 1, tzinfo=UTC)


def test_time_passes_only_as_far_as_asked() -> None:
    """`run_until_idle` leaves the clock, `advance` moves it just so far."""
    test = SagaTest(ACCESS)
    asked = test.start("access", CHAIN)
    began = test.now

    test.run_until_idle()
    asked.assert_waits_for("answer-bob")
    assert test.now == began
    test.advance(7 * DAY - 1)
    asked.assert_waits_for("answer-bob")
    assert test.now == began + timedelta(days=7, seconds=-1)
    test.advance(1)

    asked.assert_held("TimeoutError")


def test_commands_are_decoded_as_the_function_says() -> None:
    """For an async saga the class of a command comes from the script: its annotation, or the class it is for."""

    @saga("pays")
    async def pays(ctx: Context, _: None) -> Any:
        try:
            return await ctx.call(payments, Charge("o1"))
        except StepRefused as error:
            return error.detail

    seen: list[object] = []

    def charge(command: Charge) -> object:
        seen.append(command)
        return refused("no", detail={"left": 3})

    test = SagaTest(pays, services=[payments])
    test.on("payments.Charge", charge)
    paid = test.start("pays")
    test.run()

    assert seen == [Charge("o1")]
    paid.assert_completed({"left": 3})

    plain = SagaTest(pays, services=[payments])
    unscripted = plain.start("pays")
    plain.run()
    assert [found.message for found in unscripted.seen] == [{"order_id": "o1"}]


def test_a_failed_assertion_tells_the_story() -> None:
    """What was expected, what was got, and the history in words, with what the saga waits for."""
    test = SagaTest(ACCESS, mode="reorder", seed=17)
    asked = test.start("access", CHAIN, saga_id="a-1")
    asked.signal("answer-bob", "yes", delay=DAY)
    test.advance(2 * DAY)

    with pytest.raises(AssertionError) as caught:
        asked.assert_completed()

    first, *story = str(caught.value).splitlines()
    assert first == "saga 'a-1': expected it to be completed, got running"
    assert story[0] == "saga 'a-1' (access), running; mode reorder, seed 17"
    assert [line.strip() for line in story[1:]] == [
        "0:00:00  saga started: access",
        "0:00:00  receive started: answer-bob",
        "1 day, 0:00:00  signal kept: answer-bob (request-2)",
        "1 day, 0:00:00  signal received: request-2",
        "1 day, 0:00:00  receive started: answer-cyd",
        "it waits for a signal 'answer-cyd' until 2023-11-22T22:13:20.000Z",
    ]


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (lambda order: order.assert_completed("cake"), "expected the result 'cake', got None"),
        (lambda order: order.assert_compensated(), "expected it to be compensated, got completed"),
        (lambda order: order.assert_cancelled(), "expected it to be cancelled, got completed"),
        (lambda order: order.assert_failed(), "expected it to be failed, got completed"),
        (lambda order: order.assert_held(), "expected it to be held, got completed"),
        (lambda order: order.assert_waits_for("charge"), "expected it to wait for charge, got nothing"),
    ],
)
def test_each_assertion_can_fail(check: Any, expected: str) -> None:
    """And says what it expected."""
    test = checkout()
    order = test.start("checkout", Order())
    test.run()

    with pytest.raises(AssertionError, match=expected):
        check(order)


def test_what_could_not_start_says_why() -> None:
    """A start that goes into quarantine stands in the story with its reason."""
    test = checkout()
    order = test.start("checkout", {"order_id": 1}, saga_id="o1")
    test.run()

    with pytest.raises(AssertionError, match=r"(?s)expected it to be completed, got not started.*quarantine.*order_id"):
        order.assert_completed()
    assert len(order.quarantined) == 1


def test_a_saga_that_tries_for_ever_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pivot that is never answered is resent for ever: the drive ends and says so; `advance` can be used."""
    monkeypatch.setattr(environment, "INPUTS_MAX", 100)
    test = checkout()
    test.on(Ship, never())
    order = test.start("checkout", Order())

    with pytest.raises(AssertionError, match="come to rest within 100 inputs"):
        test.run()
    order.assert_waits_for("ship")


def test_a_step_that_never_comes() -> None:
    """Waiting for a step, or asking something after it, fails where the saga ends without it."""
    test = checkout()
    test.on(Reserve, refused())
    order = test.start("checkout", Order(), saga_id="o1")
    order.cancel(after="charge")

    with pytest.raises(AssertionError, match=r"saga 'o1': expected step 'charge' to be done, and a cancel after it"):
        test.run()

    again = checkout()
    again.on(Reserve, refused())
    with pytest.raises(AssertionError, match="expected saga 'checkout-1': step 'charge' to be out"):
        again.start("checkout", Order()).run_until("charge")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: SagaTest(CHECKOUT, mode="chaos"), "mode: expected one of cached, always-replay, .*, got 'chaos'"),
        (
            lambda: checkout().on("payment.Charge", done()),
            "a service of inventory, payments, shipping; got 'payment.Cha",
        ),
        (lambda: checkout().on("Charge", done()), "expected a command's class, or its name .* got 'Charge'"),
        (lambda: checkout().start("chekout", Order()), "start: expected a saga of checkout, got 'chekout'"),
        (lambda: late(-1), "late: expected 0 seconds or more, got -1"),
        (
            lambda: in_turn(failed(), in_turn(done())),
            "answer: expected an answer or a result here, got answers in turn",
        ),
        (lambda: twice(print), "got the function <built-in function print>: give it to `on` itself"),
        (in_turn, "in_turn: expected at least one answer, got none"),
    ],
)
def test_mistakes_in_a_test_say_expected_and_got(wrong: Any, message: str) -> None:
    """Before anything runs."""
    with pytest.raises(ValueError, match=message):
        wrong()


@pytest.mark.parametrize("mode", MODES)
def test_what_stands_in_an_input_topic_is_handled(mode: str) -> None:
    """Not only what the test sends: sagas may write to each other in their transactions."""
    test = checkout(mode)
    test.start("checkout", Order(), delay=60)
    signal = Message("signal-1", SIGNAL, "o2", "another saga", subject="paid", payload=b"1")
    test._engine._broker.produce("test.requests", 0, b"o2", signal.payload, signal.headers())
    test.run_until_idle()

    assert test.saga("o2").events == ["SignalKept"]


def test_two_signals_of_one_id_are_one() -> None:
    """As a client's: the id makes it idempotent; one that comes before the start is kept."""

    @saga("counts")
    async def counts(ctx: Context, _: None) -> int:
        found: int = await ctx.receive("n") + await ctx.receive("n")
        return found

    test = SagaTest(Application("a", [counts], services=[Service("s")]))
    found = test.saga("c1")
    found.signal("n", 1, signal_id="first")
    found.signal("n", 1, signal_id="first")
    test.run()
    assert found.status == "pending"
    test.start(counts, saga_id="c1")
    found.signal("n", 20)
    test.run()

    found.assert_completed(21)
