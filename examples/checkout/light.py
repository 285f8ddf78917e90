"""The whole shop in one process, without Kafka and PostgreSQL: kompensate dev --light examples.checkout.light

Then type, say: start checkout o1 {"order_id": "o1", "customer": "00004", "date": "19970101", "sku": "cd-001",
"quantity": 1, "cents": 1299, "address": "1 High Street"} in one line.
"""

from sqlalchemy import Connection

from examples.checkout.databases import tables
from examples.checkout.inventory import inventory
from examples.checkout.payments import payments
from examples.checkout.sagas import app
from examples.checkout.shipping import shipping


def light_setup(service: str, connection: Connection) -> None:
    """The service's own tables, and what is in them at first."""
    tables()[service](connection)


__all__ = ["app", "inventory", "light_setup", "payments", "shipping"]
