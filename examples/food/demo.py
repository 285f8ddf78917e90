"""Orders of every kind, with every process killed in turn, and the receipts' queue emptied by hand; then an audit.

.venv/bin/python -m examples.food.demo
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import psycopg

from examples.common import demo
from examples.common.asking import ask
from examples.common.ground import Ground, Parts, free_port
from examples.food import orders, payments, services
from examples.food.app import app
from examples.food.contracts import OrderPlaced
from examples.gateway.gateway import entries

SECONDS_MAX = 120.0
PLACES = {
    "orders": "examples.food.orders:orders",
    "payments": "examples.food.payments:payments",
    **{name: f"examples.food.services:{name}" for name in services.TABLES},
}


WORDS = ("drop-after", "ok", "500-after", "ok", "busy", "reset", "timeout-after", "ok", "garbage")
"""What the provider does with the requests that come first, see examples/gateway."""
OTHERS = ("provider",)
"""Processes that are not ours to kill."""


def parts() -> Parts:
    """Five services, the relay, a worker, the intake, the front, the process that makes receipts; and the provider."""
    port, ledger = free_port(), Path(tempfile.mkdtemp(prefix="kompensate-food-")) / "ledger.jsonl"
    return Parts(
        app,
        "examples.food.app:app",
        PLACES,
        {
            "orders": orders.create,
            "payments": lambda _: None,  # its books are the provider's
            **{name: partial(services.create, service=name) for name in services.TABLES},
        },
        front="examples.food.web",
        others={
            "receipts": ("examples.food.receipts",),
            "provider": ("examples.gateway.gateway", str(port), str(ledger)),
        },
        environment={"GATEWAY": f"127.0.0.1:{port}", "LEDGER": str(ledger)},
    )


def order(number: int) -> OrderPlaced:
    """Of eight, five are delivered; one is not on the menu, one is not paid, and nobody rides where one should go."""
    kind = number % 8
    return OrderPlaced(
        f"o-{number}",
        "tom" if kind == 5 else ("mei", "raj")[number % 2],
        "whale" if kind == 3 else services.MENU[number % 3],
        "moon" if kind == 7 else ("centre", "harbour")[number % 2],
        1_000 + 100 * number,
    )


def is_delivered(placed: OrderPlaced) -> bool:
    """What must become of it."""
    return placed.dish in services.MENU and placed.area in services.COURIERS and placed.customer in payments.CARDS


def place(ground: Ground, placed: OrderPlaced) -> int:
    """A customer orders, twice, for the first click seemed to do nothing."""
    for _ in range(2):
        status, answer = ask(ground, "/orders", asdict(placed))
        assert status in (200, 201), answer
    return status


def rows(ground: Ground, service: str, query: str) -> list[tuple[Any, ...]]:
    """What that service's database holds."""
    with psycopg.connect(ground.dsns[service], autocommit=True) as connection:
        return connection.execute(query).fetchall()


def settled(ground: Ground, placed: Sequence[OrderPlaced]) -> bool:
    """Whether every order has ended, with all that follows."""
    states = Counter(status for (status,) in rows(ground, "orders", "SELECT status FROM customer_order"))
    delivered = states["DELIVERED"]
    counts = [
        rows(ground, "restaurant", "SELECT count(*) FROM ticket") >= [(len(placed),)],
        rows(ground, "loyalty", "SELECT count(*) FROM point") >= [(delivered,)],
        rows(ground, "orders", "SELECT count(*) FROM receipt") >= [(delivered,)],
    ]
    return states["DELIVERED"] + states["CANCELLED"] == len(placed) and all(counts)


def audit(ground: Ground, placed: Sequence[OrderPlaced]) -> list[str]:
    """What is wrong with the books of the five services, in words; nothing, if all is well."""
    states = dict(rows(ground, "orders", "SELECT order_id, status FROM customer_order"))
    changes = Counter(rows(ground, "orders", "SELECT order_id, status FROM change"))
    receipts = Counter(rows(ground, "orders", "SELECT order_id, cents FROM receipt"))
    commands = dict(rows(ground, "payments", "SELECT ce_causationid, ce_correlationid FROM outbox"))
    charges = Counter((commands.get(key), cents) for key, cents in ledger(ground))
    cooking = Counter(rows(ground, "restaurant", "SELECT order_id, what FROM cooking"))
    tickets = Counter(rows(ground, "restaurant", "SELECT order_id, dish FROM ticket"))
    rides = Counter(rows(ground, "couriers", "SELECT order_id, courier FROM ride"))
    points = Counter(rows(ground, "loyalty", "SELECT order_id, points FROM point"))
    wrong = []
    for one in placed:
        id_, cents = one.order_id, one.cents
        status = "DELIVERED" if is_delivered(one) else "CANCELLED"
        cooked, paid = one.dish in services.MENU, one.dish in services.MENU and one.customer in payments.CARDS
        got: dict[str, object] = {
            "status": (states.get(id_), changes[id_, status], len([c for c in changes if c[0] == id_])),
            "tickets": tickets[id_, one.dish],
            "cooking": (cooking[id_, "accepted"], cooking[id_, "abandoned"]),
            "charges and refunds": (charges[id_, cents], charges[id_, -cents]),
            "rides": sum(count for (whose, _), count in rides.items() if whose == id_),
            "points": points[id_, cents // 100],
            "receipts": receipts[id_, cents],
        }
        done = status == "DELIVERED"
        expected: dict[str, object] = {
            "status": (status, 1, 1),
            "tickets": 1,
            "cooking": (int(cooked), int(cooked and not done)),
            "charges and refunds": (int(paid), int(paid and not done)),
            "rides": int(done),
            "points": int(done),
            "receipts": int(done),
        }
        wrong += [
            f"{id_}: {what}: expected {expected[what]}, got {got[what]}" for what in got if got[what] != expected[what]
        ]
    moved, eaten = sum(cents for _, cents in ledger(ground)), sum(one.cents for one in placed if is_delivered(one))
    if moved != eaten:
        wrong.append(f"ledger: expected {eaten} cents, what was eaten, got {moved}")
    return wrong


def ledger(ground: Ground) -> list[tuple[str | None, int]]:
    """What the provider has charged, and paid back: the key and the cents."""
    return entries(Path(ground.parts.environment["LEDGER"]))


def tell_provider(ground: Ground, words: Sequence[str]) -> None:
    """What becomes of the requests to come, one word each."""
    address = f"http://{ground.parts.environment['GATEWAY']}/script"

    def told() -> bool:
        try:
            with urlopen(Request(address, json.dumps(words).encode())) as answer:
                return bool(answer.status == 200)
        except URLError:  # it is just starting
            return False

    ground.wait_until("the provider to listen", told, SECONDS_MAX)


def through_kills(ground: Ground, each: int) -> list[OrderPlaced]:
    """Place `each` orders, kill -9 a process in the midst of them, start it again; so with every process in turn."""
    placed: list[OrderPlaced] = []
    tell_provider(ground, WORDS)
    for name, child in ground.children.items():
        if name in OTHERS:
            continue
        for _ in range(each):
            placed.append(order(len(placed)))
            place(ground, placed[-1])
        child.kill()
        print(f"{name} was killed after {len(placed)} orders", flush=True)
        child.start()
    return placed


def lose_jobs(ground: Ground, number: int) -> list[OrderPlaced]:
    """Empty the queue of receipts by hand, with the jobs of eight orders in it, while nobody works it off."""
    ground.children["receipts"].kill()
    placed = [order(number + n) for n in range(8)]
    for one in placed:
        place(ground, one)
    wanted = sum(map(is_delivered, placed))
    ground.wait_until(
        f"{wanted} jobs", lambda: rows(ground, "orders", "SELECT count(*) FROM receipt_job") >= [(wanted,)], SECONDS_MAX
    )
    lost = rows(ground, "orders", "DELETE FROM receipt_job RETURNING order_id")
    print(f"{len(lost)} jobs were deleted by hand", flush=True)
    ground.children["receipts"].start()
    return placed


def story(ground: Ground) -> None:
    """Eight orders, and eight more with each process killed in turn; then the books."""
    print(f"http://127.0.0.1:{ground.port}/orders/o-0")
    placed = through_kills(ground, each=4)
    placed += lose_jobs(ground, len(placed))
    ground.wait_until("every order to end", lambda: settled(ground, placed), SECONDS_MAX)
    wrong = audit(ground, placed)
    assert not wrong, "\n".join(wrong)
    delivered = sum(map(is_delivered, placed))
    print(f"{len(placed)} orders, {delivered} delivered: each charged once, with one receipt, and points once")


if __name__ == "__main__":
    sys.exit(demo.main("food", parts, story))
