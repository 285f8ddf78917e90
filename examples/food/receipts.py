"""Receipts: a queue of jobs that is a table, and a second look that finds what the queue has forgotten.

    DSN_ORDERS=postgresql://…/orders python -m examples.food.receipts

Run as many as you like. A job is taken by deleting it, in the transaction that makes the receipt: whoever dies in
between has not taken it, and those that others hold are skipped. Jobs get lost all the same: a table is cleaned by
hand, an order is delivered by a release that did not enqueue yet. So every now and then all delivered orders are
compared with the receipts that there are.
"""

import os
import time
from threading import Event

from sqlalchemy import Connection, Engine, create_engine, text

from kompensate.schemas.signals import when_told

POLL_SECONDS = 0.2
RECONCILE_SECONDS = 2.0  # hours, where receipts are real

TAKE = text(
    "DELETE FROM receipt_job WHERE order_id ="
    " (SELECT order_id FROM receipt_job ORDER BY wanted_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING order_id"
)
# The order is the receipt's key: where a second look was too early, the job that it made finds the receipt there.
MAKE = text(
    "INSERT INTO receipt SELECT order_id, cents FROM customer_order WHERE order_id = :id ON CONFLICT DO NOTHING"
)
RECONCILE = text(
    "INSERT INTO receipt_job (order_id) SELECT order_id FROM customer_order o WHERE status = 'DELIVERED'"
    " AND NOT EXISTS (SELECT FROM receipt r WHERE r.order_id = o.order_id) ON CONFLICT DO NOTHING RETURNING order_id"
)


def make_next(connection: Connection) -> str | None:
    """Make one receipt; the order's id, or None where there is no job. The caller commits."""
    order_id: str | None = connection.execute(TAKE).scalar()
    if order_id is not None:
        connection.execute(MAKE, {"id": order_id})
    return order_id


def reconcile(connection: Connection) -> list[str]:
    """Enqueue the delivered orders that have no receipt and no job; return them. The caller commits."""
    return list(connection.execute(RECONCILE).scalars())


def work(engine: Engine, stopping: Event) -> None:
    """Make receipts until told to stop."""
    due = 0.0
    while not stopping.is_set():
        if time.monotonic() >= due:
            due = time.monotonic() + RECONCILE_SECONDS
            with engine.begin() as connection:
                for order_id in reconcile(connection):
                    print(f"{order_id} was delivered and had no receipt", flush=True)
        with engine.begin() as connection:
            made = make_next(connection)
        if made is None:
            stopping.wait(POLL_SECONDS)


if __name__ == "__main__":
    told = Event()
    with when_told(told.set):
        work(create_engine(os.environ["DSN_ORDERS"], pool_pre_ping=True), told)
