"""Billing through years, in memory: each month once, killed at every commit, replayed, with every message doubled."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, StaticPool, create_engine, text

from examples.billing import cards
from examples.billing.app import Change, Charge, CloseMonth, Remind, Subscription, app, subscription
from kompensate.orchestrator.testing import MODES, SagaHandle, SagaTest, refused
from kompensate.participants import Refused

DAY, YEAR = 24 * 3600, 365 * 24 * 3600
BEGIN = datetime(2026, 1, 15, tzinfo=UTC)


@dataclass
class Billing:
    """The application, and the service's own handlers on a database."""

    test: SagaTest
    engine: Engine

    def handle(self, command: type, handler: Any) -> None:
        def answer(message: Any) -> Any:
            try:
                with self.engine.begin() as connection:
                    return handler(message, connection)
            except Refused as no:
                return refused(no.reason)

        answer.__annotations__["message"] = command
        self.test.on(command, answer)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def subscribe(self, customer: str, plan: str = "basic", since: str = "2026-01-31") -> SagaHandle:
        return self.test.start(subscription, Subscription(customer, plan, since), saga_id=f"sub-{customer}")

    def card(self, customer: str, *, works: bool) -> None:
        with self.engine.begin() as connection:
            connection.execute(text("UPDATE card SET works = :w WHERE customer = :c"), {"w": works, "c": customer})


@pytest.fixture(params=MODES)
def billing(request: pytest.FixtureRequest) -> Iterator[Billing]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    found = Billing(SagaTest(app, mode=request.param, now=BEGIN), engine)
    with engine.begin() as connection:
        cards.create(connection, {"ann": True, "bob": False})
    for command, handler in ((Charge, cards.charge), (Remind, cards.remind), (CloseMonth, cards.close)):
        found.handle(command, handler)
    yield found
    engine.dispose()


def test_three_years(billing: Billing) -> None:
    """Thirty-six bills, each once, on the month's last day where it has no 31st; a run is a month."""
    ann = billing.subscribe("ann")

    billing.test.advance(3 * YEAR)

    payments = billing.rows("SELECT bill, day, cents FROM payment")
    assert [bill for bill, _, _ in payments] == [f"sub-ann-{number}" for number in range(1, 37)]
    assert [day for _, day, _ in payments][:4] == ["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"]
    assert "2028-02-29" in [day for _, day, _ in payments]
    assert ann.status == "running"
    assert len(ann.events) < 10


def test_another_plan(billing: Billing) -> None:
    """From the next bill on; the last word counts; and the end of it."""
    ann = billing.subscribe("ann")
    billing.test.advance(30 * DAY)
    ann.signal("change", Change("pro"))
    billing.test.advance(31 * DAY)
    ann.signal("change", Change(None))
    billing.test.run()

    assert billing.rows("SELECT cents FROM payment") == [(990,), (2_490,)]
    ann.assert_completed("ended by the customer")


def test_a_card_that_is_refused(billing: Billing) -> None:
    """Reminded, and charged at once when there is a new card; the month is paid once, and the next is on its day."""
    bob = billing.subscribe("bob")
    billing.test.advance(20 * DAY)
    assert billing.rows("SELECT attempt FROM reminder") == [(1,), (2,)]

    billing.card("bob", works=True)
    bob.signal("new-card")
    billing.test.advance(30 * DAY)

    assert billing.rows("SELECT bill, day FROM payment") == [("sub-bob-1", "2026-02-04"), ("sub-bob-2", "2026-02-28")]


def test_a_customer_who_never_pays(billing: Billing) -> None:
    """Three reminders in fifteen days, then the subscription ends."""
    bob = billing.subscribe("bob")

    billing.test.run()

    bob.assert_completed("ended: not paid")
    assert billing.rows("SELECT attempt FROM reminder") == [(1,), (2,), (3,)]
    assert billing.rows("SELECT * FROM payment") == []


def test_a_change_while_a_bill_is_collected(billing: Billing) -> None:
    """It waits for the next month, over the new run."""
    bob = billing.subscribe("bob")
    billing.test.advance(17 * DAY)
    bob.signal("change", Change("pro"))
    billing.card("bob", works=True)
    billing.test.advance(YEAR / 12 * 2)

    assert billing.rows("SELECT cents FROM payment") == [(990,), (2_490,), (2_490,)]


def test_the_books_are_closed_each_month(billing: Billing) -> None:
    """By a schedule, once a month and in order, with the month's takings."""
    billing.subscribe("ann")
    billing.test.schedule("closing")

    billing.test.advance(YEAR)

    closed = billing.rows("SELECT month, cents FROM closed")
    assert closed == [(f"2026-{month:02}", 990) for month in range(1, 13)]
    firings = [saga_id for saga_id in billing.test.saga_ids if saga_id.startswith("closing:")]
    assert firings[0] == "closing:2026-02-01T06:00:00Z"
    assert len(firings) == 12
