"""Proves from the outside that every order was carried out exactly as it should have been.

Nothing here asks the engine: what happened is read from the services' own databases and from the topics, what
should have happened is worked out from the orders. The services' tables have no constraint that would stop
an effect from being booked twice, so that a command that took effect twice shows as a row too many.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from examples.checkout.contracts import Order
from examples.checkout.databases import Databases
from examples.checkout.orders import DISCS_IN_PRINT, TITLES, Fate, expected, sold_out
from examples.checkout.reading import Seen

SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class Effect:
    """One row that a command left in a service's database. `what` is everything the row says."""

    service: str
    command_id: str
    order_id: str
    kind: str
    what: tuple[Any, ...]


@dataclass(slots=True)
class Verdict:
    """What the checker found. All is well when `lost`, `doubled`, `unfinished` and `wrong` are empty."""

    orders: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.unfinished or self.doubled or self.wrong)

    def complaints(self) -> list[str]:
        """What is not well, a line each, the first of each kind."""
        lines = []
        for name in ("lost", "unfinished", "doubled", "wrong"):
            found: list[str] = getattr(self, name)
            lines += [f"{name}: {line}" for line in found[:SHOWN_MAX]]
            if len(found) > SHOWN_MAX:
                lines.append(f"{name}: and {len(found) - SHOWN_MAX} more")
        return lines


def check(orders: Sequence[Order], sagas: Mapping[str, Seen], databases: Databases) -> Verdict:
    """Compare what was started, what the topics say and what the databases hold."""
    verdict = Verdict(orders=len(orders))
    _check_ends(verdict, orders, sagas)
    effects = list(_effects(databases))
    _check_effects(verdict, orders, effects)
    _check_stock(verdict, orders, databases)
    _check_money(verdict, orders, databases)
    _check_inboxes(verdict, effects, databases)
    return verdict


def _check_ends(verdict: Verdict, orders: Sequence[Order], sagas: Mapping[str, Seen]) -> None:
    """Every acknowledged order has a saga, every saga has ended, and as its order says."""
    for order in orders:
        saga = sagas.get(order.order_id)
        should = "completed" if expected(order) is Fate.COMPLETED else "compensated"
        if saga is None:
            verdict.lost.append(f"{order.order_id} was acknowledged, and the state topic does not know it")
        elif not saga.ended:
            verdict.unfinished.append(f"{order.order_id} is {saga.status}, hold {saga.hold}")
        else:
            verdict.ends[saga.status] += 1
            if saga.status != should:
                verdict.wrong.append(f"{order.order_id} ({expected(order)}): expected {should}, got {saga.status}")
    strangers = sagas.keys() - {order.order_id for order in orders}
    verdict.wrong += [f"saga {saga_id}: nobody asked for it" for saga_id in sorted(strangers)]


def _check_effects(verdict: Verdict, orders: Sequence[Order], effects: Sequence[Effect]) -> None:
    """Each order left exactly the rows it should have, no command two, and no two of a kind."""
    for command_id, count in Counter(effect.command_id for effect in effects).items():
        if count > 1:
            verdict.doubled.append(f"command {command_id} took effect {count} times")
    got = Counter((effect.service, effect.order_id, effect.kind, effect.what) for effect in effects)
    kinds = Counter((effect.service, effect.order_id, effect.kind) for effect in effects)
    for (service, order_id, kind), count in kinds.items():
        if count > 1:
            verdict.doubled.append(f"{order_id}: {service} has {count} rows of {kind}")
    want = Counter(row for order in orders for row in _rows(order))
    verdict.wrong += [f"expected the row {row}, got none" for row in want - got]
    verdict.wrong += [f"expected no row {row}, got one" for row in got - want if kinds[row[:3]] == 1]


def _rows(order: Order) -> Iterator[tuple[str, str, str, tuple[Any, ...]]]:
    """The rows that an order must leave behind, in all three databases."""
    stock, card = (order.sku, order.quantity), order.customer
    kinds = {
        Fate.COMPLETED: ("reserve", "charge", "ship", "sell"),
        Fate.OUT_OF_STOCK: (),
        Fate.CARD_DECLINED: ("reserve", "release"),
        Fate.ADDRESS_REFUSED: ("reserve", "charge", "refund", "release"),
    }[expected(order)]
    rows = {
        "reserve": ("inventory", stock),
        "release": ("inventory", stock),
        "sell": ("inventory", stock),
        "charge": ("payments", (card, order.cents)),
        "refund": ("payments", (card, -order.cents)),
        "ship": ("shipping", (card, order.quantity, order.address)),
    }
    for kind in kinds:
        service, what = rows[kind]
        yield service, order.order_id, kind, what


def _effects(databases: Databases) -> Iterator[Effect]:
    for dsn, service, query in (
        (databases.inventory, "inventory", "SELECT command_id, order_id, kind, sku, quantity FROM movement"),
        (databases.payments, "payments", "SELECT command_id, order_id, kind, customer, cents FROM ledger"),
        (
            databases.shipping,
            "shipping",
            "SELECT command_id, order_id, 'ship', customer, quantity, address FROM parcel",
        ),
    ):
        for command_id, order_id, kind, *what in _query(dsn, query):
            yield Effect(service, command_id, order_id, kind, tuple(what))


def _check_stock(verdict: Verdict, orders: Sequence[Order], databases: Databases) -> None:
    """Discs add up: nothing is left reserved, and what is gone was sold."""
    sold = Counter[str]()
    for order in orders:
        if expected(order) is Fate.COMPLETED:
            sold[order.sku] += order.quantity
    rows = _query(databases.inventory, "SELECT sku, available, reserved, sold FROM stock")
    got = {sku: tuple(numbers) for sku, *numbers in rows}
    for sku in TITLES:
        start = 0 if sold_out(sku) else DISCS_IN_PRINT
        want = (start - sold[sku], 0, sold[sku])
        if got.get(sku) != want:
            verdict.wrong.append(f"{sku}: expected available, reserved, sold {want}, got {got.get(sku)}")


def _check_money(verdict: Verdict, orders: Sequence[Order], databases: Databases) -> None:
    """Money adds up: each customer owes the price of what was sold to him, and the ledger says the same."""
    owed = Counter[str]()
    for order in orders:
        if expected(order) is Fate.COMPLETED:
            owed[order.customer] += order.cents
    query = """
        SELECT customer, owed, coalesce(sum(cents), 0)::bigint
        FROM card LEFT JOIN ledger USING (customer) GROUP BY customer, owed
    """
    for customer, balance, booked in _query(databases.payments, query):
        if not balance == booked == owed[customer]:
            verdict.wrong.append(
                f"customer {customer}: expected to owe {owed[customer]} cents, got {balance} on the card and "
                f"{booked} in the ledger"
            )


def _check_inboxes(verdict: Verdict, effects: Sequence[Effect], databases: Databases) -> None:
    """Every effect belongs to a command that the inbox answered with done, and no command is left half handled."""
    for service, dsn in databases.all().items():
        rows = _query(dsn, "SELECT command_id, state, outcome FROM inbox WHERE consumer = %s", service)
        inbox = {command_id: (state, outcome) for command_id, state, outcome in rows}
        verdict.unfinished += [
            f"{service}: command {command_id} is {state} in the inbox"
            for command_id, (state, _) in inbox.items()
            if state not in ("answered", "cancelled")
        ]
        for effect in effects:
            if effect.service == service and inbox.get(effect.command_id) != ("answered", "done"):
                verdict.wrong.append(
                    f"{service}: {effect.kind} of {effect.order_id} has an effect, and the inbox says "
                    f"{inbox.get(effect.command_id)} of command {effect.command_id}"
                )


def _query(dsn: str, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query, parameters or None).fetchall()
