"""Why a saga is not moving: each thing that it can wait for is told with what would move it, and when."""

from collections.abc import Callable

import pytest

from kompensate.orchestrator import Context, RetryPolicy, Saga, Step, saga
from kompensate.orchestrator.definitions.saga import AsyncSaga
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.reading.explaining import (
    Reason,
    of_damage,
    of_ended,
    of_saga,
    of_surroundings,
    of_unknown,
)
from kompensate.orchestrator.reading.owners import Owners
from kompensate.orchestrator.reading.status import fold, view_of
from kompensate.orchestrator.reading.surroundings import Surroundings, Unhandled
from kompensate.orchestrator.sagas.journal import read_pages
from kompensate.schemas import payloads
from tests.fixtures.driving import (
    CHECKOUT,
    START_TIME,
    Charge,
    Driven,
    Order,
    Refund,
    Release,
    Reserve,
    Ship,
    inventory,
    payments,
    shipping,
)
from tests.fixtures.lives import paid, pay, recorded
from tests.kernel.test_orders import stuck_undoing

SHORT = Saga(
    "short",
    Order,
    [
        Step("reserve", inventory, Reserve, undo=Release, retry=RetryPolicy(maximum_attempts=2)),
        Step("charge", payments, Charge, undo=Refund),
        Step("ship", shipping, Ship, kind="pivot", timeout=60),
    ],
)


@saga("many")
async def many(ctx: Context, order: Order) -> None:
    await ctx.gather(ctx.call(inventory, Reserve("o1")), ctx.receive("paid", timeout=9), ctx.sleep(7))


@saga("breaks")
async def breaks(ctx: Context, order: Order) -> None:
    raise ArithmeticError("a mistake")


def reasons(driven: Driven, later: int = 0) -> list[Reason]:
    """Why the saga stands, `later` milliseconds after its last input."""
    found = fold("shop", "order-1", read_pages(recorded(driven).pages))
    return list(of_saga(found, driven.now + later))


def begun(definition: Saga | AsyncSaga, *steps: Callable[[Driven], object]) -> Driven:
    driven = Driven(definition)
    driven.start()
    for step in steps:
        step(driven)
    return driven


def resent(driven: Driven) -> None:
    driven.wait(15_000)


def test_a_reply_is_waited_for() -> None:
    """Which service's, to which step, since when, how often sent; when it is sent again, and when it is in doubt."""
    (found,) = reasons(begun(CHECKOUT, resent))
    (early,) = reasons(begun(CHECKOUT))

    assert (found.kind, found.step, found.service) == ("reply", "reserve", "inventory")
    assert found.since_at == START_TIME
    assert found.next_at == START_TIME + 15_000 + 30_000
    assert found.until_at == START_TIME + 300_000
    assert found.why == (
        "waits for a reply from inventory to inventory.Reserve (step reserve), out since 1970-01-01T00:16:40.000Z, "
        "sent again 1 times"
    )
    assert found.moves == (
        "the reply: do inventory's participant and relay run? Sent again at 1970-01-01T00:17:25.000Z; given up at "
        "1970-01-01T00:21:40.000Z: it is in doubt, and the saga turns back; `kompensate outside list --dsn` of its "
        "database tells of outside calls in doubt and open breakers"
    )
    assert early.moves.endswith("turns back")


def test_a_pivot_is_never_in_doubt() -> None:
    """One without a time-out is sent again for ever; one with is held after it."""
    endless = begun(CHECKOUT, Driven.reply, Driven.reply)
    limited = begun(SHORT, Driven.reply, Driven.reply)

    (first,), (second,) = reasons(endless), reasons(limited)

    assert first.until_at is None
    assert "given up" not in first.moves
    assert second.moves.endswith(": it is held")


def failed(driven: Driven) -> None:
    driven.no("no stock", "failed")


def test_a_retry_is_waited_for() -> None:
    """Which attempt of how many comes when, what the last one said, and what follows when they are used up."""
    driven = begun(SHORT, failed)

    (found,) = reasons(driven)

    assert (found.kind, found.error, found.next_at) == ("retry", "no stock", driven.state.next_due())
    assert found.why == ("waits before attempt 2 of 2 of inventory.Reserve (step reserve); the last failed: no stock")
    assert "after 2 times the saga turns back; or mend the cause in inventory" in found.moves


def test_an_undo_that_fails_is_told() -> None:
    """Which undo of which step, how often it was tried, when again, with what error, and that it is held at last."""
    driven = begun(CHECKOUT, Driven.reply, Driven.no, failed, Driven.wait_until_due, failed)

    (found,) = reasons(driven)

    assert (found.kind, found.step, found.error, found.next_at) == (
        *("undo", "reserve", "no stock"),
        driven.state.next_due(),
    )
    assert found.why.startswith(
        "waits before undo 3 of 10 of inventory.Release (undo of step reserve); the last failed"
    )
    assert "after 10 times it is held" in found.moves


def test_an_undo_without_an_answer_is_told() -> None:
    """A compensation that is out names the service that has it, since it was sent."""
    (found,) = reasons(begun(CHECKOUT, Driven.reply, Driven.no))

    assert (found.kind, found.service) == ("reply", "inventory")
    assert "inventory.Release (undo of step reserve)" in found.why


def test_several_things_are_told_each() -> None:
    """A program that waits for many at once has a reason for each."""
    found = reasons(begun(many))

    assert [(reason.kind, reason.next_at) for reason in found] == [
        ("reply", START_TIME + 15_000),
        ("sleep", START_TIME + 7_000),
        ("signal", START_TIME + 9_000),
    ]
    assert found[1].why == "asleep until 1970-01-01T00:16:47.000Z"


def test_a_signal_is_waited_for_by_name() -> None:
    """Until when, how to send it, and which others were sent instead: a misspelt name shows."""
    driven = begun(pay, Driven.reply, lambda d: d.signal("payed"))

    (found,) = reasons(driven)

    assert found.kind == "signal"
    assert found.why == "waits until 1970-01-01T00:17:40.000Z for signal 'paid'; kept are only others: payed"
    assert found.moves == "`kompensate signal paid order-1`"


def test_a_held_saga_says_who_and_how_it_is_released() -> None:
    """Paused by an operator, or held by the kernel, with reason, time and verb; what it waits for beside that."""
    paused = reasons(begun(CHECKOUT, Driven.pause))
    broken = reasons(begun(breaks))

    assert (paused[0].kind, paused[0].why, paused[0].moves) == (
        *("paused", "paused by an operator: look"),
        "`kompensate resume order-1`",
    )
    assert paused[1].kind == "reply"
    assert broken[0].kind == "quarantined"
    assert broken[0].why.startswith("held: the program raised ArithmeticError: a mistake (")
    assert broken[0].since_at == START_TIME
    assert "then `kompensate resume order-1`" in broken[0].moves
    assert "or say what became" not in broken[0].moves, "no step is open"
    assert len(broken) == 1


def test_a_saga_held_for_a_step_says_which_orders_there_are() -> None:
    found = reasons(stuck_undoing(cached=True))

    assert found[0].kind == "quarantined"
    assert "; or say what became of reserve: `kompensate retry | skip | complete order-1`" in found[0].moves


@saga("works")
async def works(ctx: Context, order: Order) -> None:
    await ctx.run(str, "o1", step="print")


@saga("parent")
async def parent(ctx: Context, order: Order) -> None:
    await ctx.child(CHECKOUT, order)


def test_what_the_worker_does_itself_is_no_service() -> None:
    """A local step that runs, however long; one that failed; a child, and how to ask after it."""
    runs, again = begun(works), begun(works, lambda d: d.ran("no", "failed"))
    driven = Driven(parent, others=[CHECKOUT])
    driven.start()

    (local,), (retry,), (child,) = reasons(runs, 60_000), reasons(again), reasons(driven)

    assert (local.kind, local.step, local.service) == ("local", "print", "")
    assert local.why.startswith("waits for its worker to run str (step print), begun at 1970-")
    assert retry.why.startswith("waits before attempt 2 of 3 of str (step print)")
    assert retry.moves.endswith("; or mend the cause")
    assert child.why.startswith("waits for child saga 'order-1.1' (checkout), started at 1970-")
    assert child.moves == "its end: `kompensate explain order-1.1`"


def test_a_start_that_is_delayed_and_a_deadline() -> None:
    """Both are times at which something happens by itself."""
    later = Driven(pay)
    later.give(i.StartAsked(later.origin(), "pay", payloads.encode(Order()), not_before=later.now + 5_000))
    limited = Driven(pay)
    limited.give(i.StartAsked(limited.origin(), "pay", payloads.encode(Order()), deadline=limited.now + 5_000))

    (delayed,), (_, deadline) = reasons(later), reasons(limited)

    assert (delayed.kind, delayed.next_at) == ("delayed", START_TIME + 5_000)
    assert (deadline.kind, deadline.next_at) == ("deadline", START_TIME + 5_000)


def test_a_saga_without_a_start_is_pending() -> None:
    """Which signals came, and how it is started."""
    driven = Driven(pay)
    driven.signal("paid")

    (found,) = reasons(driven)

    assert (found.kind, found.why) == ("pending", "pending: it has not begun, only signals have come (paid)")
    assert "--id order-1" in found.moves


def test_what_should_have_happened_is_overdue() -> None:
    """A time that is long past says that no worker has looked; a moment is no reason."""
    driven = paid(Driven(pay), "slept")

    assert [reason.kind for reason in reasons(driven, 1_100)] == ["sleep"]
    assert [reason.kind for reason in reasons(driven, 60_000)] == ["sleep", "overdue"]


def test_an_ended_saga_moves_no_more() -> None:
    """With the end that it came to, and why."""
    driven = begun(CHECKOUT, Driven.no)
    found = fold("shop", "order-1", read_pages(recorded(driven).pages))

    assert list(of_saga(found, driven.now)) == []
    reason = of_ended(view_of(found, 0))
    assert reason.why == "it has ended: compensated at 1970-01-01T00:16:40.000Z, reserve: no"


def around(unhandled: int = 0, members: int = 1, owner: bool = True, told: bool = True) -> Surroundings:
    waiting = tuple(Unhandled("kompensate.signal", "shop.requests", 3, n, n) for n in range(unhandled))
    owned = Owners("shop", "stable" if owner else "preparing rebalance", members, {3: "me at host"} if owner else {})
    return Surroundings(3, unhandled, waiting, owned if told else None)


@pytest.mark.parametrize(
    ("place", "kinds", "text"),
    [
        (around(), [], ""),
        (around(told=False), [], ""),
        (around(members=0, owner=False), ["unowned"], "no worker runs: group shop has no members"),
        (around(members=2, owner=False), ["unowned"], "no worker owns partition 3: group shop is preparing rebalance"),
        (around(2), ["unhandled"], "not handled yet: signal at shop.requests/3@0, signal at shop.requests/3@1"),
        (around(7), ["unhandled"], "signal at shop.requests/3@4 and 2 more"),
    ],
)
def test_who_would_move_it_is_told(place: Surroundings, kinds: list[str], text: str) -> None:
    """No worker, none for its partition, or inputs that nobody has handled yet."""
    found = list(of_surroundings(place))

    assert [reason.kind for reason in found] == kinds
    assert all(text in reason.why for reason in found)


def test_a_saga_that_is_not_there() -> None:
    """Rejected with the reason, not handled yet, or never heard of; and one whose pages do not read."""
    assert of_unknown("a", "its start was rejected: no", around()).kind == "rejected"
    assert of_unknown("a", None, around(1)).why == "not begun: signal at shop.requests/3@0"
    assert of_unknown("a", None, around()).kind == "unknown"
    assert of_damage("a", "page 0").why == "its pages are damaged: page 0"
