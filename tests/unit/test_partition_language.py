"""Local steps, children and runs that go on, as a partition writes them down and finds them again."""

from typing import Any

import pytest

from kompensate.orchestrator import Application, Context, Refuse, saga
from kompensate.orchestrator.ports import Job, Ran
from kompensate.orchestrator.sagas.journal import read_pages
from kompensate.schemas.messages import ORDERS, SIGNAL
from tests.fixtures.driving import CHECKOUT, SERVICES, Order, Reserve, inventory
from tests.fixtures.partitions import IDS, PARTITIONS, Shop, memory

BEGUN: list[tuple[str, int]] = []


def work(number: int, idempotency_key: str) -> int:
    BEGUN.append((idempotency_key, number))
    if number < 0:
        raise Refuse("less than nothing", number=number)
    return number + 1


def unwork(number: int) -> None:
    BEGUN.append(("undo", number))


@saga("works")
async def works(ctx: Context, start: int) -> int:
    first: int = await ctx.run(work, start, undo=unwork)
    second: int = await ctx.run(work, first - 10 if start == 5 else first, step="second")
    return second


@saga("rounds")
async def rounds(ctx: Context, round_: int) -> str:
    """Three runs of one saga; each takes one signal."""
    said: str = await ctx.receive("go", type=str)
    await ctx.call(inventory, Reserve(said), step=f"round-{round_}")
    if round_ < 3:
        ctx.continue_as_new(round_ + 1)
    return said


@saga("family")
async def family(ctx: Context, order: Order) -> Any:
    return await ctx.child(CHECKOUT, order, saga_id=IDS[1])


APPLICATION = Application("shop", [CHECKOUT, works, rounds, family], services=SERVICES, partitions=PARTITIONS)


@pytest.fixture
def shop() -> Shop:
    BEGUN.clear()
    return Shop(APPLICATION)


def same_after_a_crash(shop: Shop) -> None:
    """What is in memory is what the topic says, but that another worker looks at local steps at once."""
    mine, restored = memory(shop.partition), memory(shop.restored())
    for found in (mine, restored):
        found["sagas"] = {saga_id: pages for saga_id, (pages, _due) in found["sagas"].items()}
    assert restored == mine


def test_a_local_step_runs_after_its_commit(shop: Shop) -> None:
    """Not before: an aborted batch has begun nothing."""
    start = shop.start(value=1, saga="works")
    shop.take([start])
    shop.partition.discard()
    assert shop.partition.take_jobs() == []

    shop.do(start)
    assert shop.partition.busy
    shop.run_local()
    shop.run_local()

    assert [number for _, number in BEGUN] == [1, 2]
    assert not shop.partition.busy
    assert shop.partition.live == 0
    same_after_a_crash(shop)


def test_an_end_is_kept_through_an_abort(shop: Shop) -> None:
    """The batch that handled it does not stand: it is handled again, and the function is not run again."""
    shop.do(shop.start(value=1, saga="works"))
    (job,) = shop.partition.take_jobs()
    shop.partition.answer(_done(job))
    shop.take([(shop.now, 10)])
    shop.partition.discard()

    assert shop.partition.next_due == 0, "there is something to handle"
    shop.do((shop.now, 10))

    assert [job.work.args for job in shop.partition.take_jobs()] == [(2,)]


def test_another_worker_runs_it_again(shop: Shop) -> None:
    """At once, with the same key; and again in the same batch where its commit failed."""
    shop.do(shop.start(value=1, saga="works"))
    (first,) = shop.partition.take_jobs()
    shop.crash()

    shop.take([(shop.now, 10)])
    shop.partition.discard()
    assert shop.partition.take_jobs() == []
    shop.do((shop.now, 10))

    (again,) = shop.partition.take_jobs()
    assert (again.id, again.work.args) == (first.id, first.work.args)
    shop.do((shop.now + 60_000, 10))
    assert shop.partition.take_jobs() == [], "it runs: nobody begins it a second time"


def test_nobody_waits_for_steps_of_a_partition_that_went(shop: Shop) -> None:
    shop.do(shop.start(value=1, saga="works"))
    (job,) = shop.partition.take_jobs()

    shop.partition.close()

    assert not job.wanted()


def test_a_refusal_is_undone(shop: Shop) -> None:
    shop.do(shop.start(value=5, saga="works"))
    for _ in range(3):
        shop.run_local()

    assert [number for _, number in BEGUN] == [5, -4, 5]
    assert BEGUN[-1][0] == "undo"
    assert shop.partition.live == 0


def test_what_undoes_a_step_waits_for_what_does_it(shop: Shop) -> None:
    """A cancel while the function runs: its undo is not begun beside it."""
    shop.do(shop.start(value=1, saga="works"))
    (running,) = shop.partition.take_jobs()
    shop.do(shop.request("kompensate.cancel", subject="enough"))
    assert shop.partition.take_jobs() == []

    shop.partition.answer(_done(running))
    shop.do((shop.now, 10))

    (undo,) = shop.partition.take_jobs()
    assert undo.work.function is unwork


def test_a_run_goes_on_in_one_transaction(shop: Shop) -> None:
    """Page 0 is the new run's, the old one's pages are in the history, and signals move over."""
    shop.do(shop.start(value=1, saga="rounds"))
    for said in ("a", "b", "c"):
        shop.do(shop.request(SIGNAL, subject="go", payload=b'"%s"' % said.encode(), id=said))
    records = shop.do(shop.reply())

    (page,) = read_pages([r.value or b"" for r in records if r.key == IDS[0].encode() and r.topic.endswith("state")])
    assert page.run == "0.0.1"
    assert [type(r.event).__name__ for r in page.events][:5] == [
        *("SignalKept", "SignalKept", "SignalsRemembered", "SagaStarted", "ReceiveStarted")
    ]
    assert [dict(r.headers or ())["run"] for r in shop.history] == [b"0.0"]
    same_after_a_crash(shop)

    shop.crash()
    shop.do(shop.reply())
    assert len({command.id for command in shop.commands}) == 3, "no run repeats a command's id"
    shop.do(shop.reply())
    assert shop.partition.live == 0
    assert [dict(r.headers or ())["run"] for r in shop.history] == [b"0.0", b"0.0.1", b"0.0.2"]
    same_after_a_crash(shop)


def test_a_run_that_goes_on_may_be_taken_back(shop: Shop) -> None:
    """The transaction is aborted: the old run is there as it was."""
    shop.do(shop.start(value=1, saga="rounds"), shop.request(SIGNAL, subject="go", payload=b'"a"', id="a"))
    before = memory(shop.partition)
    reply = shop.reply()
    shop.take([reply])
    shop.partition.discard()
    assert memory(shop.partition)["sagas"] == before["sagas"]

    shop.do(reply)
    assert memory(shop.partition)["sagas"] != before["sagas"]


def test_a_family(shop: Shop) -> None:
    """The child's start and end go through the requests topic, in the transactions of what led to them."""
    shop.do(shop.start(saga="family"))
    (start,) = shop.asked()
    assert dict(start.headers or ())["ce_parentid"] == IDS[0].encode()
    shop.do(start)
    assert shop.partition.live == 2
    for _ in range(4):
        shop.do(shop.reply())
    (ended,) = shop.asked()
    assert dict(ended.headers or ())["ce_replyoutcome"] == b"done"
    shop.do(ended)

    assert shop.partition.live == 0
    assert shop.quarantined == []
    same_after_a_crash(shop)


def test_a_child_whose_id_has_ended_is_refused(shop: Shop) -> None:
    """An id is used once: also one that ended within the dedup window."""
    shop.do(shop.start(IDS[1]))
    for _ in range(4):
        shop.do(shop.reply())
    shop.do(shop.start(saga="family"))
    shop.do(*shop.asked())
    (refused,) = shop.asked()
    assert dict(refused.headers or ())["ce_replyoutcome"] == b"refused"

    shop.do(refused)

    assert shop.partition.live == 0
    assert shop.quarantined == []


@saga("misled")
async def misled(ctx: Context, order: Order) -> None:
    await ctx.child("works", "no number", saga_id=IDS[1])


def test_a_child_that_cannot_start_is_refused() -> None:
    """Its start is put aside like any other, and its parent does not wait for ever."""
    shop = Shop(Application("shop", [works, misled], services=SERVICES, partitions=PARTITIONS))
    shop.do(shop.start(saga="misled"))
    shop.do(*shop.asked())
    assert "cannot start" in shop.reasons()[0]

    shop.do(*shop.asked())

    assert shop.partition.live == 0


def test_an_order_reaches_its_saga(shop: Shop) -> None:
    shop.do(shop.start())
    shop.do(shop.request(ORDERS["complete"], who="ann", subject="done by hand", step="reserve", payload=b"null"))

    assert [c.step for c in shop.commands] == ["reserve", "charge"]
    shop.do(shop.request(ORDERS["skip"], who="ann", subject="why", step="nothing"))
    assert "expected the name or number of one open step (charge (2)), got 'nothing'" in shop.reasons()[0]


def test_a_start_that_waits(shop: Shop) -> None:
    shop.do(shop.start(not_before=shop.now + 5_000))
    shop.crash()
    assert shop.commands == []

    shop.wait(5_000)

    assert [c.step for c in shop.commands] == ["reserve"]


def _done(job: Job) -> Ran:
    return Ran(job.saga_id, job.id, "done", b"2")
