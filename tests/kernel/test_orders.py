"""An operator's orders: each leaves its verb, who gave it and why in the history."""

import pytest

from kompensate.orchestrator import Context, saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.errors import Rejected
from kompensate.orchestrator.kernel.tables import Hold, Status
from tests.fixtures.driving import Charge, Driven, Order, Refund, Release, Reserve, inventory, kinds, payments, sends
from tests.kernel.test_local import double

pytestmark = pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])


def stuck_undoing(cached: bool) -> Driven:
    """The compensation of `reserve` has failed ten times."""
    driven = Driven(cached=cached)
    driven.start()
    driven.reply()
    driven.no()
    for _ in range(10):
        driven.reply(None, "failed")
        if driven.state.hold is None:
            driven.wait_until_due()
    assert driven.state.hold is Hold.QUARANTINED
    return driven


def test_retry_of_a_compensation(cached: bool) -> None:
    """Now, and not when its wait is over."""
    driven = stuck_undoing(cached)

    decision = driven.order("retry")

    assert kinds(decision) == ["OperatorActed", "SagaResumed", "UndoSent"]
    assert decision.events[0] == e.OperatorActed("retry", "ann", "as I said", 1)
    assert [c.phase for c in sends(decision)] == ["compensate"]
    assert kinds(driven.reply()) == ["CallUndone", "SagaCompensated"]


def test_skip_of_a_compensation(cached: bool) -> None:
    """It was undone by hand."""
    driven = stuck_undoing(cached)

    assert kinds(driven.order("skip", "reserve")) == ["OperatorActed", "CallUndone", "SagaResumed", "SagaCompensated"]


def test_skip_of_a_compensation_that_is_out(cached: bool) -> None:
    driven = Driven(cached=cached)
    driven.start()
    driven.reply()
    driven.no()

    assert kinds(driven.order("skip")) == ["OperatorActed", "CallUndone", "SagaCompensated"]
    assert kinds(driven.reply()) == [], "its answer comes too late"


@saga("once")
async def once(ctx: Context, order: Order) -> int:
    found: int = await ctx.run(double, 1, at_most_once=True, returns=int)
    await ctx.call(payments, Charge("o1"), undo=Refund("o1"))
    return found


def in_doubt(cached: bool) -> Driven:
    driven = Driven(once, cached=cached)
    driven.start()
    driven.lose_worker()
    assert driven.state.hold is Hold.QUARANTINED
    return driven


def test_complete_of_a_step_in_doubt(cached: bool) -> None:
    """Somebody looked: this is its result."""
    driven = in_doubt(cached)

    assert kinds(driven.order("complete", payload=b"7")) == [
        *("OperatorActed", "SagaResumed", "CallSucceeded", "CallMade")
    ]
    driven.reply()

    assert driven.state.result == b"7"


def test_retry_of_a_step_in_doubt(cached: bool) -> None:
    """Somebody looked: it was not done. It is a new attempt, with a new key."""
    driven = in_doubt(cached)
    key = driven.work().id

    decision = driven.order("retry")

    assert kinds(decision) == ["OperatorActed", "SagaResumed", "AttemptFailed", "AttemptMade"]
    assert driven.work().id != key


def test_a_step_between_two_attempts(cached: bool) -> None:
    """It is tried now, or taken as done."""
    for verb, expected in (("retry", ["OperatorActed", "AttemptMade"]), ("skip", ["OperatorActed", "CallSucceeded"])):
        driven = Driven(cached=cached)
        driven.start()
        driven.reply(None, "failed")

        assert kinds(driven.order(verb))[:2] == expected


def test_retry_of_a_command_that_is_out(cached: bool) -> None:
    """The same command again: its participant knows it by its id."""
    driven = Driven(cached=cached)
    driven.start()

    decision = driven.order("retry", "1")

    assert kinds(decision) == ["OperatorActed", "CommandResent"]
    assert sends(decision)[0].id == driven.sent[0].id


def test_compensate_is_stronger_than_the_pivot(cached: bool) -> None:
    driven = Driven(cached=cached)
    driven.start()
    for _ in range(3):
        driven.reply()
    assert kinds(driven.cancel()) == ["CancelRefused"]

    decision = driven.order("compensate")

    assert kinds(decision) == ["OperatorActed", "CallInDoubt", "CompensationStarted", "UndoSent"]
    while not driven.state.ended:
        driven.reply()
    assert driven.state.status is Status.COMPENSATED
    assert driven.state.reason == "compensate by ann: as I said"


def test_close_ends_it_as_it_is(cached: bool) -> None:
    for driven in (stuck_undoing(cached), in_doubt(cached)):
        assert kinds(driven.order("close")) == ["OperatorActed", "SagaResumed", "SagaFailed"]
        assert driven.state.reason == "closed by ann: as I said"


@saga("wide")
async def wide(ctx: Context, order: Order) -> None:
    first = ctx.call(inventory, Reserve("o1"), undo=Release("o1"), step="first")
    await ctx.gather(first, ctx.call(inventory, Reserve("o2"), step="second"))


def test_an_order_that_is_not_clear(cached: bool) -> None:
    """It is rejected with what it could have been, and nothing changes."""
    driven = Driven(wide, cached=cached)
    driven.start()

    with pytest.raises(Rejected, match=r"skip: expected the name or number of one open step \(first \(1\), second"):
        driven.order("skip")
    with pytest.raises(Rejected, match="got 'third'"):
        driven.order("retry", "third")
    driven.cancel()
    with pytest.raises(Rejected, match="expected a running saga to compensate, got one that is compensating"):
        driven.order("compensate")
    with pytest.raises(Rejected, match="is being undone: expected no result with complete, got one"):
        driven.order("complete", payload=b"7")


def test_an_order_for_one_that_has_not_started(cached: bool) -> None:
    driven = Driven(cached=cached)
    driven.signal()

    with pytest.raises(Rejected, match="expected a saga that has started, got a close for one that has not"):
        driven.order("close")


def test_an_order_for_one_that_has_ended(cached: bool) -> None:
    driven = Driven(cached=cached)
    driven.start()
    driven.no()

    with pytest.raises(Rejected, match="expected a saga under way, got a retry for one that is compensated"):
        driven.order("retry")


def test_an_order_about_a_command_counts_once(cached: bool) -> None:
    """Given twice, or too late: the step has a newer command by then, or is done, and the second is rejected."""
    driven = in_doubt(cached)
    seen = driven.state.calls[1].id

    driven.order("retry", command_id=seen)
    assert driven.state.hold is None
    with pytest.raises(Rejected, match=f"expected its command to be {seen}, as when the order was given, got"):
        driven.order("retry", command_id=seen)

    driven = stuck_undoing(cached)
    forward = driven.state.calls[1].forward_id
    with pytest.raises(Rejected, match="it has moved on since"):
        driven.order("skip", command_id=forward)
    driven.order("skip", command_id=driven.state.calls[1].id)
    assert driven.state.ended
