"""The barrier on PostgreSQL and MariaDB: two consumers in every order and duplication, and many at random."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import bindparam, create_engine, text
from sqlalchemy.event import listen

from kompensate.participants.database import connect
from kompensate.participants.orders import Later
from kompensate.participants.unit import Undone
from tests.fixtures import barrier
from tests.fixtures.participants import World

DEADLINE_SECONDS = 20.0

Blocked = Callable[[World], bool]


@pytest.fixture(params=["postgres", "mariadb"])
def database(request: pytest.FixtureRequest) -> str:
    """URL of an empty database of each kind."""
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def worlds(database: str) -> Iterator[tuple[World, World]]:
    """Two consumers of one database."""
    # Thousands of commits, and no crash among them. (MariaDB is started so.)
    quick = f"{database}?options=-csynchronous_commit%3Doff" if database.startswith("postgresql") else database
    one, other = (World(connect(quick, f"stock-{n}")) for n in (1, 2))
    yield one, other
    one.engine.dispose()
    other.engine.dispose()


@pytest.fixture
def blocked(database: str, worlds: tuple[World, World]) -> Iterator[Blocked]:
    """Whether a consumer waits for a row of the other's."""
    yield from _blocked_postgres(database, worlds) if database.startswith("postgresql") else _blocked_mariadb(worlds)


def _blocked_postgres(database: str, worlds: tuple[World, World]) -> Iterator[Blocked]:
    sql = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s "
        "AND cardinality(pg_blocking_pids(pid)) > 0)"
    )
    names = {id(world): f"kompensate stock-{n}" for n, world in enumerate(worlds, 1)}
    with psycopg.connect(database, autocommit=True) as watcher:

        def ask(world: World) -> bool:
            row = watcher.execute(sql, (names[id(world)],)).fetchone()
            return row is not None and bool(row[0])

        yield ask


def _blocked_mariadb(worlds: tuple[World, World]) -> Iterator[Blocked]:
    """Its table of lock waits is a tenth of a second old: here a statement that takes 20 ms is one that waits."""
    sessions: dict[int, list[int]] = {id(world): [] for world in worlds}

    def note(world: World, connection: Any) -> None:
        sessions[id(world)].append(connection.thread_id())

    for world in worlds:
        world.engine.dispose()
        listen(world.engine, "connect", lambda connection, _, world=world: note(world, connection))
    watcher = create_engine(worlds[0].engine.url, isolation_level="AUTOCOMMIT")
    asked = text(
        "SELECT count(*) FROM information_schema.processlist WHERE id IN :ids AND command = 'Query' AND time_ms > 20"
    ).bindparams(bindparam("ids", expanding=True))
    with watcher.connect() as connection:
        yield lambda world: connection.execute(asked, {"ids": sessions[id(world)]}).scalar_one() > 0
    watcher.dispose()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_order_and_duplication(worlds: tuple[World, World], blocked: Blocked) -> None:
    """As on SQLite, and here one waits for the other's rows at every point of its transaction."""
    barrier.tell_all(worlds, blocked)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("rule", barrier.RULES)
def test_without_a_rule_some_order_breaks_a_promise(worlds: tuple[World, World], blocked: Blocked, rule: str) -> None:
    """Each rule of the barrier, taken away, is missed by one of the stories."""
    with barrier.RULES[rule](), pytest.raises(AssertionError):
        barrier.tell_all(worlds, blocked)


def test_many_consumers_at_random(database: str) -> None:
    """Four consumers take random groups of the same commands, deadlocks included: the promises hold."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    steps = [(saga, kind) for saga in barrier.SAGAS for kind in "FC"]
    worlds = [World(connect(database, f"stock-{n}")) for n in range(4)]
    plans = [[[dice.choice(steps) for _ in range(dice.randint(1, 6))] for _ in range(15)] for _ in worlds]
    undone: list[bool] = []

    def consume(world: World, plan: list[list[tuple[str, str]]]) -> None:
        for group in plan:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while True:
                assert time.monotonic() < deadline
                try:
                    results = world.handle(*(barrier.command(saga, kind, "done", world) for saga, kind in group))
                except Undone as error:
                    undone.append(error.contended)
                    continue
                assert not any(isinstance(result, Later) for result in results)
                break

    with ThreadPoolExecutor(len(worlds)) as pool:
        list(pool.map(consume, worlds, plans))
    print(f"{len(undone)} groups deadlocked and were done again")

    assert all(undone), "expected every group that was undone to be a deadlock's"
    counts = Counter(step for plan in plans for group in plan for step in group)
    for saga in barrier.SAGAS:
        barrier.check(worlds[0], saga, "done", counts[saga, "F"], counts[saga, "C"])
    for world in worlds:
        world.engine.dispose()
