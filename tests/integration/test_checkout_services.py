"""The checkout's services on PostgreSQL, and the checker that the demo believes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice

import psycopg
import pytest
from sqlalchemy import Engine

from examples.checkout import inventory, orders, payments, shipping
from examples.checkout.checker import Verdict, check
from examples.checkout.contracts import Charge, Confirm, Order, Refund, Release, Reserve, Ship
from examples.checkout.databases import Databases, create
from examples.checkout.reading import Seen
from kompensate.participants.database import connect
from kompensate.participants.orders import Order as UnitOrder
from kompensate.participants.orders import Settled
from kompensate.participants.unit import Unit
from kompensate.schemas.messages import Command
from kompensate.schemas.payloads import encode

ORDERS_MAX = 80
SERVICES = {"inventory": inventory.inventory, "payments": payments.payments, "shipping": shipping.shipping}


class Hand:
    """Carries orders out by hand, as the saga would: forward, and back where a service refuses."""

    def __init__(self, databases: Databases) -> None:
        self._engines: dict[str, Engine] = {}
        self._units: dict[str, Unit] = {}
        for service, dsn in databases.all().items():
            self._engines[service] = connect(dsn, service)
            self._units[service] = Unit(SERVICES[service], self._engines[service])

    def carry_out(self, order: Order) -> Seen:
        o = order
        steps: list[tuple[str, object, object | None]] = [
            ("inventory", Reserve(o.order_id, o.sku, o.quantity), Release(o.order_id, o.sku, o.quantity)),
            ("payments", Charge(o.order_id, o.customer, o.cents), Refund(o.order_id, o.customer, o.cents)),
            ("shipping", Ship(o.order_id, o.customer, o.quantity, o.address), None),
            ("inventory", Confirm(o.order_id, o.sku, o.quantity), None),
        ]
        done: list[tuple[str, object, str]] = []
        for service, message, undo in steps:
            command_id = f"{order.order_id}-{type(message).__name__}"
            if self.send(service, message, order, command_id) == "refused":
                for where, undoing, forward in reversed(done):
                    self.send(where, undoing, order, f"{forward}-undo", compensates=forward)
                return Seen("compensated", "-", 0)
            if undo is not None:
                done.append((service, undo, command_id))
        return Seen("completed", "-", 0)

    def send(
        self, service: str, message: object, order: Order, command_id: str, *, compensates: str | None = None
    ) -> str:
        command = Command(
            id=command_id,
            type=f"{service}.{type(message).__name__}",
            source="kompensate:shop",
            saga_id=order.order_id,
            saga_type="checkout",
            step="by-hand",
            phase="forward" if compensates is None else "compensate",
            attempt=1,
            reply_to=f"shop.replies.{service}",
            reply_partition=0,
            payload=encode(message),
            compensates=compensates,
        )
        (result,) = self._units[service].handle([UnitOrder(command, order.order_id)], lambda dead: None)
        assert isinstance(result, Settled)
        return result.outcome

    def close(self) -> None:
        for engine in self._engines.values():
            engine.dispose()


class Shop:
    """Three databases, some orders carried out, and what a state topic would say of them."""

    def __init__(self, databases: Databases) -> None:
        self.databases = databases
        self.orders = list(islice(orders.read(), ORDERS_MAX))
        self.sagas: dict[str, Seen] = {}
        self.hand = Hand(databases)

    def check(self) -> Verdict:
        return check(self.orders, self.sagas, self.databases)


@pytest.fixture
def shop(fresh_database: Callable[[], str]) -> Iterator[Shop]:
    databases = Databases(fresh_database(), fresh_database(), fresh_database())
    create(databases)
    made = Shop(databases)
    for order in made.orders:
        made.sagas[order.order_id] = made.hand.carry_out(order)
    yield made
    made.hand.close()


@pytest.mark.slow
def test_services_do_what_the_orders_say(shop: Shop) -> None:
    """Every fate occurs, and stock, money and parcels are as worked out from the orders alone."""
    fates = {orders.expected(order) for order in shop.orders}

    verdict = shop.check()

    assert fates == set(orders.Fate)
    assert verdict.good, verdict.complaints()
    assert verdict.ends.total() == ORDERS_MAX


@pytest.mark.slow
def test_a_command_that_comes_again_takes_no_second_effect(shop: Shop) -> None:
    """The inbox answers for every command that was handled: the databases stay as they are."""
    for order in shop.orders[:20]:
        shop.hand.carry_out(order)

    assert shop.check().good


# Tampering with (service, statement), and the list of the verdict in which it must show.
TAMPERINGS = [
    (
        "payments",
        (
            "INSERT INTO ledger (command_id, order_id, kind, customer, cents)"
            " SELECT command_id, order_id, kind, customer, cents FROM ledger LIMIT 1"
        ),
        "doubled",
    ),
    (
        "inventory",
        (
            "INSERT INTO movement (command_id, order_id, kind, sku, quantity)"
            " SELECT 'another', order_id, kind, sku, quantity FROM movement LIMIT 1"
        ),
        "doubled",
    ),
    ("shipping", "DELETE FROM parcel WHERE number = (SELECT min(number) FROM parcel)", "wrong"),
    ("shipping", "UPDATE parcel SET address = 'elsewhere' WHERE number = (SELECT min(number) FROM parcel)", "wrong"),
    ("payments", "UPDATE card SET owed = owed + 1 WHERE customer = '00004'", "wrong"),
    ("inventory", "UPDATE stock SET available = available - 1, reserved = 1 WHERE sku = 'cd-001'", "wrong"),
    ("payments", "DELETE FROM inbox WHERE command_id IN (SELECT command_id FROM ledger LIMIT 1)", "wrong"),
    (
        "payments",
        "UPDATE inbox SET state = 'claimed' WHERE command_id IN (SELECT command_id FROM ledger LIMIT 1)",
        "unfinished",
    ),
]


@contextmanager
def tampered(dsn: str, statement: str) -> Iterator[None]:
    """Execute `statement`, and put every row back at the end."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        names = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname IN ('stock', 'movement', 'card',"
        names += " 'ledger', 'parcel', 'inbox')"
        tables = [name for (name,) in connection.execute(names).fetchall()]
        for table in tables:
            connection.execute(f"CREATE TABLE kept_{table} AS TABLE {table}")
        connection.execute(statement)
        yield
        for table in tables:
            connection.execute(f"TRUNCATE {table}")
            connection.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}")
            connection.execute(f"DROP TABLE kept_{table}")


@pytest.mark.slow
def test_the_checker_finds_what_it_is_for(shop: Shop) -> None:
    """Each tampering with a good shop's data shows, in the right list."""
    for service, statement, where in TAMPERINGS:
        with tampered(shop.databases.all()[service], statement):
            assert getattr(shop.check(), where), statement
    assert shop.check().good


@pytest.mark.slow
def test_the_checker_finds_sagas_that_are_not_there(shop: Shop) -> None:
    """A saga unknown to the topic is lost, one without an end unfinished, one ended otherwise or unasked wrong."""
    first, second, third, *_ = [order.order_id for order in shop.orders]
    del shop.sagas[first]
    shop.sagas[second] = Seen("running", "quarantined", 0)
    shop.sagas[third] = Seen("cancelled", "-", 0)
    shop.sagas["stranger"] = Seen("completed", "-", 0)

    verdict = shop.check()

    assert len(verdict.lost) == 1
    assert first in verdict.lost[0]
    assert len(verdict.unfinished) == 1
    assert second in verdict.unfinished[0]
    assert len(verdict.wrong) == 2


def test_orders_are_read_with_cents_and_names_of_bad_lines() -> None:
    """The first purchase of the file, and the sum of all of them, in cents."""
    found = list(orders.read())

    assert len(found) == 6919
    assert found[0].cents == 2933
    assert sum(order.cents for order in found) == 24_409_194
