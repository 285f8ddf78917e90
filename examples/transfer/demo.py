"""Transfers between two banks, with the worker killed between withdrawal and deposit.

.venv/bin/python -m examples.transfer.demo
"""

import sys

import psycopg

from examples.common import demo
from examples.common.ground import Ground, Parts
from examples.transfer import banks
from examples.transfer.app import Order, app

RESULT_SECONDS = 60.0


def parts() -> Parts:
    """Both banks: ann has 100.00 at north, bob and carl have accounts at south, carl's is closed."""
    return Parts(
        app,
        "examples.transfer.app:app",
        {name: f"examples.transfer.banks:{name}" for name in ("north", "south")},
        {
            "north": lambda connection: banks.create(connection, {"ann": 10_000}),
            "south": lambda connection: banks.create(connection, {"bob": 0, "carl": 0}, closed=("carl",)),
        },
    )


def books(ground: Ground) -> dict[str, int]:
    """What is on each account, in cents, as the databases have it."""
    found: dict[str, int] = {}
    for dsn in ground.dsns.values():
        with psycopg.connect(dsn) as connection:
            found |= dict(connection.execute("SELECT name, cents FROM account").fetchall())
    return found


def entries(ground: Ground) -> list[tuple[str, str, int]]:
    """Every movement, north's first: transaction, account and cents."""
    found: list[tuple[str, str, int]] = []
    for dsn in ground.dsns.values():
        with psycopg.connect(dsn) as connection:
            found += connection.execute("SELECT * FROM entry").fetchall()
    return found


def kill_in_between(ground: Ground, order: Order, saga_id: str) -> None:
    """Start a transfer, and kill the worker once the money has left north and south knows nothing yet.

    The relay is down meanwhile, so that north's answer waits in its outbox.
    """
    ground.children["relay"].stop()
    known = len(entries(ground))
    with ground.client() as client:
        client.start("transfer", order, saga_id=saga_id)
    ground.wait_until("a withdrawal", lambda: len(entries(ground)) > known, RESULT_SECONDS)
    ground.children["worker-1"].kill()


def story(ground: Ground) -> None:
    """Three transfers: one that arrives, one to a closed account, one through a kill."""
    with ground.client() as client:
        for saga_id, order in (("t-1", Order("ann", "bob", 2_500)), ("t-2", Order("ann", "carl", 1_000))):
            client.start("transfer", order, saga_id=saga_id)
            print(f"{saga_id} {order}: {client.result(saga_id, RESULT_SECONDS).status}, {books(ground)}")
        print("t-3: the worker is killed between withdrawal and deposit")
        kill_in_between(ground, Order("ann", "bob", 500), "t-3")
        print(f"t-3: {books(ground)}")
        ground.children["relay"].start()
        ground.children["worker-1"].start()
        print(f"t-3: {client.result('t-3', RESULT_SECONDS).status}, {books(ground)}")
    total = sum(books(ground).values())
    assert total == 10_000, f"expected 10000 cents on all accounts together, got {total}"
    print("nothing was lost: 10000 cents before and after")


if __name__ == "__main__":
    sys.exit(demo.main("transfer", parts, story))
