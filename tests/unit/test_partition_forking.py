"""Forks and resets as a partition takes them: written whole or not at all, and whatever somebody sends."""

from random import Random
from typing import Any

import pytest

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.inputs import Origin
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.forking import Point, point
from kompensate.orchestrator.sagas.forking import page_of
from kompensate.orchestrator.sagas.journal import read_pages
from kompensate.schemas.messages import FORK, FORK_HELD, ORDERS, RESET
from kompensate.schemas.topics import partition_of
from tests.fixtures import samples
from tests.fixtures.partitions import EPOCH, IDS, PARTITIONS, Shop, memory

OLD, NEW = IDS[:2]
ABOUT: dict[str, Any] = {"who": "ann", "reason": "as I said"}
ORIGIN = Origin("shop.requests", 0, 1, EPOCH)


def closed(shop: Shop) -> Point:
    """A checkout of which two steps are done; where the second one was asked for."""
    shop.do(shop.start(OLD))
    shop.do(shop.reply())
    shop.do(shop.reply())
    shop.do(shop.request(ORDERS["close"], OLD, who="ann", subject="why"))
    pages = read_pages([record.value or b"" for record in shop.history if record.key == OLD.encode()])
    return point(OLD, pages, step="charge", **ABOUT)


def asked(shop: Shop, type_: str, payload: bytes | None, saga_id: str = NEW) -> Record:
    return shop.request(type_, saga_id, payload=payload, who="ann", subject="why")


def test_it_is_written_whole_or_not_at_all() -> None:
    """A batch that does not stand leaves nothing; one that does is what another worker reads, over many pages too."""
    shop = Shop(page_bytes_max=200)
    found = closed(shop)
    assert found.left == ("charge (done)", "ship (sent)")
    fork = asked(shop, FORK, found.fork(NEW, source="test").payload)
    before = memory(shop.partition)

    shop.take([fork])
    shop.partition.discard()
    assert memory(shop.partition) == before

    written = shop.do(fork)
    assert memory(shop.restored()) == memory(shop.partition)
    assert len([r for r in written if (r.key or b"").startswith(NEW.encode() + b"/")]) > 1, "many pages"
    assert [command.step for command in shop.commands[-1:]] == ["charge"]
    assert shop.commands[-1].saga_id == NEW
    shop.crash()
    for _ in range(3):
        shop.do(shop.reply())
    assert shop.partition.live == 0
    assert shop.reasons() == []


def test_asked_for_twice_it_is_one() -> None:
    """Not one more command goes out."""
    shop = Shop()
    payload = closed(shop).fork(NEW, source="test").payload
    shop.do(asked(shop, FORK, payload), asked(shop, FORK, payload))
    sent = len(shop.commands)

    shop.do(asked(shop, FORK, payload))

    assert len(shop.commands) == sent
    assert shop.reasons() == []


def test_the_end_of_a_reset_saga_releases_the_other_one() -> None:
    """In the transaction that ends it."""
    shop = Shop()
    shop.do(shop.start(OLD))
    shop.do(shop.reply())
    entry = shop.partition._sagas[OLD]
    found = point(OLD, read_pages(entry.pages), step="charge", reset=True, **ABOUT)
    shop.do(asked(shop, FORK_HELD, found.fork(NEW, source="test", held=True).payload))
    sent = len(shop.commands)
    assert shop.commands[-1].saga_id == OLD, "the other one waits"

    shop.do(asked(shop, RESET, found.reset(NEW, source="test").payload, OLD))
    refund = shop.commands[-1]
    assert (refund.saga_id, refund.step, refund.phase) == (OLD, "charge", "compensate")
    shop.do(shop.reply())
    assert OLD not in shop.partition._sagas
    shop.do(*shop.asked())

    charge = shop.commands[-1]
    assert (charge.saga_id, charge.step, len(shop.commands)) == (NEW, "charge", sent + 2)


def page(*events: e.Event) -> bytes:
    return page_of("0.1", [(event, ORIGIN) for event in events])


FORKED = e.SagaForked(OLD, "0.1", 1, 0, 1, "ann", "why")
STARTED = e.SagaStarted("checkout", None, b"{}", None, None)
BAD = {
    "nothing": (FORK, None, "expected a page of events, got one that does not read"),
    "other bytes": (FORK, b'{"events": []}', "expected a page of events, got one that does not read"),
    "no events": (FORK, page(), "expected a page of events, got one without any"),
    "no fork": (FORK, page(STARTED), "expected SagaForked of run 0.1 as the first event, got SagaStarted"),
    "another run": (FORK, page_of("0.2", [(FORKED, ORIGIN)]), "expected SagaForked of run 0.2 as the first event"),
    "no start": (FORK, page(FORKED, e.SignalKept("s", "1", b"")), "expected saga '?' in version 1"),
    "bad input": (FORK, page(FORKED, e.SagaStarted("checkout", None, b'"no order"', None, None)), "payload Order"),
    "an end": (FORK, page(FORKED, STARTED, e.SagaFailed()), f"fork of '{OLD}'"),
    "no such saga": (FORK, page(FORKED, e.SagaStarted("x", None, b"", None, None)), "expected saga 'x' in version 1"),
    "no such version": (FORK, page(e.SagaForked(OLD, "0.1", 1, 0, 7, "ann", "why"), STARTED), "in version 7"),
    "no reset": (RESET, page(STARTED), "expected SagaReset as the only event, got SagaStarted"),
    "two resets": (RESET, page(*[e.SagaReset(NEW, 1, "ann", "why")] * 2), "as the only event"),
    "a reset of nobody": (RESET, page(e.SagaReset(OLD, 1, "ann", "why")), "does not exist here: got a reset"),
}


@pytest.mark.parametrize(("type_", "payload", "why"), BAD.values(), ids=BAD)
def test_what_is_no_fork_is_put_aside(type_: str, payload: bytes | None, why: str) -> None:
    """With the reason; nothing of it is left, and the id is free."""
    shop = Shop()
    before = memory(shop.partition)["sagas"]

    shop.do(asked(shop, type_, payload))

    (told,) = shop.reasons()
    assert why in told
    assert memory(shop.partition)["sagas"] == before
    shop.do(shop.start(NEW))
    assert shop.partition.live == 1


def test_a_fork_on_the_wrong_partition() -> None:
    """Its saga would be there twice."""
    shop = Shop()
    elsewhere = next(f"o{n}" for n in range(9) if partition_of(f"o{n}", PARTITIONS) == 1)

    shop.do(asked(shop, FORK, page(FORKED, STARTED), elsewhere))

    assert "lives on partition 1 of 2" in shop.reasons()[0]


@pytest.mark.parametrize("seed", range(4))
def test_any_events_in_any_order(seed: int) -> None:
    """Whatever a page claims has happened: a saga is there that another worker reads, or the request is put aside."""
    print(f"seed {seed}")
    random = Random(seed)
    kinds = [event for event in (*samples.EVENTS, *samples.LATER_EVENTS, *samples.FORKED_EVENTS) if event != STARTED]
    taken = 0
    shop = Shop()
    pages = read_pages([r.value or b"" for r in (closed(shop), shop.history)[1] if r.key == OLD.encode()])
    real = [recorded.event for found in pages for recorded in found.events]
    for number in range(150):
        events = real[: random.randint(1, len(real))]
        for _ in range(random.randint(0, 2)):
            events.insert(random.randint(0, len(events)), random.choice(kinds))
        operations = max((event.number for event in events if isinstance(event, e.Asked)), default=0)
        first = e.SagaForked(OLD, "0.1", len(events), operations, 1, "ann", "why")
        saga_id, before = IDS[2 + number % 10] + f".{number}", len(shop.quarantined)
        if partition_of(saga_id, PARTITIONS) == 0:
            shop.do(asked(shop, FORK, page(first, *events), saga_id))
            taken += len(shop.quarantined) == before
    assert memory(shop.restored()) == memory(shop.partition)
    assert taken > 0
