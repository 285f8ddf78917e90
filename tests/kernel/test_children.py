"""Child sagas: started in the parent's transaction, their end is an answer to it."""

from dataclasses import replace

import pytest

from kompensate.orchestrator import Context, FailSaga, StepFailed, StepInDoubt, saga
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.effects import AnswerParent, CancelChild
from kompensate.orchestrator.kernel.tables import CallStatus, Status
from kompensate.schemas import payloads
from tests.fixtures.driving import CHECKOUT, SAGA_ID, Driven, Order, Release, Reserve, inventory, kinds

pytestmark = pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])


@saga("parent")
async def parent(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    found: str = await ctx.child(CHECKOUT, order, returns=str)
    await ctx.call(inventory, Reserve("o2"), step="after")
    return found


def driven_to_the_child(cached: bool) -> Driven:
    driven = Driven(parent, cached=cached, others=[CHECKOUT])
    driven.start()
    driven.reply()
    return driven


def test_a_child_answers_its_parent(cached: bool) -> None:
    """Its id is derived from the parent's and the call's number; its result is what the await gives."""
    driven = driven_to_the_child(cached)
    child = driven.child()

    assert (child.saga_id, child.definition, child.answers) == (f"{SAGA_ID}.2", "checkout", child.id)
    assert driven.state.next_due() is None, "nothing is asked again: the start is in the log for good"
    assert kinds(driven.child_ended(value="shipped")) == ["CallSucceeded", "CallMade"]
    driven.reply()
    assert driven.state.result == b'"shipped"'


def test_a_child_that_did_not_complete_is_a_failed_step(cached: bool) -> None:
    driven = driven_to_the_child(cached)

    decision = driven.child_ended("failed", {"reason": "step: no stock"})

    assert kinds(decision) == ["CallFailed", "CompensationStarted", "UndoSent"]
    assert "no stock" in driven.state.reason


def test_a_parent_that_turns_back_cancels_its_child_and_waits(cached: bool) -> None:
    """The steps before it are undone once the child has come to its end."""
    driven = driven_to_the_child(cached)

    assert kinds(driven.cancel()) == ["CallInDoubt", "CompensationStarted", "UndoSent"]
    (asked,) = driven.told(CancelChild)
    assert isinstance(asked, CancelChild)
    assert asked.saga_id == driven.child().saga_id
    assert kinds(driven.child_ended("refused", {"reason": "cancel"})) == ["CallUndone", "UndoSent"]
    assert kinds(driven.reply()) == ["CallUndone", "SagaCancelled"]


def test_a_child_that_completes_while_its_cancel_travels_stands(cached: bool) -> None:
    """As if it had completed before: its own finished piece of business. What came before it is undone."""
    driven = driven_to_the_child(cached)
    driven.cancel()

    assert kinds(driven.child_ended(value="shipped")) == ["CallSucceeded", "UndoSent"]

    assert driven.state.calls[2].status is CallStatus.DONE
    assert kinds(driven.child_ended(value="shipped")) == [], "once told is enough"
    assert kinds(driven.reply()) == ["CallUndone", "SagaCancelled"]


@saga("dropping")
async def dropping(ctx: Context, order: Order) -> str:
    child = ctx.child(CHECKOUT, order)
    await ctx.select(go=ctx.receive("go"), child=child, cancel_losers=True)
    try:
        await child
    except StepInDoubt:
        await ctx.call(inventory, Reserve("other"), undo=Release("other"))
    return "dropped"


@pytest.mark.parametrize("paused", [True, False])
def test_a_dropped_child_that_completes_stands(cached: bool, paused: bool) -> None:
    """The program has gone on without it, and hears no more of it; also when it is replayed."""
    driven = Driven(dropping, cached=cached, others=[CHECKOUT])
    driven.start()
    driven.signal("go")
    if paused:
        driven.pause()
    assert kinds(driven.child_ended(value="shipped"))[0] == "CallSucceeded"
    if paused:
        driven.resume()
    assert driven.state.calls[1].status is CallStatus.DONE
    assert driven.sent[-1].type == "inventory.Reserve"

    assert kinds(driven.no()) == ["CallRefused", "CompensationStarted", "SagaCompensated"]
    assert driven.state.hold is None


@saga("recalling")
async def recalling(ctx: Context, order: Order) -> None:
    ctx.compensate(inventory, Release("recalled"))
    await ctx.child(CHECKOUT, order)
    await ctx.sleep(5)


@pytest.mark.parametrize("before", [True, False])
def test_what_was_registered_undoes_a_child_that_completed(cached: bool, before: bool) -> None:
    """Before the cancel or after it: once the child has ended."""
    driven = Driven(recalling, cached=cached, others=[CHECKOUT])
    driven.start()
    if before:
        driven.child_ended(value="shipped")
    last = driven.cancel()
    if not before:
        assert driven.sent == []
        last = driven.child_ended(value="shipped")

    assert kinds(last)[-1] == "UndoSent"
    assert driven.sent[-1].type == "inventory.Release"
    assert kinds(driven.reply()) == ["CallUndone", "SagaCancelled"]


@saga("impatient")
async def impatient(ctx: Context, order: Order) -> None:
    await ctx.child(CHECKOUT, order, timeout=5)


@pytest.mark.parametrize("completed", [True, False])
def test_a_child_that_ends_while_in_doubt(cached: bool, completed: bool) -> None:
    """It ended between its time-out and the cancel that was to follow: nobody waits for an answer that has come."""
    driven = Driven(impatient, cached=cached, others=[CHECKOUT])
    driven.start()
    driven.pause()
    driven.now += 5_000
    assert kinds(driven.child_ended("done" if completed else "failed"))[0] in ("CallSucceeded", "CallFailed")

    late = Driven(impatient, cached=cached, others=[CHECKOUT])
    late.start()
    assert kinds(late.wait(5_000)) == ["CallInDoubt", "CompensationStarted", "UndoSent"]
    expected = ["CallSucceeded", "SagaCompensated"] if completed else ["CallUndone", "SagaCompensated"]
    assert kinds(late.child_ended("done" if completed else "failed")) == expected


@saga("patient")
async def patient(ctx: Context, order: Order) -> None:
    """Goes on after its child was in doubt, and turns back later."""
    try:
        await ctx.child(CHECKOUT, order, timeout=5)
    except StepInDoubt:
        await ctx.call(inventory, Reserve("after"))


@pytest.mark.parametrize("completed", [True, False])
def test_a_child_that_ended_since_it_was_in_doubt(cached: bool, completed: bool) -> None:
    driven = Driven(patient, cached=cached, others=[CHECKOUT])
    driven.start()
    driven.wait(5_000)
    assert kinds(driven.child_ended("done" if completed else "failed")) == ["LateReplyArrived"]

    decision = driven.no()

    expected = ["CallSucceeded" if completed else "CallUndone", "SagaCompensated"]
    assert kinds(decision) == ["CallRefused", "CompensationStarted", "UndoSent", *expected]
    assert driven.told(CancelChild) == []


@saga("lenient")
async def lenient(ctx: Context, order: Order) -> str:
    child = ctx.child(CHECKOUT, order, on_close="request_cancel")
    await ctx.sleep(1)
    await ctx.undo(child)
    return "stopped"


@pytest.mark.parametrize(("outcome", "last"), [("refused", "CallUndone"), ("done", "CallSucceeded")])
def test_a_child_that_may_complete_holds_nobody(cached: bool, outcome: str, last: str) -> None:
    """It is asked to cancel, and its end waited for: past its pivot it completes, and that is well too."""
    driven = Driven(lenient, cached=cached, others=[CHECKOUT])
    driven.start()
    driven.wait(1_000)
    assert len(driven.told(CancelChild)) == 1

    decision = driven.child_ended(outcome, {"reason": "cancel"})

    assert kinds(decision) == [last, "UndoEnded", "SagaCompleted"]


@saga("giving-up")
async def giving_up(ctx: Context, order: Order) -> None:
    try:
        await ctx.child(CHECKOUT, order, on_close="request_cancel", timeout=1)
    except StepInDoubt:
        await ctx.sleep(5)
    raise FailSaga("it took too long")


def test_a_child_that_completed_while_in_doubt_holds_nobody_either(cached: bool) -> None:
    """It was given up, and has completed before its parent turned back: there is nobody left to ask."""
    driven = Driven(giving_up, cached=cached, others=[CHECKOUT])
    driven.start()
    driven.wait(1_000)
    assert kinds(driven.child_ended()) == ["LateReplyArrived"]

    decision = driven.wait(5_000)

    assert kinds(decision) == ["SleepEnded", "CompensationStarted", "UndoSent", "CallSucceeded", "SagaFailed"]
    assert driven.told(CancelChild) == []


def test_a_completed_child_is_not_cancelled(cached: bool) -> None:
    driven = driven_to_the_child(cached)
    driven.child_ended(value="shipped")

    assert kinds(driven.no()) == ["CallRefused", "CompensationStarted", "UndoSent"]

    assert driven.told(CancelChild) == []
    assert driven.sent[-1].type == "inventory.Release"


@saga("asking-both")
async def asking_both(ctx: Context, order: Order) -> None:
    await ctx.child(CHECKOUT, order, on_close="request_cancel")
    await ctx.sleep(5)


def test_a_child_that_had_completed_is_not_asked_to_cancel(cached: bool) -> None:
    """Nobody would answer."""
    driven = Driven(asking_both, cached=cached, others=[CHECKOUT])
    driven.start()
    driven.child_ended()

    assert kinds(driven.cancel()) == ["CompensationStarted", "SagaCancelled"]

    assert driven.told(CancelChild) == []


@saga("letting-go")
async def letting_go(ctx: Context, order: Order) -> list[str]:
    first: str = await ctx.child("checkout", order, detached=True, saga_id="dispatch-1")
    second: str = await ctx.child("checkout", order, detached=True, on_close="cancel")
    if order.order_id == "fail":
        raise FailSaga("as asked")
    return [first, second]


def test_a_detached_child_is_not_waited_for(cached: bool) -> None:
    driven = Driven(letting_go, cached=cached, others=[CHECKOUT])

    assert kinds(driven.start())[-1] == "SagaCompleted"

    assert driven.state.result == b'["dispatch-1","%s.2"]' % SAGA_ID.encode()
    assert driven.child().answers is None


def test_a_detached_child_is_cancelled_where_it_is_asked_for(cached: bool) -> None:
    """Without waiting: nobody answers."""
    driven = Driven(letting_go, cached=cached, others=[CHECKOUT])

    assert kinds(driven.start(Order("fail")))[-3:] == ["UndoSent", "CallUndone", "SagaFailed"]

    (asked,) = driven.told(CancelChild)
    assert isinstance(asked, CancelChild)
    assert asked.saga_id == f"{SAGA_ID}.2"


def child_of(cached: bool) -> tuple[Driven, i.StartAsked]:
    driven = Driven(CHECKOUT, cached=cached)
    asked = i.StartAsked(
        driven.origin(), "checkout", payloads.encode(Order()), parent="order-0", parent_command="command-7"
    )
    driven.give(asked)
    return driven, asked


@pytest.mark.parametrize(("ends", "outcome"), [("done", "done"), ("refused", "failed"), ("cancel", "refused")], ids=str)
def test_a_child_tells_its_end(cached: bool, ends: str, outcome: str) -> None:
    """In the transaction of its end: completed is done, compensated failed, cancelled refused."""
    driven, _ = child_of(cached)
    if ends == "cancel":
        driven.cancel()
    while not driven.state.ended:
        driven.reply(None, ends if ends == "refused" and driven.state.status is Status.RUNNING else "done")

    (told,) = driven.told(AnswerParent)

    assert isinstance(told, AnswerParent)
    assert (told.saga_id, told.command_id, told.outcome) == ("order-0", "command-7", outcome)


def test_an_id_that_is_anothers_is_refused(cached: bool) -> None:
    """The parent hears of it; the same parent's start again is a duplicate."""
    driven, asked = child_of(cached)
    assert driven.give(asked).effects == []

    decision = driven.give(replace(asked, parent="order-9", parent_command="command-8"))

    (told,) = decision.effects
    assert isinstance(told, AnswerParent)
    assert (told.command_id, told.outcome) == ("command-8", "refused")
    assert decision.events == []


def test_alternatives_to_a_child(cached: bool) -> None:
    @saga("tolerant")
    async def tolerant(ctx: Context, order: Order) -> str:
        try:
            await ctx.child(CHECKOUT, order)
        except StepFailed as error:
            return error.reason
        return "done"

    driven = Driven(tolerant, cached=cached, others=[CHECKOUT])
    driven.start()

    driven.child_ended("failed", {"reason": "compensated"})

    assert driven.state.result == b'"compensated"'
