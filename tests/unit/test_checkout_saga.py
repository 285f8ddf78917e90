"""The checkout example's saga, tested as its authors would, in every mode."""

from collections.abc import Callable

import pytest

from examples.checkout.contracts import Charge, Confirm, Order, Receipt, Refund, Release, Reserve, Ship, Shipped
from examples.checkout.sagas import app
from kompensate.orchestrator.testing import SagaTest, done, failed, in_turn, late, never, refused

ORDER = Order("o-1", "c-1", "1997-01-01", "cd", 2, 2_000, "12 Main Street")


@pytest.fixture
def shop(saga_test: Callable[..., SagaTest]) -> SagaTest:
    """A shop whose parcels leave, in each mode."""
    test = saga_test(app)
    test.on(Ship, Shipped("p-1"))
    return test


def test_an_order_is_shipped(shop: SagaTest) -> None:
    """Reserved, charged, shipped and confirmed: the receipt names the parcel."""
    order = shop.start("checkout", ORDER)
    shop.run()

    order.assert_completed(Receipt("o-1", "p-1", 2_000))
    assert order.commands == ["inventory.Reserve", "payments.Charge", "shipping.Ship", "inventory.Confirm"]
    assert order.messages(Charge) == [Charge("o-1", "c-1", 2_000)]


def test_no_money(shop: SagaTest) -> None:
    """What was reserved is released; nothing is refunded that was not charged."""
    shop.on(Charge, refused("no money"))
    order = shop.start("checkout", ORDER)
    shop.run()

    order.assert_compensated("no money")
    assert order.undone == ["reserve"]
    assert order.messages(Release) == [Release("o-1", "cd", 2)]


def test_an_address_where_nobody_delivers(shop: SagaTest) -> None:
    """The pivot is refused: money first, then the stock."""
    shop.on(Ship, refused("no such street"))
    order = shop.start("checkout", ORDER)
    shop.run()

    order.assert_compensated()
    assert order.undone == ["charge", "reserve"]


def test_a_bank_that_does_not_answer(shop: SagaTest) -> None:
    """Nobody knows whether it was charged: it is refunded, and asked until that is done."""
    shop.on(Charge, never())
    shop.on(Refund, in_turn(failed("down"), failed("down"), done()))
    order = shop.start("checkout", ORDER)
    shop.run()

    order.assert_compensated()
    assert order.undone == ["charge", "reserve"]
    assert len(order.messages(Refund)) == 3


def test_a_parcel_that_left_is_never_called_back(shop: SagaTest) -> None:
    """Cancelled while the pivot is out, and a warehouse that cannot confirm at first: forward all the same."""
    shop.on(Ship, late(3600, Shipped("p-1")))
    shop.on(Confirm, in_turn(refused(), failed(), done()))
    order = shop.start("checkout", ORDER)
    order.run_until("ship")
    order.cancel("changed my mind")
    shop.run()

    order.assert_completed()
    assert order.undone == []
    assert "CancelRefused" in order.events


def test_orders_do_not_mix(shop: SagaTest) -> None:
    """Twenty at once: each gets its own receipt."""
    shop.on(Ship, lambda parcel: Shipped(f"p-{parcel.order_id}"))
    shop.on(Reserve, lambda command: refused("sold out") if command.order_id.endswith("7") else None)
    orders = [
        shop.start("checkout", Order(f"o-{n}", "c", "1997-01-01", "cd", 1, n, "here"), saga_id=f"o-{n}")
        for n in range(20)
    ]
    shop.run()

    for n, order in enumerate(orders):
        if n % 10 == 7:
            order.assert_compensated("sold out")
        else:
            order.assert_completed(Receipt(f"o-{n}", f"p-o-{n}", n))
