"""Many timers of one partition: none early, none twice, none lost, whatever restores come between."""

import random
from collections import Counter

import pytest

from kompensate.orchestrator import Application, Context, saga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.ports import OutRecord
from kompensate.orchestrator.sagas.journal import Recorded, read_pages
from tests.fixtures.partitions import EPOCH, Shop

SAGAS = 120
PORTION = 25
LATEST = 5_000


@saga("nap")
async def nap(ctx: Context, times: list[int]) -> None:
    """Sleeps so many milliseconds, one after the other."""
    for ms in times:
        await ctx.sleep(ms / 1000)


APP = Application("shop", [nap], partitions=1)


def _events(history: list[OutRecord]) -> dict[str, list[Recorded]]:
    """What each saga that has ended did: its last page in the history topic."""
    found = {}
    for record in history:
        (page,) = read_pages([record.value or b""])
        found[(record.key or b"").decode()] = page.events
    return found


def _crash(shop: Shop, kind: str) -> None:
    """A worker dies: before anything is written, or written and before it knows."""
    if kind == "unwritten":
        shop.take([(shop.now, PORTION)])
    elif kind == "unheard":
        shop.take([(shop.now, PORTION)])
        shop.append(*shop.partition.output("writer-1"))
    shop.crash()


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_of_timers_through_restores(seed: int) -> None:
    """Due in crowds and fired in portions, with workers that die in between, each sleep ends once and not before."""
    chance = random.Random(seed)
    shop = Shop(APP, live_sagas_max=10)
    ids = [f"nap-{n}" for n in range(SAGAS)]
    slept = {id_: [chance.choice([0, 1_000, LATEST])] * chance.randint(1, 2) for id_ in ids}
    shop.do(*[shop.start(id_, slept[id_], "nap") for id_ in ids])

    for _ in range(200):
        if shop.partition.live == 0:
            break
        shop.now += chance.choice([0, 0, 1, 999, 2_000])
        before = len(shop.history)
        shop.do((shop.now, PORTION))
        for recorded in _events(shop.history[before:]).values():
            assert recorded[-1].origin.time <= shop.now, "nobody fires ahead of the clock"
        if chance.random() < 0.3:
            _crash(shop, chance.choice(["idle", "unwritten", "unheard"]))

    ended = _events(shop.history)
    assert ended.keys() == set(ids), "none is lost"
    for id_, recorded in ended.items():
        started = {r.event.number: r.event.until for r in recorded if isinstance(r.event, e.SleepStarted)}
        over = [(r.event.number, r.origin.time) for r in recorded if isinstance(r.event, e.SleepEnded)]
        assert Counter(number for number, _ in over) == dict.fromkeys(started, 1), f"{id_}: each once"
        assert all(time >= started[number] for number, time in over), f"{id_}: none early"
        assert recorded[-1].origin.time >= EPOCH + sum(slept[id_])
    assert len(shop.history) == SAGAS, "each ended once"
