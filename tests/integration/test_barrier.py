"""The barrier on PostgreSQL: one consumer in every order, and two at once in every interleaving."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from kompensate.participants import unit as unit_module
from kompensate.participants.database import connect
from kompensate.participants.unit import Later, Undone
from tests.fixtures import barrier
from tests.fixtures.participants import World, compensation, forward

DEADLINE_SECONDS = 20.0

Pause = Callable[[str], None]


@pytest.fixture
def world(postgres: str) -> Iterator[World]:
    engine = connect(postgres, "stock")
    yield World(engine)
    engine.dispose()


@settings(max_examples=60, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(story=barrier.stories())
def test_every_order_and_duplication(world: World, story: barrier.Story) -> None:
    """As on SQLite: at most once, and undone exactly where it was done."""
    hows, groups = story
    world.clear()
    for group in groups:
        world.handle(*barrier.commands_of(group, hows))

    barrier.check(world, [step for group in groups for step in group], hows)


class Stage:
    """Stops a consumer at a fault point until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

        def pause(name: str) -> None:
            if name == point and threading.current_thread() is self._thread:
                self.reached.set()
                assert self.go.wait(DEADLINE_SECONDS)

        monkeypatch.setattr(unit_module, "fault", pause)

    def stop_here(self) -> None:
        """The thread that calls this will stop at the point."""
        self._thread = threading.current_thread()


def _wait_for(what: Callable[[], bool], text: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not what():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {text}"
        threading.Event().wait(0.005)


def _blocked(dsn: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as watcher:
        sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        row = watcher.execute(sql).fetchone()
        return row is not None and row[0] > 0


@pytest.mark.parametrize("killed", [False, True], ids=["commits", "dies"])
@pytest.mark.parametrize(
    "point", ["participant.after_claim", "participant.after_handler", "participant.before_db_commit"]
)
@pytest.mark.parametrize("second", ["F", "C"])
@pytest.mark.parametrize("first", ["F", "C"])
def test_two_consumers_at_once(
    postgres: str, monkeypatch: pytest.MonkeyPatch, first: str, second: str, point: str, killed: bool
) -> None:
    """One stops with its rows claimed; the other waits for it in the database, then acts on what became of it."""
    if first == "C" and point == "participant.after_handler":
        pytest.skip("a compensation without its command runs no handler")
    one, two = World(connect(postgres, "stock-1")), World(connect(postgres, "stock-2"))
    commands = {"F": forward("s1-F", saga_id="s1"), "C": compensation("s1-F", "s1-C", saga_id="s1")}
    stage = Stage(monkeypatch, point)

    def slow() -> object:
        stage.stop_here()
        return one.handle(commands[first])

    with ThreadPoolExecutor(2) as pool:
        slower = pool.submit(slow)
        assert stage.reached.wait(DEADLINE_SECONDS)
        faster: Future[list[object]] = pool.submit(lambda: list(two.handle(commands[second])))
        _wait_for(lambda: _blocked(postgres), "the second consumer waits for the first one's rows")
        assert not faster.done()
        if killed:
            with psycopg.connect(postgres, autocommit=True) as killer:
                whom = "FROM pg_stat_activity WHERE application_name = 'kompensate stock-1'"
                killer.execute(f"SELECT pg_terminate_backend(pid) {whom}")
        stage.go.set()
        if killed:
            with pytest.raises(Undone):
                slower.result(DEADLINE_SECONDS)
        else:
            slower.result(DEADLINE_SECONDS)
        faster.result(DEADLINE_SECONDS)
    # What died is delivered again; so is everything else.
    for command in (commands[first], commands["F"], commands["C"]):
        one.handle(command)

    delivered = [("s1", kind) for kind in (first, second, "F", "C")]
    barrier.check(two, delivered, {"s1": "done", "s2": "done"})
    one.engine.dispose()
    two.engine.dispose()


def test_many_consumers_at_random(postgres: str) -> None:
    """Four consumers take random groups of the same commands, deadlocks included: the promises hold."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    steps = [(saga, kind) for saga in barrier.SAGAS for kind in "FC"]
    worlds = [World(connect(postgres, f"stock-{n}")) for n in range(4)]
    plans = [[[dice.choice(steps) for _ in range(dice.randint(1, 6))] for _ in range(15)] for _ in worlds]
    undone: list[bool] = []

    def consume(world: World, plan: list[list[barrier.Step]]) -> None:
        for group in plan:
            deadline = time.monotonic() + DEADLINE_SECONDS
            while True:
                assert time.monotonic() < deadline
                try:
                    results = world.handle(*barrier.commands_of(group, {"s1": "done", "s2": "done"}))
                except Undone as error:
                    undone.append(error.contended)
                    continue
                assert not any(isinstance(result, Later) for result in results)
                break

    with ThreadPoolExecutor(len(worlds)) as pool:
        list(pool.map(consume, worlds, plans))
    print(f"{len(undone)} groups deadlocked and were done again")

    assert all(undone), "expected every group that was undone to be a deadlock's"
    barrier.check(worlds[0], [s for plan in plans for group in plan for s in group], {"s1": "done", "s2": "done"})
    for world in worlds:
        world.engine.dispose()
