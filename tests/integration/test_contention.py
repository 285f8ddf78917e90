"""Many at once on two rows: a participant's groups, and transactions of the service's own beside them."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import text
from sqlalchemy.orm import Session

from kompensate.outbox.tables import create_tables
from kompensate.participants import Participant
from kompensate.participants.database import connect
from kompensate.participants.orders import Order
from kompensate.participants.unit import Undone, Unit
from kompensate.schemas.payloads import encode
from tests.fixtures.participants import forward

CLIENTS, GROUPS, EACH, OWN = 16, 1, 3, 1
TRIES = 500


@dataclass
class Move:
    """Moves one from an account to another, locking them in this order."""

    source: str
    target: str


bank = Participant("bank")


@bank.handles
def move(command: Move, session: Session) -> None:
    for account, change in ((command.source, -1), (command.target, 1)):
        session.execute(
            text("UPDATE account SET money = money + :change WHERE id = :id"), {"change": change, "id": account}
        )
        session.execute(text("SELECT pg_sleep(0.002)"))


def way(number: int) -> tuple[str, str]:
    return ("a", "b") if number % 2 else ("b", "a")


@pytest.mark.slow
def test_thirty_two_clients_on_two_accounts(postgres: str) -> None:
    """Deadlocks and serialization failures are met, whole groups done again under their ids, and no sum is wrong."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE TABLE account (id text PRIMARY KEY, money int)")
        connection.execute("INSERT INTO account VALUES ('a', 0), ('b', 0)")
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET deadlock_timeout = '20ms'".encode())
    engine = connect(postgres, "bank")
    with engine.begin() as made:
        create_tables(made)
    met: Counter[str] = Counter()

    def consume(number: int) -> None:
        own = connect(postgres, f"bank-{number}")
        unit = Unit(bank, own)
        for n in range(GROUPS):
            ids = [f"{number}-{n}-{k}" for k in range(EACH)]
            moves = [
                Order(replace(forward(each), type="bank.Move", payload=encode(Move(*way(number)))), lane=each)
                for each in ids
            ]
            _insist(partial(_settle, unit, moves, met))
        own.dispose()

    def transfer(number: int) -> None:
        with psycopg.connect(postgres) as connection:
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            for _ in range(OWN):
                _insist(partial(_transfer, connection, way(number), met))

    with ThreadPoolExecutor(2 * CLIENTS) as pool:
        done = [pool.submit(work, n) for n in range(CLIENTS) for work in (consume, transfer)]
        for each in done:
            each.result()

    print(dict(met))
    assert met["deadlock"] > 0
    assert met["serialization failure"] > 0
    assert met["group again"] > 0
    assert met["undone by something else"] == 0
    with psycopg.connect(postgres) as connection:
        # As many go one way as the other.
        assert connection.execute("SELECT id, money FROM account ORDER BY id").fetchall() == [("a", 0), ("b", 0)]
        moved = CLIENTS * GROUPS * EACH
        rows = connection.execute("SELECT count(*), count(DISTINCT ce_causationid), min(ce_replyoutcome) FROM outbox")
        assert rows.fetchone() == (moved, moved, "done")
        inbox = connection.execute("SELECT count(*), min(state), max(state) FROM inbox")
        assert inbox.fetchone() == (moved, "answered", "answered")
    engine.dispose()


def _insist(once: Callable[[], bool]) -> None:
    assert any(once() for _ in range(TRIES)), f"not done in {TRIES} tries"


def _settle(unit: Unit, moves: list[Order], met: Counter[str]) -> bool:
    """A whole group, as the runner does it: what was undone comes again as it was."""
    try:
        results = unit.handle(moves, lambda dead: None)
    except Undone as error:
        met["group again"] += 1
        met["deadlock" if error.contended else "undone by something else"] += 1
        return False
    assert [getattr(result, "outcome", None) for result in results] == ["done"] * len(moves)
    return True


def _transfer(connection: psycopg.Connection, accounts: tuple[str, str], met: Counter[str]) -> bool:
    """The service's own code, which tries again by itself."""
    try:
        with connection.transaction():
            for account, change in zip(accounts, (-1, 1), strict=True):
                connection.execute("UPDATE account SET money = money + %s WHERE id = %s", (change, account))
                connection.execute("SELECT pg_sleep(0.002)")
    except errors.SerializationFailure:
        met["serialization failure"] += 1
    except errors.DeadlockDetected:
        met["deadlock of its own"] += 1
    else:
        return True
    return False
