"""Stories of long sagas: pages that fill, close, and read as one."""

from kompensate.orchestrator import Application, Context, Policy, saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.sagas.journal import read_page
from tests.fixtures.driving import APP, SERVICES, Order, Release, Reserve, inventory
from tests.fixtures.partitions import IDS, PARTITIONS, TOPICS, Shop, header, keys


def test_a_long_saga_has_many_pages() -> None:
    """Full pages go to the history as they close; at the end later pages are tombstoned; all of it reads as one."""
    shop = Shop(page_bytes_max=1)
    shop.do(shop.start())
    shop.crash()
    for _ in range(3):
        shop.do(shop.reply())
        shop.crash()
    assert [r.key for r in shop.state if b"__" not in (r.key or b"")][-1] == f"{IDS[0]}/3".encode()

    last = keys(shop.do(shop.reply()))

    id_ = IDS[0]
    tombstones = [f"shop.state {id_}/{n} †" for n in range(1, 5)]
    assert last == [
        "shop.state __wm/0",
        f"shop.state {id_}/3",
        f"shop.history {id_}",
        f"shop.history {id_}",
        f"shop.state {id_}",
        *tombstones,
    ]
    pages = [read_page(r.value or b"") for r in shop.history]
    assert [p.number for p in pages] == [0, 1, 2, 3, 4]
    assert [recorded.sequence for p in pages for recorded in p.events] == list(range(1, 11))
    shop.crash()
    assert shop.partition.live == 0


@saga("wide")
async def wide(ctx: Context, order: Order) -> None:
    for one in [ctx.call(inventory, Reserve("x" * 400), undo=Release("o1"), step=f"s{n}") for n in range(6)]:
        await one


WIDE = Application(APP, [wide], services=SERVICES, partitions=PARTITIONS)


def test_one_input_may_fill_several_pages() -> None:
    """Where one input's events exceed the record limit they go to pages of their own, each under its number."""
    shop = Shop(WIDE, record_bytes_max=1_200, page_bytes_max=1_000)

    records = shop.do(shop.start(saga="wide"))

    found = [r for r in records if r.topic == TOPICS.state][1:]
    numbers = [(r.key or b"").decode() for r in found]
    assert numbers == [IDS[0], *(f"{IDS[0]}/{n}" for n in range(1, len(found)))]
    assert [read_page(r.value or b"").number for r in found] == list(range(len(found)))
    assert len(found) > 2
    assert max(len(r.value or b"") for r in found) <= 1_200
    assert header(found[-1]).status == "running"
    shop.crash()
    for command in shop.commands[:6]:
        shop.do(shop.reply(command))
    assert shop.partition.live == 0


def test_a_policy_travels_through_the_log() -> None:
    """What a call was made with is what it is tried with, after any restore."""

    @saga("patient")
    async def patient(ctx: Context, order: Order) -> None:
        await ctx.call(inventory, Reserve("o1"), policy=Policy(resend_after=77, timeout=None, attempts=9))

    shop = Shop(Application(APP, [patient], services=SERVICES, partitions=PARTITIONS))
    shop.do(shop.start(saga="patient"))
    shop.crash()
    shop.do(shop.reply(outcome="failed"))

    made = [r.event for r in read_page(shop.state[-1].value or b"").events if isinstance(r.event, e.CallMade)]
    assert made[0].policy == Policy(resend_after=77, timeout=None, attempts=9)
    assert shop.restored().next_due == header(shop.state[-1]).due
