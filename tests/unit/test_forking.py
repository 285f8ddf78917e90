"""A saga goes on from another's history, in every mode: what stands, what is run again, and who undoes what."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from kompensate.orchestrator import Application, Context, Limit, Schedule, saga
from kompensate.orchestrator.reading.explaining import of_saga
from kompensate.orchestrator.reading.status import fold
from kompensate.orchestrator.sagas.journal import read_page
from kompensate.orchestrator.testing import SagaHandle, SagaTest, assert_replays, failed, in_turn, never, refused
from kompensate.schemas.compression import Zlib
from kompensate.schemas.encryption import AesGcm
from kompensate.schemas.formats import PayloadFormat, SagaPayloads, payloads_of
from tests.fixtures.driving import (
    CHECKOUT,
    SERVICES,
    Charge,
    Order,
    Refund,
    Release,
    Reserve,
    Ship,
    inventory,
    payments,
)


@dataclass
class Booking:
    key: str


@saga("trip")
async def trip(ctx: Context, order: Order) -> list[str]:
    """Draws before and after each step, and says who it is."""
    keys = [ctx.uuid(), ctx.saga_id]
    room = await ctx.call(inventory, Reserve(keys[0]), undo=Release(keys[0]), step="room", returns=Booking)
    keys += [room.key, ctx.uuid()]
    table: str = await ctx.run(book, keys[-1], undo=unbook, step="table")
    ctx.publish("table", table)
    keys += [ctx.uuid(), ctx.saga_id]
    await ctx.call(payments, Charge(keys[-2]), undo=Refund(keys[-2]), step="charge")
    said: str = await ctx.receive("go", type=str)
    return [*keys, said]


BOOKED: list[tuple[str, str]] = []


def book(key: str, idempotency_key: str) -> str:
    BOOKED.append((key, idempotency_key))
    return f"table for {key}"


def unbook(key: str, idempotency_key: str) -> None:
    BOOKED.append((f"not {key}", idempotency_key))


@saga("parent")
async def parent(ctx: Context, order: Order) -> str:
    found = await ctx.child(kid, order, returns=str)
    await ctx.call(inventory, Reserve(found), undo=Release(found))
    second: str = await ctx.child(kid, order, returns=str)
    return f"{found} {second}"


@saga("kid")
async def kid(ctx: Context, order: Order) -> str:
    await ctx.call(payments, Charge(order.order_id), undo=Refund(order.order_id))
    return ctx.saga_id


@saga("gathering")
async def gathering(ctx: Context, order: Order) -> int:
    before: int = await ctx.receive("before", type=int)
    await ctx.receive("begin")
    await ctx.gather(
        ctx.call(inventory, Reserve("o1"), undo=Release("o1"), step="reserve"),
        ctx.call(payments, Charge("o1"), undo=Refund("o1"), step="charge"),
    )
    after: int = await ctx.receive("after", type=int)
    return before + after


SECRETLY = PayloadFormat([Zlib(), AesGcm({"2026": b"\x01" * 32}, write="2026")])
APP = Application("shop", [CHECKOUT, trip, parent, kid, gathering], services=SERVICES, payloads=SECRETLY)


@pytest.fixture
def shop(saga_test: Callable[..., SagaTest]) -> SagaTest:
    BOOKED.clear()
    made = saga_test(APP)
    made.on(Reserve, lambda reserve: Booking(f"room for {reserve.order_id}"))
    return made


def test_a_failed_saga_goes_on_from_a_step(shop: SagaTest) -> None:
    """What stood before the step is not done again; the step is, as the new saga's own."""
    shop.on(Ship, never())
    old = shop.start(CHECKOUT, Order("o1"), saga_id="old")
    old.run_until("ship")
    old.close(reason="shipping lost it")
    shop.run()
    old.assert_failed("shipping lost it")

    shop.on(Ship, None)
    new = old.fork("new", step="ship", reason="shipping is back")
    shop.run()

    new.assert_completed()
    assert new.commands == ["shipping.Ship", "inventory.Confirm"]
    assert new.done == ["reserve", "charge", "ship", "confirm"]
    assert new.events[:2] == ["SagaForked", "SagaStarted"]
    old.assert_failed()


def test_the_new_saga_undoes_the_steps_it_kept(shop: SagaTest) -> None:
    """Under the ids that those steps had: to a participant it is the same command that is undone. What the program drew
    before the point stands, local steps are undone with the arguments that they had; from the point on it is itself.
    """
    shop.on(Charge, never())
    old = shop.start(trip, Order("o1"), saga_id="old")
    old.run_until("charge")
    old.close()
    shop.run()
    ids = {seen.step: seen.id for seen in old.seen}
    ((drawn, key), *_) = BOOKED

    shop.on(Charge, refused("no money"))
    new = old.fork("new", step="charge")
    shop.run()

    new.assert_compensated("no money")
    assert new.commands == ["payments.Charge", "inventory.Release"]
    assert [seen.message for seen in new.seen][1:] == [Release(old.messages(Reserve)[0].order_id)]
    assert new.undone == ["table", "room"]
    assert {(drawn, key), (f"not {drawn}", BOOKED[-1][1])} == set(BOOKED)
    assert new.messages(Charge) != old.messages(Charge), "a key of its own: it is another charge"
    assert next(seen.id for seen in new.seen) != ids["charge"]


def test_a_fork_has_a_history_that_replays(shop: SagaTest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also that of a fork's fork, whose first steps are a third saga's."""
    path = tmp_path_factory.mktemp("histories")
    old = shop.start(trip, Order("o1"), saga_id="old")
    shop.run()
    old.close()
    shop.run()
    middle = old.fork("middle", step="table")
    shop.run()
    middle.close()
    shop.run()
    new = middle.fork("new", step="charge")
    shop.run()  # a signal is a request: it might come before the order that makes what it is for
    new.signal("go", "on")
    shop.run()

    drawn, who, room, _, _, whose, said = new.result
    assert (who, room, whose, said) == ("old", f"room for {drawn}", "new", "on")
    assert new.published == {"table": f"table for {middle_key(middle)}"}
    for forked in (middle, new):
        forked.save_history(path / forked.saga_id)
        assert_replays(path / forked.saga_id, APP)


def middle_key(middle: SagaHandle) -> str:
    """What `middle` drew for its table, which `new` has too."""
    assert len({key for key, _ in BOOKED}) == 2, "old's and middle's: new has booked none"
    return BOOKED[-1][0]


def test_a_saga_under_way_is_reset(shop: SagaTest) -> None:
    """What came after the point is undone, then the other saga goes on: each step is answered for by one of them."""
    old = shop.start(trip, Order("o1"), saga_id="old")
    shop.run()
    old.assert_waits_for("go")

    new = old.reset("new", step="table", reason="the table was too small")
    shop.run()

    old.assert_compensated("reset into 'new' by operator: the table was too small")
    assert old.undone == ["charge", "table"]
    assert old.commands == ["inventory.Reserve", "payments.Charge", "payments.Refund"]
    new.assert_waits_for("go")
    assert new.done == ["room", "table", "charge"]
    first, unbooked, second = dict.fromkeys(BOOKED)  # a worker that died has it run again, under the same key
    assert unbooked[0] == f"not {first[0]}", "undone before it was done again"
    assert second[0] != first[0], "as another"

    new.cancel()
    shop.run()
    new.assert_cancelled()
    assert new.undone == ["charge", "table", "room"]
    assert "ForkHeld" in new.events


def test_a_reset_whose_undoing_fails_keeps_the_other_waiting(shop: SagaTest) -> None:
    """Until somebody has seen to it: never do both go on."""
    shop.on(Refund, failed("the bank is closed"))
    old = shop.start(trip, Order("o1"), saga_id="old")
    shop.run()

    new = old.reset("new", step="charge")
    shop.run()
    old.assert_held("compensation of step 'charge'")
    assert (new.hold, new.commands) == ("paused", [])
    assert "it waits until 'old' has ended; forked from 'old' at event" in new.story
    for order in (new.resume, new.cancel, new.compensate):
        order()
    shop.run()
    assert (new.hold, new.status, len(set(new.quarantined))) == ("paused", "running", 3)
    assert "for one that waits until 'old' has ended: reset that, or close this one" in new.quarantined[0]
    (why,) = of_saga(fold("shop", "new", [read_page(page) for page in new.pages], new_payloads()), 0)
    assert (why.kind, why.moves) == ("reset", "its end; `kompensate explain old` says what that waits for")

    old.skip("charge", reason="refunded by hand")
    shop.run()
    old.assert_compensated()
    new.assert_waits_for("go")


def new_payloads() -> SagaPayloads:
    return payloads_of(SECRETLY, "shop", "new")


def test_a_reset_to_a_point_at_which_a_group_began(shop: SagaTest) -> None:
    """A saga that is held is reset too; a signal that came before the point is kept, later ones stay where they are."""
    old = shop.start(gathering, Order("o1"), saga_id="old")
    old.signal("before", 1)
    shop.run_until_idle()
    old.signal("after", 2)
    shop.on(Charge, never())
    old.signal("begin")
    old.run_until("charge")
    old.pause()
    shop.run_until_idle()

    with pytest.raises(ValueError, match=r"step 'reserve' \(operation 3\) is sent.*go on from that step"):
        old.reset("new", step="charge")
    shop.on(Charge, None)
    new = old.reset("new", step="2")
    shop.run()
    new.assert_waits_for("begin")
    new.signal("begin")
    shop.run()

    old.assert_compensated()
    new.assert_waits_for("after")
    assert sorted(new.done) == ["charge", "reserve"]


def test_children_before_the_point_stay_and_later_ones_are_its_own(shop: SagaTest) -> None:
    old = shop.start(parent, Order("o1"), saga_id="old")
    shop.run()
    old.assert_completed("old.1 old.3")

    new = old.fork("new", step="3")
    shop.run()

    new.assert_completed("old.1 new.3")
    assert shop.saga("new.3").status == "completed"


def test_whom_nobody_may_go_on_from(shop: SagaTest) -> None:
    """The text says what is wrong, and what to do instead."""
    shop.on(Ship, refused("no ship"))
    undone = shop.start(CHECKOUT, Order("o1"), saga_id="undone")
    waits = shop.start(trip, Order("o1"), saga_id="waits")
    family = shop.start(parent, Order("o1"), saga_id="family")
    shop.run()

    with pytest.raises(ValueError, match=r"steps that stand, got 'reserve' \(operation 1\), which is undone since"):
        undone.fork("new", step="charge")
    with pytest.raises(ValueError, match="a saga that is ended, got one that is running: reset it"):
        waits.fork("new", step="charge")
    with pytest.raises(ValueError, match="a saga that is under way, got one that is completed: fork it"):
        family.reset("new", step="3")
    with pytest.raises(ValueError, match=r"one operation \(1: child 'kid' .* got 'kid', which 2 have"):
        family.fork("new", step="kid")
    with pytest.raises(ValueError, match=r"a point at which nothing is out, got one at which step 'room'"):
        waits.reset("new", event=2)
    with pytest.raises(ValueError, match=r"an event of its history, 1 to \d+, got 99"):
        waits.reset("new", event=99)
    with pytest.raises(ValueError, match="got neither"):
        waits.reset("new")
    with pytest.raises(ValueError, match="got both"):
        waits.reset("new", event=1, step="room")
    with pytest.raises(ValueError, match="expected another id for the new saga, got the same"):
        waits.reset("waits", step="room")
    with pytest.raises(ValueError, match="expected a reason, got none"):
        waits.reset("new", step="room", reason=" ")

    new = undone.fork("new", event=1)  # nothing had been done by then
    shop.run()
    new.assert_compensated("no ship")


def test_a_history_that_is_too_long(shop: SagaTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """It travels in one record, as long as Kafka takes them."""
    monkeypatch.setattr("kompensate.orchestrator.reading.forking.PAYLOAD_BYTES_MAX", 300)
    old = shop.start(CHECKOUT, Order("o1"), saga_id="old")
    shop.run()

    with pytest.raises(ValueError, match=r"a history of at most 300 bytes up to the point.*fork from an earlier one"):
        old.fork("new", step="ship")


def test_an_id_that_is_in_use(shop: SagaTest) -> None:
    """The fork is put into quarantine; a reset does not touch the saga then."""
    shop.on(Charge, in_turn(None, never()))
    ended = shop.start(kid, Order("o1"), saga_id="ended")
    shop.run()
    old = shop.start(trip, Order("o1"), saga_id="old")
    taken = shop.start(CHECKOUT, Order("o1"), saga_id="taken")
    old.run_until("charge")
    shop.run_until_idle()

    for other, why in ((taken, "an id that is not in use"), (ended, "but 'ended' has ended")):
        before = other.events
        old.reset(other.saga_id, step="table")
        shop.run_until_idle()
        assert why in other.quarantined[0]
        assert other.events == before
    assert old.status == "running"


def test_a_schedule_is_not_forked(saga_test: Callable[..., SagaTest]) -> None:
    """It would fire twice."""
    app = Application(
        "shop", [kid], services=SERVICES, schedules=[Schedule("daily", kid, Order("o1"), cron="0 9 * * *")]
    )
    shop = saga_test(app)
    daily = shop.schedule("daily")
    shop.run_until_idle()

    new = daily.reset("new", event=1)
    shop.run_until_idle()

    assert "got a schedule: create another" in new.quarantined[0]


@saga("narrow")
async def narrow(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"), step="reserve", limit="one")
    await ctx.call(payments, Charge("o1"), undo=Refund("o1"), step="charge", limit="one")
    return ctx.saga_id


def test_kept_steps_take_no_room(saga_test: Callable[..., SagaTest]) -> None:
    """Those under a limit had it when they were done: there is room for the new saga's own, and for others."""
    shop = saga_test(Application("shop", [narrow], services=SERVICES, limits={"one": Limit(concurrent=1)}))
    old = shop.start(narrow, Order("o1"), saga_id="old")
    shop.run()
    old.assert_completed("old")

    new, another = old.fork("new", step="charge"), shop.start(narrow, Order("o1"), saga_id="another")
    shop.run()

    new.assert_completed("new")
    another.assert_completed("another")
    assert new.commands == ["payments.Charge"]
