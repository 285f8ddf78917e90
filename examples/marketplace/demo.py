"""Orders that are paid, not paid in time, and paid just before the worker is killed.

.venv/bin/python -m examples.marketplace.demo
"""

import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import psycopg

from examples.common import demo
from examples.common.asking import TIMEOUT_SECONDS, ask, ask_until
from examples.common.ground import Ground, Parts
from examples.marketplace import services
from examples.marketplace.app import app
from examples.marketplace.contracts import Order

SERVICES = ("inventory", "orders", "warehouse")


def parts() -> Parts:
    """Three services with a database each, a worker, the relay and the front."""
    return Parts(
        app,
        "examples.marketplace.app:app",
        {name: f"examples.marketplace.services:{name}" for name in SERVICES},
        {name: partial(services.create, service=name) for name in SERVICES},
        front="examples.marketplace.web",
    )


def order(ground: Ground, placed: Order) -> None:
    """A customer orders, and gets as far as the payment."""
    ask(ground, "/orders", asdict(placed))
    wait_for(ground, placed.order_id, "waits for payment")


def pay(ground: Ground, order_id: str, *, paid: bool = True) -> tuple[int, Any]:
    """The payment provider's webhook."""
    return ask(ground, "/webhooks/payment", {"order_id": order_id, "payment_id": f"p-{order_id}", "paid": paid})


def wait_for(ground: Ground, order_id: str, status: str) -> Any:
    """The order, once its status, or its saga's, is that."""
    return ask_until(ground, f"/orders/{order_id}", lambda it: status in (it.get("status"), it["saga"]))


def rows(ground: Ground, service: str, query: str) -> list[tuple[Any, ...]]:
    """What that service's database holds."""
    with psycopg.connect(ground.dsns[service]) as connection:
        return connection.execute(query).fetchall()


def kill_after_payment(ground: Ground, placed: Order) -> None:
    """Order and pay, and kill the worker once the order is PAID and the warehouse knows nothing yet.

    The relay is down meanwhile, so that the answer of the orders service waits in its outbox.
    """
    order(ground, placed)
    ground.children["relay"].stop()
    pay(ground, placed.order_id)
    ground.wait_until(
        f"{placed.order_id} to be PAID",
        lambda: (placed.order_id, "PAID") in rows(ground, "orders", "SELECT order_id, status FROM purchase"),
        TIMEOUT_SECONDS,
    )
    ground.children["worker-1"].kill()


def story(ground: Ground) -> None:
    """Three orders of the ten lamps."""
    print(f"http://127.0.0.1:{ground.port}/orders/o-1")
    order(ground, Order("o-1", "lamp", 5, 12_475))
    print("o-1 waits for a payment that does not come")
    order(ground, Order("o-2", "lamp", 1, 2_495))
    pay(ground, "o-2")
    print(f"o-2 is paid: {wait_for(ground, 'o-2', 'completed')}")
    print("o-3 is paid, and the worker is killed before the warehouse hears of it")
    kill_after_payment(ground, Order("o-3", "lamp", 2, 4_990))
    ground.children["relay"].start()
    ground.children["worker-1"].start()
    print(f"o-3: {wait_for(ground, 'o-3', 'completed')}")
    print(f"o-1: {wait_for(ground, 'o-1', 'failed')}")
    print(f"o-1 is paid too late: {pay(ground, 'o-1')}")
    stock = rows(ground, "inventory", "SELECT available, reserved FROM stock")
    parcels = rows(ground, "warehouse", "SELECT parcel, quantity FROM parcel ORDER BY parcel")
    print(f"in stock and reserved: {stock}, parcels: {parcels}")
    assert stock == [(7, 0)], f"expected 7 lamps in stock and none reserved, got {stock}"
    assert len(parcels) == 2, f"expected two parcels, got {parcels}"


if __name__ == "__main__":
    sys.exit(demo.main("marketplace", parts, story))
