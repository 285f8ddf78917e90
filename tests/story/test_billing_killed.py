"""Billing on the real stack: six years of bills, collected while worker and service are killed with -9."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from examples.billing import cards
from examples.billing.app import Subscription, app, subscription
from examples.common.ground import Ground, Parts
from kompensate.compose.local.stack import Stack
from kompensate.orchestrator.client import Start
from tests.fixtures.waiting import wait_until

pytestmark = [pytest.mark.stack, pytest.mark.slow]
CUSTOMERS = [f"customer-{number}" for number in range(4)]
MONTHS = 60
"""Since January 2021: all are due at once, one after the other."""
DEADLINE_SECONDS = 120.0


PARTS = Parts(
    app,
    "examples.billing.app:app",
    {"payments": "examples.billing.cards:payments"},
    {"payments": lambda connection: cards.create(connection, dict.fromkeys(CUSTOMERS, True))},
)


@pytest.fixture
def billing(stack: Stack, tmp_path: Path) -> Iterator[Ground]:
    found = Ground(PARTS, stack, tmp_path, session_ms=3_000, kind="billing")
    try:
        found.open()
        yield found
    finally:
        found.close()
        found.remove()
        for child in found.children.values():
            print(f"--- {child.name}\n{child.tail()}")


def _bills(billing: Ground) -> list[str]:
    with psycopg.connect(billing.dsns["payments"].replace("postgresql+psycopg://", "postgresql://")) as connection:
        return [bill for (bill,) in connection.execute("SELECT bill FROM payment ORDER BY ctid")]


def _wait_for(billing: Ground, count: int) -> None:
    wait_until(f"{count} bills", lambda: len(_bills(billing)) >= count, DEADLINE_SECONDS)


def _least(billing: Ground) -> int:
    """How many bills the customer has who has the fewest."""
    bills = _bills(billing)
    return min(sum(bill.startswith(f"sub-{each}-") for bill in bills) for each in CUSTOMERS)


def test_five_years_through_kills(billing: Ground) -> None:
    """Each bill of each customer once, in order, however often worker, service and relay die."""
    starts = [Start(subscription.name, f"sub-{each}", Subscription(each, "pro", "2021-01-31")) for each in CUSTOMERS]
    with billing.client() as client:
        client.start_many(starts)

    for name in ("worker-1", "payments", "relay", "worker-1"):
        wanted = len(_bills(billing)) + 10
        _wait_for(billing, wanted)
        billing.children[name].kill()
        billing.children[name].start()
    wait_until("five years of bills of each", lambda: _least(billing) >= MONTHS, DEADLINE_SECONDS)

    for each in CUSTOMERS:
        bills = [bill for bill in _bills(billing) if bill.startswith(f"sub-{each}-")]
        assert bills[:MONTHS] == [f"sub-{each}-{number}" for number in range(1, MONTHS + 1)]
        assert len(bills) == len(set(bills))
