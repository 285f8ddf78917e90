"""Commands and children under named limits: how many are out, who goes next, and what a crash changes (nothing)."""

from collections.abc import Callable
from json import loads
from typing import Any

import pytest

from kompensate.orchestrator import NOTHING, Application, Context, Limit, Saga, Step, SubSaga, saga
from kompensate.orchestrator.definitions.saga import AsyncSaga
from kompensate.orchestrator.definitions.steps import DefinitionError
from kompensate.orchestrator.reading.explaining import of_saga
from kompensate.orchestrator.reading.standing import Standing, standings
from kompensate.orchestrator.reading.status import fold, view_of
from kompensate.orchestrator.reading.stored import Stored, stored
from kompensate.orchestrator.sagas.journal import RATES_HEADER, read_pages
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.sagas.rooms import Rooms
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing import SagaTest, failed, in_turn, late, never
from kompensate.schemas.messages import CANCEL, PAUSE, RESUME, Command
from kompensate.schemas.topics import partition_of
from tests.fixtures.driving import APP, CHECKOUT, SERVICES, Order, Release, Reserve, inventory, payments
from tests.fixtures.partitions import IDS, TOPICS, Shop, header

Make = Callable[..., SagaTest]


@saga("one")
async def one(ctx: Context, priority: int) -> None:
    """One call under a limit."""
    await ctx.call(inventory, Reserve(ctx.saga_id), undo=Release(ctx.saga_id), limit="narrow", priority=priority)


@saga("paced")
async def paced(ctx: Context, _: None) -> None:
    await ctx.call(inventory, Reserve(ctx.saga_id), undo=Release(ctx.saga_id), limit="paced")


@saga("fan")
async def fan(ctx: Context, count: int) -> int:
    """So many calls at once, under a limit."""
    calls = [ctx.call(inventory, Reserve(str(n)), undo=Release(str(n)), limit="narrow") for n in range(count)]
    return len(await ctx.gather(*calls))


@saga("parents")
async def parents(ctx: Context, count: int) -> int:
    """So many children, as few at a time as the limit says."""
    return len(await ctx.gather(*(ctx.child(fan, 1, limit="wide") for _ in range(count))))


LIMITS = {"narrow": Limit(concurrent=2), "wide": Limit(concurrent=3), "paced": Limit(per_second=4)}
SAGAS: list[Saga | AsyncSaga] = [CHECKOUT, one, paced, fan, parents]
APPLICATION = Application(APP, SAGAS, services=SERVICES, partitions=2, limits=LIMITS)


def shop_with(priorities: list[int], **limits: Any) -> Shop:
    """A partition with a saga for each priority, started one after the other."""
    shop = Shop(APPLICATION, **limits)
    for saga_id, priority in zip(IDS, priorities, strict=False):
        shop.now += 1
        shop.do(shop.start(saga_id, priority, "one"), (shop.now, 1_000))
    return shop


def admit(shop: Shop) -> None:
    """What the loop does after each poll."""
    shop.do((shop.now, 1_000))


def names(commands: list[Command]) -> list[str]:
    return [command.saga_id for command in commands]


def test_as_many_are_out_as_the_limit_says() -> None:
    """The others wait; an answer lets the one in that has waited longest."""
    shop = shop_with([0] * 5)
    assert names(shop.commands) == IDS[:2]

    shop.do(shop.reply(shop.commands[0]), (shop.now, 1_000))
    assert names(shop.commands) == IDS[:3], "in the transaction that has the answer"
    shop.do(shop.reply(shop.commands[1], "refused"), shop.reply(shop.commands[2], "done"), (shop.now, 1_000))

    assert names(shop.commands) == IDS[:5]
    assert shop.partition.room_at is None, "nobody waits any more"


def test_a_higher_priority_goes_first() -> None:
    """Those of the same one in the order in which they came."""
    shop = shop_with([0, 0, 1, -1, 5, 1])

    for number in range(6):
        shop.do(shop.reply(shop.commands[number]), (shop.now, 1_000))

    order = [IDS.index(name) for name in names(shop.commands)]
    assert order == [0, 1, 4, 2, 5, 3]


@pytest.mark.parametrize("live_sagas_max", [0, 10_000], ids=["evicted", "awake"])
def test_a_crash_changes_nothing(live_sagas_max: int) -> None:
    """Who takes over knows what is out and who waits, with their priorities: nothing is sent twice, nobody is lost."""
    shop = shop_with([0, 0, 0, 7], live_sagas_max=live_sagas_max)
    assert header(shop.state[-1]).limited == 1

    for number in range(4):
        shop.crash()
        admit(shop)
        assert len(shop.commands) == min(4, 2 + number), "nothing goes out that there is no room for"
        shop.do(shop.reply(shop.commands[number]), (shop.now, 1_000))

    assert [IDS.index(name) for name in names(shop.commands)] == [0, 1, 3, 2]
    assert len({command.id for command in shop.commands}) == 4
    assert shop.partition.live == 0


def test_a_batch_that_is_taken_back_lets_nobody_in() -> None:
    """The answers are read again, and then it does."""
    shop = shop_with([0] * 4)
    reply = shop.reply(shop.commands[0])
    shop.take([reply, (shop.now, 1_000)])
    shop.partition.output("writer-0")
    shop.partition.discard()
    assert shop.partition.admit(shop.now, 1_000) == []

    shop.do(reply, (shop.now, 1_000))

    assert names(shop.commands) == IDS[:3]


def test_who_is_held_or_cancelled_holds_nobody_up() -> None:
    """A paused saga gives its turn away, and is in its old place when it is released."""
    shop = shop_with([0] * 6)
    shop.do(shop.request(PAUSE, IDS[2]), shop.request(CANCEL, IDS[3]))

    shop.do(shop.reply(shop.commands[0]), (shop.now, 1_000))
    assert names(shop.commands)[2:] == [IDS[4]]
    shop.do(shop.request(RESUME, IDS[2]))
    shop.do(shop.reply(shop.commands[1]), (shop.now, 1_000))
    assert names(shop.commands)[3:] == [IDS[2]]


def test_an_undo_takes_room_and_waits_for_none() -> None:
    shop = shop_with([0] * 3)

    shop.do(shop.request(CANCEL, IDS[0]), shop.request(CANCEL, IDS[1]), (shop.now, 1_000))
    assert [command.phase for command in shop.commands[2:]] == ["compensate"] * 2
    admit(shop)
    assert len(shop.commands) == 4, "the third waits for both"
    shop.do(shop.reply(shop.commands[2]), (shop.now, 1_000))

    assert shop.commands[-1].saga_id == IDS[2]


def test_so_many_a_second() -> None:
    """Evenly, and a crash does not let one out early."""
    shop = Shop(APPLICATION)
    for saga_id in IDS[:6]:
        shop.do(shop.start(saga_id, None, "paced"))
    begun, sent = shop.now, [0]
    admit(shop)
    while len(shop.commands) < 6:
        due = shop.partition.room_at
        assert due is not None
        shop.now = max(due, shop.now)
        if len(shop.commands) == 3:
            shop.crash()
        admit(shop)
        if len(shop.commands) > len(sent):
            sent.append(shop.now - begun)

    assert sent == [0, 250, 500, 750, 1_000, 1_250]
    marks = [dict(record.headers) for record in shop.state if record.headers and record.key == b"__wm/0"]
    assert loads(marks[-1][RATES_HEADER] or b"") == {"paced": begun + 1_500}


def test_a_slow_loop_makes_up_for_it_a_little() -> None:
    """A hundred a second are a hundred a second, though it looks only every 50 ms; what was idle is not made up for."""
    application = Application(APP, [fast], services=SERVICES, partitions=2, limits={"fast": Limit(per_second=100)})
    shop = Shop(application)
    shop.do(shop.start(IDS[0], 60, "fast"))
    admit(shop)
    assert len(shop.commands) == 1
    for _ in range(10):
        shop.now += 50
        admit(shop)
    assert len(shop.commands) == pytest.approx(50, abs=1)
    shop.now += 10_000
    admit(shop)
    assert len(shop.commands) == 60, "at most a tenth of a second's"


@saga("fast")
async def fast(ctx: Context, count: int) -> None:
    await ctx.gather(*(ctx.call(inventory, Reserve(str(n)), limit="fast") for n in range(count)))


def test_a_limit_may_change_under_way() -> None:
    """Narrower: no more go out until fewer are. Wider: more do, at once. Gone: all do."""
    shop = shop_with([0] * 8)

    shop.crash(application=with_limits(narrow=Limit(concurrent=1)))
    shop.do(shop.reply(shop.commands[0]), (shop.now, 1_000))
    assert len(shop.commands) == 2
    shop.crash(application=with_limits(narrow=Limit(concurrent=3)))
    admit(shop)
    assert len(shop.commands) == 4
    shop.crash(application=with_limits())
    admit(shop)

    assert len(shop.commands) == 8


def with_limits(**limits: Limit) -> Application:
    return Application(APP, SAGAS, services=SERVICES, partitions=2, limits=limits)


def test_a_limit_cannot_be_nothing() -> None:
    """Nothing would ever go out, and nobody would know."""
    with pytest.raises(DefinitionError, match="expected at least 1 at a time, got 0"):
        Limit(concurrent=0)


def test_the_partitions_of_a_worker_share_its_room() -> None:
    """And those that another worker has now take none."""
    rooms = Rooms(LIMITS)
    first, second = (Shop(APPLICATION), Shop(APPLICATION))
    for shop in (first, second):
        shop.partition.close()
    for number, shop in enumerate((first, second)):
        shop.partition = Partition(number, APPLICATION, Settings(), rooms)
        shop.partition.load([])
        shop.partition.loaded({}, {})
        ids = [f"order-{n}" for n in range(40) if partition_of(f"order-{n}", 2) == number]
        for saga_id in ids[:3]:
            shop.now += 1
            shop.do(shop.start(saga_id, 0, "one", partition=number))
    for shop in (first, second, first, second):
        admit(shop)
    assert (len(first.commands), len(second.commands)) == (1, 1), "the first of each began at the same time"

    second.partition.close()
    admit(first)

    assert len(first.commands) == 2
    assert rooms.counts() == {"narrow": (2, 1)}
    assert len(second.commands) == 1, "what was promised and not used is another's now"


def test_damaged_pages_take_nobodys_room() -> None:
    """A saga that cannot be read is left out of the count, told in the log, and stops no other."""
    shop = shop_with([0] * 3)
    broken = next(n for n, record in enumerate(shop.state) if record.key == IDS[0].encode())
    shop.state[broken] = shop.state[broken]._replace(value=(shop.state[broken].value or b"")[:-3] + b"xx\0")

    shop.crash()
    admit(shop)

    assert names(shop.commands) == IDS[:3]


class Looking:
    """The state topic of a Shop, as `Lookup` reads it."""

    topics = TOPICS

    def __init__(self, shop: Shop) -> None:
        self._shop = shop

    def on(self, partition: int) -> list[Stored]:
        assert partition == 0
        return list(stored({record.key or b"": record for record in self._shop.state}))


def test_explain_tells_who_stands_where() -> None:
    """How many are out of how many, the call's position, and what would send it at once."""
    shop = shop_with([0, 0, 0, 5, 0])
    broken = next(r for r in shop.state if r.key == IDS[2].encode())
    shop.state.append(broken._replace(value=(broken.value or b"")[:-3] + b"xx\0"))
    looking: Any = Looking(shop)
    (page,) = [found for found in looking.on(0) if found.saga_id == IDS[4]]
    folded = fold(APP, IDS[4], read_pages([record.value or b"" for record in page.records]))

    found = standings(looking, folded.state, [0], {"narrow": 2})
    (reason,) = of_saga(folded, shop.now, found)
    (unknown,) = of_saga(folded, shop.now, standings(looking, folded.state, [0], {}))

    assert found == {1: Standing(out=2, waiting=2, position=2, concurrent=2)}, "one's pages are damaged"
    assert (reason.kind, reason.step, reason.since_at) == ("limit", "Reserve", shop.now)
    assert reason.why.startswith("waits for room under limit 'narrow' to send inventory.Reserve (step Reserve), since ")
    assert reason.why.endswith(": 2 of 2 out, position 2 of 2")
    assert reason.moves.endswith(f"`kompensate retry {IDS[4]} --step Reserve` sends it at once")
    assert unknown.why.endswith(": 2 out, position 2 of 2")
    (sentence,) = view_of(folded, 0).waits
    assert sentence.startswith("for room under limit 'narrow' to begin inventory.Reserve (step Reserve), since ")
    assert [step.status for step in view_of(folded, 0).steps] == ["queued"]


# -- as authors test their sagas, in every mode


def test_a_fan_under_a_limit(saga_test: Make) -> None:
    """Ten calls at once, two at a time; each time-out begins when its call is sent."""
    test = saga_test(APPLICATION)
    test.on(Reserve, late(200))
    found = test.start(fan, 10)
    test.advance(150)
    assert (len(found.waiting), len(found.queued)) == (2, 8)

    test.run()

    found.assert_completed(10)
    began = found.seen[0].at
    assert sorted({seen.at - began for seen in found.seen}) == [0, 200_000, 400_000, 600_000, 800_000]


@saga("nested")
async def nested(ctx: Context, count: int) -> int:
    """Children and their calls under one and the same limit."""
    return len(await ctx.gather(*(ctx.child(fan, 3, limit="narrow") for _ in range(count))))


def test_children_do_not_wait_for_room_that_they_take(saga_test: Make) -> None:
    """They and their calls are counted each by themselves."""
    test = saga_test(Application(APP, [nested, fan], services=SERVICES, limits=LIMITS))
    test.on(Reserve, late(10))
    found = test.start(nested, 5)
    test.advance(5)
    assert (len(found.waiting), len(found.queued)) == (2, 3)

    test.run()

    found.assert_completed(5)


def test_children_under_a_limit(saga_test: Make) -> None:
    """Seven children, three at a time, whose calls are under another limit."""
    test = saga_test(APPLICATION)
    test.on(Reserve, late(10))
    found = test.start(parents, 7)
    test.advance(5)
    assert (len(found.waiting), len(found.queued)) == (3, 4)

    test.run()

    found.assert_completed(7)
    assert [test.saga(saga_id).status for saga_id in test.saga_ids] == ["completed"] * 8


def test_a_cancel_drops_what_is_queued(saga_test: Make) -> None:
    """Only what was sent is undone."""
    test = saga_test(APPLICATION)
    test.on(Reserve, never())
    found = test.start(fan, 5)
    found.cancel(delay=3)

    test.advance(30)

    found.assert_cancelled()
    assert sorted(found.commands) == ["inventory.Release"] * 2 + ["inventory.Reserve"] * 2


VIP = Saga(
    "order",
    Order,
    [
        Step("reserve", inventory, Reserve, undo=Release, limit="narrow", priority=lambda s: _rank(s.input)),
        SubSaga("pack", fan, make=lambda _: 1, limit="wide", priority=1),
        Step("charge", payments, Reserve, kind="pivot", limit="wide"),
        Step("confirm", inventory, Reserve, kind="retriable", limit="narrow"),
    ],
)


def _rank(order: Order) -> int:
    return 9 if order.order_id.startswith("vip") else 0


DECLARED = Application(APP, [VIP, fan], services=SERVICES, limits=LIMITS)


def test_declared_steps_under_limits(saga_test: Make) -> None:
    """Steps and sagas within, before and past the pivot; a priority may be made of the input."""
    test = saga_test(DECLARED)
    test.on("inventory.Reserve", late(10))
    found = [test.start(VIP, Order(name), saga_id=name) for name in ("a", "b", "c", "d", "vip")]
    test.advance(15)
    queued = [one.saga_id for one in found if one.queued == ["reserve"]]
    assert len(queued) == 1
    assert queued != ["vip"], "it was the last to come, but not the last to go"

    test.run()

    for each in found:
        each.assert_completed()


def test_an_attempt_that_failed_waits_anew(saga_test: Make) -> None:
    """Meanwhile its room is another's."""
    test = saga_test(APPLICATION)
    test.on(Reserve, in_turn(failed(), late(60)))
    first = test.start(one, 0, saga_id="first")
    test.run_until_idle()
    others = [test.start(one, 0, saga_id=f"other-{n}") for n in range(2)]
    test.advance(30)
    assert (first.queued, [other.waiting for other in others]) == (["Reserve"], [["Reserve"]] * 2)

    test.run()

    first.assert_completed()


def test_what_is_declared_wrongly_is_told() -> None:
    """When the module is imported, with the step's name."""
    with pytest.raises(DefinitionError, match=r"expected limit 'none' among its limits \(narrow\), step 'reserve'"):
        Application(APP, [_declared(Step("reserve", inventory, Reserve, undo=NOTHING, limit="none"))], limits=_narrow())
    for step in (
        Step("mail", inventory, Reserve, kind="notification", limit="narrow"),
        SubSaga("pack", CHECKOUT, detached=True, limit="narrow"),
    ):
        with pytest.raises(DefinitionError, match="expected no limit where nobody waits for an answer"):
            _declared(step)
    with pytest.raises(DefinitionError, match="step 'reserve': priority: expected a limit with the priority 3"):
        _declared(Step("reserve", inventory, Reserve, undo=NOTHING, priority=3))


def _declared(step: Step | SubSaga) -> Saga:
    return Saga("declared", Order, [step])


def _narrow() -> dict[str, Limit]:
    return {"narrow": Limit(concurrent=1)}


def test_plans_without_limits_keep_their_bytes() -> None:
    """A saga that has none is the plan that it was."""
    assert b"limit" not in CHECKOUT.plan.encode()
    assert VIP.plan.encode().count(b'"limit"') == 4
    assert type(CHECKOUT.plan).decode(VIP.plan.encode(), VIP.plan.hash) == VIP.plan
