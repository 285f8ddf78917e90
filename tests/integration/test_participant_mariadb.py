"""The group's transaction on MariaDB: what the database can do to it, and what handlers must not."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from kompensate.orchestrator.cli import main
from kompensate.outbox.keeping import Housekeeping
from kompensate.outbox.retention import Retention
from kompensate.outbox.tables import MissingTables, check_tables, create_tables, drop_tables
from kompensate.outbox.transactions import add
from kompensate.participants import Call, Participant, locks
from kompensate.participants.database import adopt, connect
from kompensate.participants.orders import Order
from kompensate.participants.scratch import Scratch
from kompensate.participants.unit import Undone, Unit, Unreachable
from kompensate.schemas.payloads import encode
from tests.fixtures.participants import (
    SPOILT,
    How,
    World,
    async_stock,
    compensation,
    forward,
    is_waited_for,
    plain_stock,
    stock,
)

STOCKS = pytest.mark.parametrize("participant", [stock, plain_stock, async_stock], ids=["session", "plain", "async"])


@pytest.fixture
def world(mariadb: str) -> Iterator[World]:
    world = World(connect(mariadb, "stock"))
    yield world
    world.close()


@STOCKS
def test_every_ending_in_one_group(world: World, participant: Participant) -> None:
    """Refusals, errors, broken statements and misuse between good commands: the good ones keep their work."""
    world = World(world.engine, participant)
    hows: list[How] = ["done", "refuse", "done", "raise", "break", "swallow", "half", "oversize", "retry", "done"]
    outcomes = world.outcomes(*(forward(f"{n}", how, saga_id=f"s{n}") for n, how in enumerate(hows)))
    world.unit.close()

    # A statement that fails is undone alone, so who swallows its error goes on.
    kept = {"done": "done", "swallow": "done", "refuse": "refused"}
    assert outcomes == [kept.get(how, "failed") for how in hows]
    assert world.effects() == {(str(n), "take"): 1 for n, how in enumerate(hows) if kept.get(how) == "done"}
    assert {state for state, _ in world.inbox().values()} == {"answered"}
    assert world.payload("0") == {"by": "0"}


@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_tables_are_no_commands_fault(world: World, what: str) -> None:
    """They are waited for, and what came meanwhile is done when they are mended."""
    is_waited_for(world, what, "schema_mysql.sql")


def test_a_duplicate_gets_the_stored_reply(world: World) -> None:
    """The same command again, in its group and later: no handler, the same answer, a row of its own."""
    assert world.outcomes(forward("a"), forward("a")) == ["done", "done"]
    assert world.outcomes(forward("a"), compensation("b"), forward("b")) == ["done", "done", "refused"]

    assert world.effects() == {("a", "take"): 1}
    assert len(set(world.rows("SELECT payload FROM outbox WHERE ce_causationid = 'a'"))) == 1
    assert world.inbox()["b"] == ("cancelled", None)


def test_ids_differ_by_case_and_keep_every_character(world: World) -> None:
    """Two ids are one only where all their bytes are the same."""
    ids = ["a", "A", "á", "ключ-😀", "x" * 512]
    assert world.outcomes(*map(forward, ids)) == ["done"] * len(ids)
    assert world.outcomes(*map(forward, ids)) == ["done"] * len(ids)

    assert world.effects() == {(id_, "take"): 1 for id_ in ids}


@dataclass
class Move:
    """Moves money between two accounts, locking them in the order given."""

    source: str
    target: str


def bank_of(swallow: bool) -> Participant:
    bank = Participant("bank")

    @bank.handles
    def move(command: Move, session: Session, call: Call) -> None:
        session.execute(text("INSERT INTO moved VALUES (:id)"), {"id": call.id})
        update = text("UPDATE account SET money = money + :change WHERE id = :id")
        for account, change in ((command.source, -1), (command.target, 1)):
            try:
                session.execute(update, {"change": change, "id": account})
            except OperationalError:
                if not swallow:
                    raise
            session.execute(text("DO SLEEP(0.002)"))

    return bank


@pytest.fixture
def accounts(mariadb: str) -> str:
    engine = connect(mariadb, "bank")
    with engine.begin() as connection:
        create_tables(connection)
        connection.execute(text("CREATE TABLE account (id varchar(9) PRIMARY KEY, money int)"))
        connection.execute(text("CREATE TABLE moved (id varchar(36))"))
        connection.execute(text("INSERT INTO account VALUES ('a', 0), ('b', 0)"))
    engine.dispose()
    return mariadb


def move_around(dsn: str, bank: Participant, enough: Callable[[list[bool], int], bool]) -> tuple[list[bool], int]:
    """Four consumers lock two accounts in opposite order until there is `enough`: of the groups undone, and moves done.

    Which groups that were undone were contended, and how many commands were answered that moved nothing.
    """
    engines = [connect(dsn, f"bank-{n}") for n in range(4)]
    undone: list[bool] = []
    done: list[str] = []

    def consume(number: int) -> None:
        unit, until, n = Unit(bank, engines[number]), time.monotonic() + 60, 0
        source, target = ("a", "b") if number % 2 else ("b", "a")
        while not enough(undone, len(done)) and time.monotonic() < until:
            command = replace(forward(f"{number}-{n}"), type="bank.Move", payload=encode(Move(source, target)))
            try:
                [result] = unit.handle([Order(command, lane=n)], lambda dead: None)
            except Undone as error:
                undone.append(error.contended)
                continue
            assert getattr(result, "outcome", None) == "done"
            done.append(command.id)
            n += 1

    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(consume, range(len(engines))))
    with engines[0].connect() as connection:
        moved: int = connection.execute(text("SELECT count(*) FROM moved")).scalar_one()
        answered = connection.execute(text("SELECT count(*) FROM inbox WHERE state = 'answered'")).scalar_one()
        assert connection.execute(text("SELECT count(*) FROM outbox")).scalar_one() == answered == len(done)
    for engine in engines:
        engine.dispose()
    return undone, len(done) - moved


def test_deadlocks_are_done_again(accounts: str) -> None:
    """Consumers that lock two accounts in opposite order: no money is lost, and who was undone is told why."""
    undone, empty = move_around(accounts, bank_of(swallow=False), lambda undone, done: len(undone) >= 10 <= done)

    assert len(undone) >= 10, "expected deadlocks, or this test shows nothing"
    assert all(undone), "expected every group that was undone to be a deadlock's"
    assert empty == 0


def test_a_deadlock_that_a_handler_swallows_undoes_the_group(accounts: str) -> None:
    """The server rolled all of it back and would begin anew: half a move must not be committed."""
    undone, empty = move_around(accounts, bank_of(swallow=True), lambda undone, done: len(undone) >= 10 <= done)

    assert len(undone) >= 10, "expected deadlocks, or this test shows nothing"
    assert empty == 0


def test_without_the_look_at_the_savepoint_commands_are_answered_that_did_nothing(
    accounts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defence of the test before, taken away."""
    monkeypatch.setattr(Scratch, "_stands", lambda self: True)
    _, empty = move_around(accounts, bank_of(swallow=True), lambda undone, done: done >= 200)

    assert empty > 0


def test_a_handler_cannot_commit(world: World) -> None:
    """A handler that commits the connection undoes its whole group."""
    with pytest.raises(Undone, match="expected the runner to commit"):
        world.handle(forward("a"), forward("b", "commit"), forward("c"))

    assert world.inbox() == {}
    assert world.effects() == {}


def test_a_killed_session_undoes_the_group(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that the server ends in mid-group leaves nothing; the same group again does it once."""
    killer = Participant("stock")
    ended: list[int] = []

    @killer.handles
    def take(command: Move, connection: Connection) -> None:
        connection.execute(text("INSERT INTO effect VALUES ('x', 'take', 's')"))
        if not ended:
            ended.append(connection.execute(text("SELECT CONNECTION_ID()")).scalar_one())
            with create_engine(world.engine.url).connect() as other:
                other.execute(text(f"KILL {ended[0]}"))
            connection.execute(text("SELECT 1"))

    world = World(world.engine, killer)
    command = replace(forward("a"), type="stock.Move", payload=encode(Move("a", "b")))
    with pytest.raises(Undone) as caught:
        world.handle(command)
    assert not caught.value.contended
    assert world.effects() == {}
    assert world.outcomes(command) == ["done"]
    assert world.effects() == {("x", "take"): 1}


def test_a_server_that_is_away_is_unreachable(world: World) -> None:
    """It is a reason to wait, not to give anything up; passwords stay secret."""
    away = connect(world.engine.url.set(port=1).render_as_string(hide_password=False), "stock")
    with pytest.raises(Unreachable) as caught:
        Unit(stock, away).handle([Order(forward("a"), lane=1)], lambda dead: None)

    assert str(world.engine.url.password) not in str(caught.value)


def test_tables_are_made_once_checked_and_dropped(mariadb: str) -> None:
    """Making them again changes nothing; a database without them, or without a column, is told what to do."""
    engine = connect(mariadb, "stock")
    with engine.begin() as connection, pytest.raises(MissingTables, match=r"no inbox: run .*schema_mysql\.sql"):
        check_tables(connection)
    with engine.begin() as connection:
        create_tables(connection)
        create_tables(connection)
        check_tables(connection)
        connection.execute(text("ALTER TABLE outbox DROP COLUMN ce_time"))
        with pytest.raises(MissingTables, match=r"got none named ce_time"):
            check_tables(connection)
        drop_tables(connection)
        assert connection.execute(text("SHOW TABLES")).all() == []
    engine.dispose()


def test_services_may_start_together(mariadb: str) -> None:
    """Several that make the tables at once do not fail."""
    engines = [connect(mariadb, f"stock-{n}") for n in range(4)]

    def create(number: int) -> None:
        with engines[number].begin() as connection:
            create_tables(connection)

    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(create, range(len(engines))))
    for engine in engines:
        engine.dispose()


def test_old_commands_are_forgotten(world: World) -> None:
    """By the database's clock in UTC, whatever its time zone; what nobody answered stays."""
    assert world.rows("SELECT @@system_time_zone") != [("UTC",)]
    world.handle(forward("old"), forward("new"), forward("open"))
    with world.engine.begin() as connection:
        age = "UPDATE inbox SET received_at = UTC_TIMESTAMP(6) - INTERVAL {} HOUR WHERE command_id = '{}'"
        for id_, hours in (("old", 25), ("new", 23), ("open", 99)):
            connection.execute(text(age.format(hours, id_)))
        connection.execute(text("UPDATE inbox SET state = 'claimed' WHERE command_id = 'open'"))

    assert not Housekeeping(world.engine, Retention(1, 1)).keep()
    assert world.inbox().keys() == {"new", "open"}


def test_an_engine_of_the_callers(mariadb: str) -> None:
    """One of PyMySQL's suits, whatever its level; another driver's is refused."""
    engine = create_engine(mariadb.replace("mysql://", "mysql+pymysql://"), isolation_level="REPEATABLE READ")
    world = World(adopt(engine))

    assert world.outcomes(forward("a")) == ["done"]
    world.close()


def test_a_row_by_the_drivers_own_cursor_is_refused(world: World) -> None:
    """Rows go in by SQLAlchemy there."""
    driver = world.engine.raw_connection()
    with pytest.raises(TypeError, match=r"expected a SQLAlchemy Session or Connection, or psycopg's, got pymysql"):
        add(driver.cursor(), [], "add_async")
    driver.close()


def test_semantic_locks_are_refused_by_name(world: World) -> None:
    """No statement of theirs is sent to a database that would take it for something else."""
    call = Call("command", "saga", "checkout", "take", "forward", 1)
    with (
        world.engine.begin() as connection,
        pytest.raises(ValueError, match=r"locks: expected .*postgresql:// or sqlite://, got mysql://"),
    ):
        locks.take(connection, call, "account:1", expires=60)
    shown = CliRunner().invoke(main, ["locks", "--dsn", world.engine.url.render_as_string(hide_password=False)])
    assert shown.exit_code == 1
    assert "semantic locks are not supported there" in shown.output


def test_a_service_on_a_database_of_another_kind_is_told_which_there_are() -> None:
    """Before anything connects."""
    with pytest.raises(ValueError, match=r"expected postgresql://, mysql://, mariadb:// or sqlite://, got oracle://"):
        connect("oracle://h/d", "stock")
