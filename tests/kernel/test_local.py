"""Local steps: functions that the worker runs, and what a crash between their beginning and their end means."""

import pytest

from kompensate.orchestrator import Context, RetryPolicy, StepFailed, StepRefused, saga
from kompensate.orchestrator.kernel.tables import CallStatus, Hold, Status
from tests.fixtures.driving import Driven, Order, Release, Reserve, inventory, kinds

TWICE = RetryPolicy(initial_interval=1, maximum_attempts=2)
pytestmark = pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])


def double(number: int) -> int:
    return 2 * number


def forget(number: int) -> None:
    """What undoes `double`."""


def look(number: int) -> int:
    """What became of `double`."""
    return 2 * number


@saga("two")
async def two(ctx: Context, order: Order) -> int:
    first = await ctx.run(double, 1, undo=forget, retry=TWICE)
    second: int = await ctx.run(double, first, step="again", undo=forget)
    return second


def test_a_result_is_kept(cached: bool) -> None:
    """The function's result comes back from the history, decoded as its annotation says."""
    driven = Driven(two, cached=cached)

    assert kinds(driven.start()) == ["SagaStarted", "CallMade"]
    assert driven.work().work.args == (1,)
    assert kinds(driven.execute()) == ["CallSucceeded", "CallMade"]
    assert driven.work().work.args == (2,)
    assert kinds(driven.execute()) == ["CallSucceeded", "SagaCompleted"]
    assert driven.state.result == b"4"


def test_a_worker_that_dies_has_it_run_again(cached: bool) -> None:
    """With the same idempotency key: nobody knows how far it came."""
    driven = Driven(two, cached=cached)
    driven.start()
    key = driven.work().id

    assert driven.state.next_due() == driven.now, "whoever takes over looks at once"
    assert driven.state.next_timer() is None, "whoever runs it waits for its end"
    assert kinds(driven.lose_worker()) == ["CommandResent"]

    assert driven.work().id == key
    assert kinds(driven.execute()) == ["CallSucceeded", "CallMade"]


def test_a_failure_is_an_attempt(cached: bool) -> None:
    """It is tried again with another key, as the policy says, and is raised at last."""
    driven = Driven(two, cached=cached)
    driven.start()
    key = driven.work().id

    assert kinds(driven.ran({"reason": "busy"}, "failed")) == ["AttemptFailed"]
    assert kinds(driven.wait_until_due()) == ["AttemptMade"]
    assert driven.work().id != key
    decision = driven.ran({"reason": "busy"}, "failed")

    assert kinds(decision) == ["CallFailed", "CompensationStarted", "SagaCompensated"]


def test_it_is_undone_in_its_turn(cached: bool) -> None:
    """The undo gets the same arguments, and a key of its own; it too is run again after a crash."""
    driven = Driven(two, cached=cached)
    driven.start()
    done = driven.work().id
    driven.execute()

    assert kinds(driven.ran({"reason": "no"}, "refused")) == ["CallRefused", "CompensationStarted", "UndoSent"]
    undo = driven.work()
    assert (undo.work.function, undo.work.args) == (forget, (1,))
    assert undo.id != done
    assert kinds(driven.lose_worker()) == ["CommandResent"]
    assert driven.work() == undo
    assert kinds(driven.ran({"reason": "busy"}, "failed")) == ["UndoFailed"]
    assert kinds(driven.wait_until_due()) == ["UndoSent"]
    assert kinds(driven.execute()) == ["CallUndone", "SagaCompensated"]


def test_a_cancel_undoes_what_may_still_run(cached: bool) -> None:
    driven = Driven(two, cached=cached)
    driven.start()
    late = driven.work()

    assert kinds(driven.cancel()) == ["CallInDoubt", "CompensationStarted", "UndoSent"]
    assert kinds(driven.ran(2, work=late)) == ["LateReplyArrived"]
    assert kinds(driven.execute()) == ["CallUndone", "SagaCancelled"]


@saga("other-road")
async def other_road(ctx: Context, order: Order) -> str:
    try:
        await ctx.run(double, 1, retry=RetryPolicy(maximum_attempts=1))
    except StepRefused as error:
        return f"no: {error.reason}"
    except StepFailed as error:
        return f"failed: {error.reason}"
    return "yes"


@pytest.mark.parametrize(("outcome", "said"), [("refused", b'"no: busy"'), ("failed", b'"failed: busy"')])
def test_another_road(cached: bool, outcome: str, said: bytes) -> None:
    driven = Driven(other_road, cached=cached)
    driven.start()

    assert kinds(driven.ran({"reason": "busy"}, outcome))[-1] == "SagaCompleted"

    assert driven.state.result == said


@saga("once")
async def once(ctx: Context, order: Order) -> int:
    found: int = await ctx.run(double, 1, at_most_once=True)
    return found


def test_at_most_once_is_not_run_again(cached: bool) -> None:
    """The saga is held for somebody to say what became of it; a resume alone says nothing."""
    driven = Driven(once, cached=cached)
    driven.start()
    begun = len(driven.effects)

    assert kinds(driven.lose_worker()) == ["SagaQuarantined"]
    assert "runs at most once, and its worker died while it ran" in driven.state.hold_reason
    driven.resume()
    assert kinds(driven.lose_worker()) == ["SagaQuarantined"]

    assert len(driven.effects) == begun


@saga("reconciled")
async def reconciled(ctx: Context, order: Order) -> int:
    found: int = await ctx.run(double, 1, at_most_once=True, reconcile=look)
    return found


def test_at_most_once_is_reconciled(cached: bool) -> None:
    """`reconcile` says what became of it: its result, that it was not done, or nothing that helps."""
    driven = Driven(reconciled, cached=cached)
    driven.start()

    assert kinds(driven.lose_worker()) == ["CommandResent"]
    assert (driven.work().work.function, driven.work().reconciling) == (look, True)
    assert kinds(driven.ran({"reason": "no such charge"}, "not_done")) == ["AttemptFailed"]
    assert kinds(driven.wait_until_due()) == ["AttemptMade"]
    assert (driven.work().work.function, driven.work().reconciling) == (double, False)
    driven.lose_worker()
    assert kinds(driven.execute()) == ["CallSucceeded", "SagaCompleted"]


def test_a_reconciliation_that_knows_nothing_holds(cached: bool) -> None:
    driven = Driven(reconciled, cached=cached)
    driven.start()
    driven.lose_worker()

    decision = driven.ran({"reason": "gateway down"}, "unknown")

    assert kinds(decision) == ["SagaQuarantined"]
    assert "expected its function to say what became of it" in driven.state.hold_reason
    assert "gateway down" in driven.state.hold_reason


def test_a_held_saga_keeps_the_end(cached: bool) -> None:
    """What returns while the saga is held is recorded, and told to the program on release."""
    driven = Driven(two, cached=cached)
    driven.start()
    driven.pause()

    assert kinds(driven.execute()) == ["CallSucceeded"]
    assert driven.state.hold is Hold.PAUSED
    assert kinds(driven.resume()) == ["SagaResumed", "CallMade"]


def test_its_time_out_leaves_it_in_doubt(cached: bool) -> None:
    @saga("slow")
    async def slow(ctx: Context, order: Order) -> int:
        found: int = await ctx.run(double, 1, undo=forget, timeout=5)
        return found

    driven = Driven(slow, cached=cached)
    driven.start()

    assert kinds(driven.wait(5_000))[-2:] == ["CompensationStarted", "UndoSent"]
    assert driven.state.calls[1].status is CallStatus.UNDOING


def test_a_function_that_the_code_lost_holds(cached: bool) -> None:
    """The function is found by replaying today's code: where that has another step there, expected and got are told."""

    @saga("two")
    async def changed(ctx: Context, order: Order) -> int:
        found: int = await ctx.run(look, 1)
        return found

    driven = Driven(two, cached=cached)
    driven.start()
    driven.deploy(changed)

    driven.lose_worker()

    assert driven.state.hold is Hold.QUARANTINED
    assert "expected operation 1: local step 'double' as step 'double'" in driven.state.hold_reason
    assert "got operation 1: local step 'look' as step 'look'" in driven.state.hold_reason


@saga("by-hand")
async def by_hand(ctx: Context, order: Order) -> None:
    ctx.compensate(forget, 7, step="unlock")
    ctx.compensate(inventory, Release("o1"))
    await ctx.call(inventory, Reserve("o1"))


def test_compensations_registered_by_hand(cached: bool) -> None:
    """They cost nothing forward, and are run in reverse of their registration, also where no step was done."""
    driven = Driven(by_hand, cached=cached)

    assert kinds(driven.start()) == ["SagaStarted", *["CallMade", "CallSucceeded"] * 2, "CallMade"]
    assert [c.type for c in driven.sent] == ["inventory.Reserve"]

    assert kinds(driven.no()) == ["CallRefused", "CompensationStarted", "UndoSent"]
    assert driven.sent[-1].type == "inventory.Release"
    assert kinds(driven.reply()) == ["CallUndone", "UndoSent"]
    assert driven.work().work.args == (7,)
    assert kinds(driven.execute()) == ["CallUndone", "SagaCompensated"]
    assert driven.state.status is Status.COMPENSATED
