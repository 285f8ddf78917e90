"""The food delivery in one process, without Kafka and PostgreSQL: kompensate dev --light examples.food.light

Three orders are there at first: one is delivered, one is not on the menu, one is not paid. The provider is the one of
examples/gateway, in a thread. receipts.py, a job with a loop of its own on PostgreSQL, does not run.
"""

import os
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from examples.food.app import app
from examples.food.contracts import OrderPlaced
from examples.food.orders import create, orders, place
from examples.food.payments import payments
from examples.food.services import TABLES, couriers, loyalty, restaurant
from examples.food.services import create as create_others
from examples.gateway.gateway import Gateway

GOOD = OrderPlaced("o-1", "mei", "laksa", "centre", 1250)
FIRST = (GOOD, replace(GOOD, order_id="o-2", dish="whale"), replace(GOOD, order_id="o-3", customer="tom"))


def light_setup(service: str, connection: Connection) -> None:
    """The service's own tables; the first orders, with the events that tell of them; and the provider."""
    if service in TABLES:
        create_others(connection, service)
    elif service == "payments":
        _open_provider()
    else:
        create(connection)
        for order in FIRST:
            place(connection, order)


def _open_provider() -> None:
    """It says nothing the first time: the charge is there all the same, and no second one comes of it."""
    gateway = Gateway(0, Path(tempfile.mkdtemp(prefix="kompensate-food-")) / "ledger.jsonl")
    gateway.script = ["drop-after"]
    os.environ["GATEWAY"] = gateway.address
    threading.Thread(target=gateway.serve_forever, daemon=True).start()


__all__ = ["app", "couriers", "light_setup", "loyalty", "orders", "payments", "restaurant"]
