"""The marketplace: what is paid for leaves once, what is not is released; in memory and on the real stack, killed."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from examples.marketplace import services
from examples.marketplace.app import PAYMENT_SECONDS, app, purchase
from examples.marketplace.contracts import Order, Pack, Payment
from examples.marketplace.demo import SERVICES
from kompensate.orchestrator.testing import MODES, Answer, SagaHandle, SagaTest, failed
from tests.fixtures.handlers import Desk

ORDER = Order("o-1", "lamp", 2, 4_990)
HANDLERS = {
    "inventory": (services.reserve, services.release, services.hand_over),
    "orders": (services.create_order, services.cancel, services.mark_paid, services.mark_dispatched),
    "warehouse": (services.pack,),
}


@dataclass(frozen=True, slots=True)
class Market:
    """The sagas, and the three services with their own handlers."""

    test: SagaTest
    desks: dict[str, Desk]

    def order(self, placed: Order = ORDER) -> SagaHandle:
        """As far as the payment."""
        found = self.test.start(purchase, placed, saga_id=placed.order_id)
        self.test.run_until_idle()
        return found

    def rows(self, service: str, query: str) -> list[tuple[Any, ...]]:
        return self.desks[service].rows(query)

    def changes(self) -> list[str]:
        return [status for (status,) in self.rows("orders", "SELECT status FROM change")]

    def stock(self) -> tuple[int, int]:
        """Lamps on the shelves, and reserved."""
        ((available, reserved),) = self.rows("inventory", "SELECT available, reserved FROM stock")
        return available, reserved


@pytest.fixture(params=MODES)
def market(request: pytest.FixtureRequest) -> Iterator[Market]:
    """The same market in each mode: the worker killed at every commit, messages doubled, programs replayed."""
    desks = {name: Desk(partial(services.create, service=name)) for name in SERVICES}
    found = Market(SagaTest(app, mode=request.param), desks)
    for name, handlers in HANDLERS.items():
        for handler in handlers:
            desks[name].take(found.test, handler)
    yield found
    for desk in desks.values():
        desk.close()


def payment(*, paid: bool = True) -> Payment:
    return Payment("o-1", "p-1", paid)


def test_paid_in_time(market: Market) -> None:
    """PENDING, PAID, DISPATCHED, each once; one parcel; two lamps are gone and none is reserved."""
    found = market.order()
    found.assert_waits_for("payment")
    market.test.advance(PAYMENT_SECONDS - 1)
    found.signal("payment", payment(), signal_id="p-1")
    market.test.run()

    found.assert_completed("parcel-o-1")
    assert market.changes() == ["PENDING", "PAID", "DISPATCHED"]
    assert market.rows("warehouse", "SELECT * FROM parcel") == [("parcel-o-1", "lamp", 2)]
    assert market.stock() == (8, 0)
    (child,) = set(market.test.saga_ids) - {"o-1"}
    assert sorted(market.test.saga(child).commands) == ["inventory.HandOver", "orders.MarkDispatched", "warehouse.Pack"]


def test_not_paid_in_time(market: Market) -> None:
    """After a minute the order is cancelled, then the goods are released."""
    began = market.test.now
    found = market.order()
    market.test.run()

    found.assert_failed("not paid within 60 seconds")
    assert market.test.now - began == timedelta(seconds=PAYMENT_SECONDS)
    assert found.undone == ["Create", "Reserve"]
    assert market.changes() == ["PENDING", "CANCELLED"]
    assert market.stock() == (10, 0)


def test_a_payment_that_failed(market: Market) -> None:
    """Cancelled at once; the warehouse never heard of it."""
    found = market.order()
    found.signal("payment", payment(paid=False), signal_id="p-1")
    market.test.run()

    found.assert_failed("payment failed")
    assert market.changes() == ["PENDING", "CANCELLED"]
    assert market.stock() == (10, 0)
    assert market.rows("warehouse", "SELECT * FROM parcel") == []


def test_more_than_there_are(market: Market) -> None:
    """Refused before an order is made: there is nothing to cancel and nobody is asked for money."""
    found = market.order(Order("o-1", "lamp", 11, 27_445))

    found.assert_compensated("out of stock")
    assert found.commands == ["inventory.Reserve"]
    assert market.changes() == []


def test_a_warehouse_that_fails_for_a_while(market: Market) -> None:
    """What is paid for leaves in the end, however often it takes."""
    packs = market.desks["warehouse"].answers(services.pack)
    trouble = [failed("closed")] * 5

    def packs_later(command: Pack) -> Answer:
        return trouble.pop() if trouble else packs(command)

    market.test.on(Pack, packs_later)
    found = market.order()
    found.signal("payment", payment(), signal_id="p-1")
    market.test.run()

    found.assert_completed("parcel-o-1")
    assert market.changes() == ["PENDING", "PAID", "DISPATCHED"]
    assert market.stock() == (8, 0)
