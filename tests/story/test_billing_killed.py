"""Billing on the real stack: six years of bills, collected while worker and service are killed with -9."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from examples.checkout.children import Child, run
from sqlalchemy import create_engine

from examples.billing import cards
from examples.billing.app import Subscription, app, subscription
from kompensate.compose.local.stack import Stack
from kompensate.orchestrator.client import Client, Start
from kompensate.outbox.tables import create_tables
from tests.fixtures.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.slow]
CUSTOMERS = [f"customer-{number}" for number in range(4)]
MONTHS = 60
"""Since January 2021: all are due at once, one after the other."""
DEADLINE_SECONDS = 120.0


class Billing:
    """The service on a database of its own, the relay and a worker, each a process."""

    def __init__(self, stack: Stack, prefix: str, logs: Path) -> None:
        self._stack, self._name = stack, f"billing{uuid4().hex[:6]}"
        self.dsn = stack.postgres_dsn(self._name)
        environment = {
            "KOMPENSATE_BOOTSTRAP": stack.bootstrap,
            "KOMPENSATE_PREFIX": prefix,
            "KOMPENSATE_APP": "examples.billing.app:app",
        }
        fast = ("-X", "session.timeout.ms=6000", "-X", "heartbeat.interval.ms=2000", "-X", "group.instance.id=p-1")
        commands = {
            "service": ["participant", "examples.billing.cards:payments", "--dsn", self.dsn, *fast],
            "relay": ["relay", "--dsn", f"payments={self.dsn}"],
            "worker": ["worker", "--slot", "one", "--session-timeout", "3", "--slot-directory", str(logs)],
        }
        with psycopg.connect(stack.postgres_dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {self._name}")
        engine = create_engine(self.dsn)
        with engine.begin() as made:
            create_tables(made)
            cards.create(made, dict.fromkeys(CUSTOMERS, True))
        engine.dispose()
        run(["topics", "apply"], environment)
        self.children = {name: Child(name, what, logs, environment) for name, what in commands.items()}
        for child in self.children.values():
            child.start()

    def bills(self) -> list[str]:
        with psycopg.connect(self._libpq()) as connection:
            return [bill for (bill,) in connection.execute("SELECT bill FROM payment ORDER BY ctid")]

    def wait_for(self, count: int) -> None:
        wait_until(f"{count} bills", lambda: len(self.bills()) >= count, DEADLINE_SECONDS)

    def _libpq(self) -> str:
        return self.dsn.replace("postgresql+psycopg://", "postgresql://")

    def close(self) -> None:
        for child in self.children.values():
            child.kill()
        with psycopg.connect(self._stack.postgres_dsn(), autocommit=True) as connection:
            slots = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s"
            wait_until("the slot is free", lambda: not self._active(connection), DEADLINE_SECONDS)
            connection.execute(slots, [self._name])
            connection.execute(f"DROP DATABASE {self._name} WITH (FORCE)")

    def _active(self, connection: "psycopg.Connection[tuple[object, ...]]") -> bool:
        query = "SELECT 1 FROM pg_replication_slots WHERE database = %s AND active"
        return connection.execute(query, [self._name]).fetchone() is not None


@pytest.fixture
def billing(stack: Stack, topic_prefix: str, tmp_path: Path) -> Iterator[Billing]:
    found = Billing(stack, topic_prefix, tmp_path)
    yield found
    found.close()
    for child in found.children.values():
        print(f"--- {child.name}\n{child.tail()}")


def test_five_years_through_kills(billing: Billing, stack: Stack, topic_prefix: str) -> None:
    """Each bill of each customer once, in order, however often worker, service and relay die."""
    starts = [Start(subscription.name, f"sub-{each}", Subscription(each, "pro", "2021-01-31")) for each in CUSTOMERS]
    with Client(stack.bootstrap, app.name, prefix=topic_prefix) as client:
        client.start_many(starts)

    for name in ("worker", "service", "relay", "worker"):
        wanted = len(billing.bills()) + 10
        billing.wait_for(wanted)
        billing.children[name].kill()
        billing.children[name].start()
    billing.wait_for(MONTHS * len(CUSTOMERS))

    for each in CUSTOMERS:
        bills = [bill for bill in billing.bills() if bill.startswith(f"sub-{each}-")]
        assert bills[:MONTHS] == [f"sub-{each}-{number}" for number in range(1, MONTHS + 1)]
        assert len(bills) == len(set(bills))
