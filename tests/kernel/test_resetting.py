"""A saga is reset: it undoes what came after the point, ends, and another one goes on."""

from collections.abc import Callable

import pytest

from kompensate.orchestrator import Context, saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.decide import Decision
from kompensate.orchestrator.kernel.effects import ReleaseFork
from kompensate.orchestrator.kernel.errors import Rejected
from kompensate.orchestrator.kernel.forking import point_of
from kompensate.orchestrator.kernel.tables import Hold, Status
from tests.fixtures.driving import (
    SAGA_ID,
    Charge,
    Driven,
    Order,
    Refund,
    Release,
    Reserve,
    commands,
    inventory,
    kinds,
    payments,
)
from tests.fixtures.forks import NEW, events_of, forked, reset

both = pytest.mark.parametrize("cached", [True, False], ids=["cached", "replayed"])


def released(new: Driven, by: str = SAGA_ID) -> Decision:
    return new.give(i.ForkReleased(new.origin(), by))


@both
def test_a_reset_undoes_what_came_after_the_point(cached: bool) -> None:
    """What was kept is not this saga's any more; its end releases the one that goes on."""
    old = Driven(cached=cached)
    old.start()
    old.reply()
    old.reply(outcome="failed")

    decision = reset(old, 1)

    assert kinds(decision) == ["SagaReset", "CallFailed", "CompensationStarted", "SagaCompensated"]
    assert decision.effects == [ReleaseFork(NEW)]
    assert (old.state.status, old.state.reason) == (Status.COMPENSATED, f"reset into '{NEW}' by ann: as I said")


@both
def test_a_reset_of_a_held_saga_with_a_step_out(cached: bool) -> None:
    """It may have been done: it is undone first, and the saga that goes on waits for that."""
    old = Driven(cached=cached)
    old.start()
    old.reply()
    old.pause()
    new, decision = forked(old, point_of(events_of(old), "charge"), held=True, cached=cached)
    assert decision == Decision()
    assert new.state.hold is Hold.PAUSED

    decision = reset(old, 1)

    assert kinds(decision) == ["SagaReset", "SagaResumed", "CallInDoubt", "CompensationStarted", "UndoSent"]
    assert kinds(reset(old, 1)) == [], "asked for twice it is the same"
    assert old.reply().effects == [ReleaseFork(NEW)]
    assert commands(released(new)) == ["forward charge#1"]


@both
def test_a_closed_reset_releases_the_other_too(cached: bool) -> None:
    """Whatever its end: somebody has seen to it."""
    old = Driven(cached=cached)
    old.start()
    old.reply()
    reset(old, 0)

    assert old.order("close").effects == [ReleaseFork(NEW)]


def test_resets_that_are_refused() -> None:
    """With the reason; nothing changes."""
    old = Driven()
    with pytest.raises(Rejected, match="got a reset for one that does not exist"):
        reset(old, 0)
    old.signal()
    with pytest.raises(Rejected, match="got a reset for one that has not"):
        reset(old, 0)
    old.start()
    with pytest.raises(Rejected, match=r"expected run 0\.7, got 0\.0: it has gone on as a new one since"):
        reset(old, 0, run="0.7")
    with pytest.raises(Rejected, match="expected the operations up to 1 to have ended"):
        reset(old, 1)
    old.reply()
    old.reply()
    with pytest.raises(Rejected, match="expected no pivot after the point, got 'ship'"):
        reset(old, 2)
    old.no()
    with pytest.raises(Rejected, match="expected a saga that goes forward, got one that is compensating"):
        reset(old, 0)
    assert resets_of(old) == []


@saga("declares")
async def declares(ctx: Context, order: Order) -> None:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    ctx.pivot()
    await ctx.receive("go")


@saga("blocks")
async def blocks(ctx: Context, order: Order) -> None:
    """What is tried together, in vain at first, then once more; then something else."""

    async def both(ctx: Context) -> None:
        await ctx.call(inventory, Reserve("o1"), undo=Release("o1"), step="reserve")
        await ctx.call(payments, Charge("o1"), undo=Refund("o1"), step="charge")

    await ctx.block(both, ctx, attempts=2)
    undone = ctx.call(inventory, Reserve("o2"), undo=Release("o2"), step="another")
    await undone
    await ctx.undo(undone)
    await ctx.receive("go")


def test_the_end_itself_is_not_gone_on_from() -> None:
    """Not even where it is not carried out yet, in the middle of an order."""
    ended, other = Driven(declares), Driven(declares)
    for old in (ended, other):
        old.start()
        old.reply()
    ended.order("close")
    reset(other, 2)

    for old, kept in ((ended, len(ended.history) - 1), (other, len(other.history) - 2)):
        assert isinstance(old.history[kept - 1][0], e.OperatorActed | e.SagaReset)
        with pytest.raises(ValueError, match="expected a point before an operator ended it, got one after that"):
            forked(old, kept, code=declares)


def test_what_the_program_had_undone_before_the_point() -> None:
    """It stands as undone in the new saga too; only what was undone after the point is in the way."""
    old = Driven(blocks)
    old.start()
    old.reply()
    old.no()
    for _ in range(5):
        old.reply()
    assert list(old.state.receives) == [8]

    new, _ = forked(old, len(old.history), held=True, code=blocks)
    assert [call.status for call in new.state.calls.values()] == [call.status for call in old.state.calls.values()]
    assert [call.made.step for call in new.state.to_undo()] == ["charge", "reserve"]
    with pytest.raises(ValueError, match=r"got 'another' \(operation 6\), which is undone since"):
        forked(old, point_of(events_of(old), "7"), code=blocks)
    with pytest.raises(Rejected, match=r"got 'another' \(operation 6\), which is undone since"):
        reset(old, 6)
    assert kinds(reset(old, 7)) == ["SagaReset", "CompensationStarted", "SagaCompensated"]
    released(new)
    assert commands(new.cancel()) == ["compensate charge#1"]


def test_nothing_past_a_declared_pivot_is_reset() -> None:
    old = Driven(declares)
    old.start()
    old.reply()

    with pytest.raises(Rejected, match=r"expected no pivot after the point, got 'ctx.pivot'"):
        reset(old, 1)
    assert kinds(reset(old, 2)) == ["SagaReset", "CompensationStarted", "SagaCompensated"]


def test_nobody_is_reset_whose_parent_waits() -> None:
    old = Driven()
    old.give(i.StartAsked(old.origin(), "checkout", b"{}", parent="order-0", parent_command="c1"))
    with pytest.raises(Rejected, match="expected no child, got one whose parent 'order-0' waits for it: reset that"):
        reset(old, 0)


def test_what_was_reset_is_forked_where_it_went_on() -> None:
    """Its steps are another saga's now."""
    old = Driven()
    old.start()
    old.reply()
    reset(old, 1)
    old.reply()
    assert old.state.ended

    with pytest.raises(ValueError, match="got one that 'order-2' goes on from: fork that"):
        forked(old, point_of(events_of(old), "charge"))
    assert forked(old, point_of(events_of(old), "reserve"))[0].state.status is Status.RUNNING, "nothing was kept"


def resets_of(driven: Driven) -> list[e.Event]:
    return [event for event in events_of(driven) if isinstance(event, e.SagaReset)]


def held(old: Driven) -> Driven:
    """A fork that waits for its release."""
    return forked(old, point_of(events_of(old), "charge"), held=True)[0]


def test_what_a_fork_may_not_be_asked_while_it_waits() -> None:
    """Until the other saga has ended the steps are that one's: nobody else undoes them or goes on from them."""
    old = Driven()
    old.start()
    old.reply()
    new = held(old)

    asked: list[Callable[[], Decision]] = [
        new.cancel,
        new.resume,
        lambda: new.order("compensate"),
        lambda: reset(new, 0),
    ]
    for ask in asked:
        with pytest.raises(Rejected, match="one that waits until 'order-1' has ended: reset that, or close this one"):
            ask()
    assert kinds(new.signal("paid")) == ["SignalKept"]
    assert kinds(new.pause()) == []
    assert kinds(released(new, "another")) == []
    assert kinds(released(new)) == ["SagaResumed", "CallMade"]
    assert kinds(released(new)) == [], "once"


def test_a_fork_that_was_closed_while_it_waited_has_no_steps() -> None:
    """Nobody goes on from it: they are the other saga's still."""
    old = Driven()
    old.start()
    old.reply()
    new = held(old)
    assert kinds(new.order("close")) == ["OperatorActed", "SagaResumed", "SagaFailed"]

    with pytest.raises(ValueError, match="expected steps of its own, got one that waits until 'order-1', whose they"):
        forked(new, point_of(events_of(new), "reserve") + 3, saga_id="order-3")
