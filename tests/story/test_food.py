"""Food delivery: an event starts it, others listen, and every order has one charge, one receipt, points once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, create_engine

from examples.food import demo, orders, payments, receipts, services
from examples.food.app import app, delivery
from examples.food.contracts import Charge, Charged, OrderPlaced, Refund
from kompensate.orchestrator.testing import MODES, Answer, SagaHandle, SagaTest, done, refused
from kompensate.outbox.tables import create_tables
from tests.fixtures.fix_ground import OpenGround
from tests.fixtures.handlers import Desk
from tests.fixtures.waiting import wait_until

ORDER = OrderPlaced("o-1", "mei", "laksa", "harbour", 1_250)
HANDLERS: dict[str, tuple[Callable[..., object], ...]] = {
    "orders": (orders.deliver, orders.cancel),
    "restaurant": (services.accept, services.abandon),
    "couriers": (services.assign,),
}


@dataclass(frozen=True, slots=True)
class Town:
    """The saga, three services with their own handlers, and payments, whose provider is a list."""

    test: SagaTest
    desks: dict[str, Desk]
    charges: list[int] = field(default_factory=list)

    def order(self, placed: OrderPlaced) -> SagaHandle:
        """To its end."""
        found = self.test.start(delivery, placed, saga_id=placed.order_id)
        self.test.run()
        return found

    def rows(self, service: str, query: str) -> list[tuple[Any, ...]]:
        return self.desks[service].rows(query)

    def charge(self, command: Charge) -> Answer:
        if command.customer not in payments.CARDS:
            return refused("no card")
        self.charges.append(command.cents)
        return done(Charged("ch"))

    def refund(self, command: Refund) -> Answer:
        self.charges.append(-command.cents)
        return done(Charged("ch"))

    def told(self) -> list[str]:
        return [type_ for (type_,) in self.rows("orders", "SELECT type FROM outbox ORDER BY rowid")]


def _orders(connection: Connection) -> None:
    create_tables(connection)
    orders.create(connection)
    for placed in (ORDER, demo.order(3), demo.order(5), demo.order(7)):
        assert orders.place(connection, placed)
    assert not orders.place(connection, ORDER), "placed twice, it is told once"


@pytest.fixture(params=MODES)
def town(request: pytest.FixtureRequest) -> Iterator[Town]:
    """The same town in each mode: the worker killed at every commit, messages doubled, programs replayed."""
    desks = {name: Desk(partial(services.create, service=name)) for name in ("restaurant", "couriers")}
    desks |= {"orders": Desk(_orders)}
    found = Town(SagaTest(app, mode=request.param), desks)
    found.test.on(Charge, found.charge)
    found.test.on(Refund, found.refund)
    for name, handlers in HANDLERS.items():
        for handler in handlers:
            desks[name].take(found.test, handler)
    yield found
    for desk in desks.values():
        desk.close()


def test_it_is_cooked_paid_and_brought(town: Town) -> None:
    """One charge, one ride, one job for a receipt, and the event that loyalty waits for."""
    town.order(ORDER).assert_completed("bob")

    assert town.told() == ["orders.OrderPlaced"] * 4 + ["orders.OrderDelivered"]
    assert town.charges == [1_250]
    assert town.rows("orders", "SELECT order_id FROM receipt_job") == [("o-1",)]


@pytest.mark.parametrize(
    ("number", "reason", "charges"),
    [(3, "not on the menu", []), (5, "no card", []), (7, "nobody rides there", [1_700, -1_700])],
)
def test_it_is_undone(town: Town, number: int, reason: str, charges: list[int]) -> None:
    """What was charged is paid back, what was cooking is abandoned, and the order is cancelled once."""
    placed = demo.order(number)
    town.order(placed).assert_compensated(reason)

    assert town.told()[4:] == ["orders.OrderCancelled"]
    assert town.charges == charges
    assert town.rows("orders", "SELECT * FROM change") == [(placed.order_id, "CANCELLED")]
    assert town.rows("orders", "SELECT * FROM receipt_job") == []


# --- receipts


@pytest.fixture
def engine(postgres: str) -> Iterator[Engine]:
    """The orders' database, with three orders delivered."""
    made = create_engine(postgres.replace("postgresql://", "postgresql+psycopg://"))
    with made.begin() as connection:
        orders.create(connection)
    with psycopg.connect(postgres) as connection:
        for number in range(3):
            values = (f"o-{number}", "mei", "laksa", "centre", 1_000 + number, "DELIVERED")
            connection.execute("INSERT INTO customer_order VALUES (%s, %s, %s, %s, %s, %s)", values)
            connection.execute("INSERT INTO receipt_job VALUES (%s)", (f"o-{number}",))
    yield made
    made.dispose()


def _receipts(engine: Engine) -> list[tuple[str, int]]:
    with engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT order_id, cents FROM receipt ORDER BY order_id")
        return [(row[0], row[1]) for row in found]


def test_two_take_different_jobs(engine: Engine) -> None:
    """A job that another holds is skipped, not waited for; one whose taker died is there again."""
    with engine.connect() as first, engine.begin() as second:
        assert receipts.make_next(first) == "o-0"
        assert receipts.make_next(second) == "o-1"
        first.rollback()
    with engine.begin() as third:
        assert [receipts.make_next(third) for _ in range(3)] == ["o-0", "o-2", None]

    assert _receipts(engine) == [("o-0", 1_000), ("o-1", 1_001), ("o-2", 1_002)]


def test_a_lost_job_is_found(engine: Engine) -> None:
    """Without the second look an order stays without its receipt; with it, none gets two."""
    with engine.begin() as connection:
        receipts.make_next(connection)
        connection.exec_driver_sql("DELETE FROM receipt_job WHERE order_id = 'o-1'")
        while receipts.make_next(connection):
            pass
    assert [order_id for order_id, _ in _receipts(engine)] == ["o-0", "o-2"]

    with engine.begin() as connection:
        assert receipts.reconcile(connection) == ["o-1"]
        assert receipts.reconcile(connection) == []
        connection.exec_driver_sql("INSERT INTO receipt_job VALUES ('o-0')")  # another's second look, long ago
        while receipts.make_next(connection):
            pass
    assert _receipts(engine) == [("o-0", 1_000), ("o-1", 1_001), ("o-2", 1_002)]


# --- the whole of it


@pytest.mark.slow
def test_through_a_kill_of_every_process(open_ground: OpenGround) -> None:
    """kill -9 of each process amid orders, jobs deleted by hand: the books of all services are right, to the cent."""
    ground = open_ground(demo.parts())
    placed = demo.through_kills(ground, each=2)
    placed += demo.lose_jobs(ground, len(placed))
    wait_until("every order to end", lambda: demo.settled(ground, placed), demo.SECONDS_MAX)

    assert demo.audit(ground, placed) == []
    ground.children["receipts"].stop()  # it would mend what follows
    spoilt = demo.order(0).order_id
    demo.rows(ground, "orders", f"DELETE FROM receipt WHERE order_id = '{spoilt}' RETURNING 1")
    demo.rows(ground, "loyalty", f"INSERT INTO point SELECT * FROM point WHERE order_id = '{spoilt}' RETURNING 1")
    assert demo.audit(ground, placed) == [
        f"{spoilt}: points: expected 1, got 2",
        f"{spoilt}: receipts: expected 1, got 0",
    ], "an audit that sees nothing proves nothing"


@pytest.mark.slow
def test_unguarded_it_charges_twice(open_ground: OpenGround) -> None:
    """The same provider, asked from within the transaction and without a key: the audit sees it."""
    parts = demo.parts()
    places = {**parts.participants, "payments": "tests.fixtures.unguarded_payments:payments"}
    ground = open_ground(replace(parts, participants=places))
    demo.tell_provider(ground, ["drop-after", "ok"])
    placed = [demo.order(0)]
    demo.place(ground, placed[0])
    wait_until("the order to end", lambda: demo.settled(ground, placed), demo.SECONDS_MAX)

    assert len(demo.ledger(ground)) == 2
    assert "ledger: expected 1000 cents, what was eaten, got 2000" in demo.audit(ground, placed)
