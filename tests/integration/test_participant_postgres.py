"""The group's transaction on PostgreSQL: what the database can do to it, and what handlers must not."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from kompensate.outbox import inbox
from kompensate.outbox.tables import MissingTables, check_tables, create_tables, ensure_partitions
from kompensate.outbox.writer import request_row, write
from kompensate.participants import Call, Participant, Refused, database, group, unit
from kompensate.participants.database import connect
from kompensate.participants.orders import Order
from kompensate.participants.unit import Undone, Unit, Unreachable
from kompensate.schemas.messages import Command, Request
from kompensate.schemas.payloads import encode
from tests.fixtures.network import Line
from tests.fixtures.participants import (
    How,
    World,
    async_stock,
    compensation,
    driver_stock,
    forward,
    plain_stock,
    prepare,
    stock,
)

KINDS = ["session", "connection", "async session", "psycopg"]


@pytest.mark.parametrize("participant", [stock, plain_stock, async_stock, driver_stock], ids=KINDS)
def test_every_ending_in_one_group(world: World, participant: Participant) -> None:
    """Refusals, errors, broken statements and misuse between good commands: the good ones keep their work."""
    world = World(world.engine, participant)
    hows: list[How] = [
        "done",
        "refuse",
        "done",
        "raise",
        "break",
        "done",
        "swallow",
        "rollback",
        "oversize",
        "retry",
        "done",
    ]
    if participant is plain_stock:
        hows[hows.index("rollback")] = "half"  # of a plain connection a rollback undoes the group: unit tests
    commands = [forward(f"{n}", how, saga_id=f"s{n}") for n, how in enumerate(hows)]
    outcomes = world.outcomes(*commands)
    world.unit.close()

    assert outcomes == ["done", "refused", "done", *["failed"] * 2, "done", *["failed"] * 4, "done"]
    assert world.effects() == {(str(n), "take"): 1 for n, how in enumerate(hows) if how == "done"}
    assert {command for command, _ in world.dead} == {"3", "4", "6", "7", "8", "9"}
    assert {state for state, _ in world.inbox().values()} == {"answered"}


def test_a_handler_cannot_commit(world: World) -> None:
    """A handler that commits the connection undoes its whole group, which then is split down to it."""
    with pytest.raises(Undone, match="expected the runner to commit"):
        world.handle(forward("a"), forward("b", "commit"), forward("c"))

    assert world.inbox() == {}
    assert world.effects() == {}


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    sku: Mapped[str] = mapped_column(primary_key=True)
    free: Mapped[int]


@dataclass
class Reserve:
    sku: str
    count: int


def test_orm_handlers_are_kept_apart(postgres: str) -> None:
    """With mapped objects too a failed flush harms its own handler only, and no object outlives its handler."""
    shop = Participant("shop")
    seen: list[int] = []

    @shop.handles
    def reserve(command: Reserve, session: Session, call: Call) -> None:
        seen.append(len(session.identity_map))
        if command.sku == "twice":
            session.add(Item(sku="a", free=1))
            return
        item = session.get_one(Item, command.sku)
        item.free -= command.count
        if item.free < 0:
            session.flush()
            raise Refused("out of stock")

    engine = connect(postgres, "shop")
    with engine.begin() as connection:
        prepare(connection)
        Base.metadata.create_all(connection)
        connection.execute(text("INSERT INTO item VALUES ('a', 10)"))
    skus = [("a", 3), ("twice", 1), ("a", 9), ("a", 4), ("twice", 1), ("a", 1)]
    orders = [Order(_reserve(n, sku, count), lane=n, last=True) for n, (sku, count) in enumerate(skus)]
    results = Unit(shop, engine).handle(orders, lambda dead: None)

    assert [getattr(r, "outcome", r) for r in results] == ["done", "failed", "refused", "done", "failed", "done"]
    assert seen == [0] * len(skus)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT sku, free FROM item")).all() == [("a", 2)]
    engine.dispose()


def _reserve(number: int, sku: str, count: int) -> Command:
    return replace(forward(str(number)), type="shop.Reserve", payload=encode(Reserve(sku, count)))


def test_a_constraint_that_waits_for_the_commit_spoils_the_group(world: World) -> None:
    """An error at COMMIT belongs to no handler: the group is undone whole, and says so."""
    with world.engine.begin() as connection:
        connection.execute(text("CREATE TABLE saga (id text PRIMARY KEY)"))
        connection.execute(
            text("ALTER TABLE effect ADD FOREIGN KEY (saga_id) REFERENCES saga DEFERRABLE INITIALLY DEFERRED")
        )
    with pytest.raises(Undone, match="foreign key") as caught:
        world.handle(forward("a"))

    assert not caught.value.contended
    assert world.inbox() == {}
    assert world.outcomes(compensation("a")) == ["done"]


def test_a_row_that_vanishes_is_asked_for_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row deleted by the retention between two statements undoes the group; the next try finds it new."""
    world.handle(forward("a"))
    with monkeypatch.context() as patch:
        patch.setattr(inbox, "_read", lambda *_: {})
        with pytest.raises(Undone, match="expected rows of 2 commands, got 1"):
            world.handle(forward("a"), forward("b"))

    assert world.inbox().keys() == {"a"}


def test_a_lost_connection_undoes_the_group(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that is terminated in mid-group leaves nothing; the same group again does it once."""

    def terminate(point: str) -> None:
        if point == "participant.after_handler":
            with psycopg.connect(world.engine.url.set(drivername="postgresql").render_as_string(False)) as other:
                others = "FROM pg_stat_activity WHERE application_name = 'kompensate stock'"
                other.execute(f"SELECT pg_terminate_backend(pid, 10000) {others}")

    with monkeypatch.context() as patch:
        patch.setattr(group, "fault", terminate)
        with pytest.raises(Undone):
            world.handle(forward("a"), forward("b"))

    assert world.outcomes(forward("a"), forward("b")) == ["done", "done"]
    assert world.effects() == {("a", "take"): 1, ("b", "take"): 1}


@pytest.mark.parametrize("lose", [lambda line: line.cut_after(0), Line.fall_silent_after_question])
def test_a_commit_whose_answer_is_lost_is_found_again(
    postgres: str, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Line], object]
) -> None:
    """COMMIT happened but its answer did not arrive: the group again gets stored answers, no second effect."""
    monkeypatch.setattr(database, "COMMIT_SECONDS", 0.5)
    with Line.to_database(postgres) as line:
        world = World(connect(line.dsn(postgres), "stock"))

        def fail(point: str) -> None:
            if point == "participant.before_db_commit":
                lose(line)

        with monkeypatch.context() as patch:
            patch.setattr(unit, "fault", fail)
            with pytest.raises(Undone) as caught:
                world.handle(forward("a"))
        assert not caught.value.contended

        assert world.inbox() == {"a": ("answered", "done")}
        assert world.outcomes(forward("a")) == ["done"]
        assert world.effects() == {("a", "take"): 1}
        world.engine.dispose()


def test_a_database_that_is_away_is_unreachable(world: World, postgres: str) -> None:
    """A database that takes no connections is a reason to wait, not to give anything up; passwords stay secret."""
    world.engine.dispose()
    name = world.engine.url.database
    admin = postgres.rsplit("/", 1)[0] + "/postgres"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        with pytest.raises(Unreachable, match="not currently accepting connections") as caught:
            world.handle(forward("a"))
        password = world.engine.url.password
        assert password is None or str(password) not in str(caught.value)
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    assert world.outcomes(forward("a")) == ["done"]


@dataclass
class Move:
    """Moves money between two accounts, locking them in the order given."""

    source: str
    target: str


def test_deadlocks_are_done_again(postgres: str) -> None:
    """Consumers that lock two accounts in opposite order: all is done, each move once, no money lost."""
    bank = Participant("bank")

    @bank.handles
    def move(command: Move, session: Session) -> None:
        for account, change in ((command.source, -1), (command.target, 1)):
            session.execute(
                text("UPDATE account SET money = money + :change WHERE id = :id"), {"change": change, "id": account}
            )
            session.execute(text("SELECT pg_sleep(0.002)"))

    engines = [connect(postgres, f"bank-{n}") for n in range(8)]
    with engines[0].begin() as connection:
        create_tables(connection)
        connection.execute(text("CREATE TABLE account (id text PRIMARY KEY, money int)"))
        connection.execute(text("INSERT INTO account VALUES ('a', 0), ('b', 0)"))
        connection.execute(text(f"ALTER DATABASE {engines[0].url.database} SET deadlock_timeout = '20ms'"))
    for engine in engines:
        engine.dispose()
    moves = [("a", "b"), ("b", "a"), ("a", "b"), ("a", "b")]

    undone: list[bool] = []

    def consume(number: int) -> None:
        unit = Unit(bank, engines[number])
        source, target = moves[number % len(moves)]
        for n in range(6):
            command = replace(forward(f"{number}-{n}"), type="bank.Move", payload=encode(Move(source, target)))
            for _ in range(200):
                try:
                    [result] = unit.handle([Order(command, lane=n)], lambda dead: None)
                except Undone as error:
                    undone.append(error.contended)
                    continue
                assert getattr(result, "outcome", None) == "done"
                break
            else:
                raise AssertionError(f"{command.id}: not done in 200 tries")

    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(consume, range(len(engines))))

    assert undone, "expected at least one deadlock, or this test shows nothing"
    assert all(undone), "expected every group that was undone to be a deadlock's"
    with engines[0].connect() as connection:
        rows = connection.execute(text("SELECT id, money FROM account ORDER BY id")).all()
        assert rows == [("a", -24), ("b", 24)]
        assert connection.execute(text("SELECT count(*) FROM outbox")).scalar_one() == 48
    for engine in engines:
        engine.dispose()


def test_tables_are_made_once(postgres: str) -> None:
    """Making the tables again changes nothing; a database without them is refused with what to do."""
    engine = connect(postgres, "stock")
    with (
        engine.begin() as connection,
        pytest.raises(MissingTables, match=r"got no outbox and no inbox: run .*schema\.sql"),
    ):
        check_tables(connection)
    for _ in range(2):
        with engine.begin() as connection:
            create_tables(connection)
            check_tables(connection)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT pubinsert, pubupdate, pubviaroot FROM pg_publication")).all()
    assert found == [(True, False, True)]
    engine.dispose()


def test_services_may_start_together(postgres: str) -> None:
    """Several that make the tables at once wait for each other instead of failing."""
    engines = [connect(postgres, f"stock-{n}") for n in range(4)]
    together = threading.Barrier(len(engines))

    def create(number: int) -> bool:
        together.wait(10)
        with engines[number].begin() as connection:
            create_tables(connection)
        return True

    with ThreadPoolExecutor(len(engines)) as pool:
        assert list(pool.map(create, range(len(engines)))) == [True] * len(engines)
    for engine in engines:
        engine.dispose()


def test_rows_fall_into_their_day(postgres: str) -> None:
    """Partitions are made ahead; rows of a day without one are kept in the default, which then keeps that day."""
    engine = connect(postgres, "stock")
    with engine.begin() as connection:
        create_tables(connection)
        far = date(2040, 3, 1)
        connection.execute(
            text(
                "INSERT INTO outbox (id, aggregatetype, aggregateid, type, partition, created_at) "
                "VALUES (gen_random_uuid(), 't', 'k', 'x', 0, '2040-03-02T12:00:00+00')"
            )
        )
        assert ensure_partitions(connection, far) == ["outbox_20400301", "outbox_20400303"]
        assert ensure_partitions(connection, far) == []
        assert ensure_partitions(connection) == []
    engine.dispose()


def test_a_start_commits_with_the_callers_work(world: World) -> None:
    """A request row is written in the caller's transaction, with the headers of a request."""
    request = Request("r1", "kompensate.start", "order-1", "kompensate:web", saga_type="checkout", payload=b"{}")
    with world.engine.begin() as connection:
        write(connection, [request_row(request, "shop.requests", 2)])

    columns = "aggregatetype, aggregateid, partition, type, ce_id, ce_sagatype, ce_causationid, payload"
    assert world.rows(f"SELECT {columns} FROM outbox") == [
        ("shop.requests", "order-1", 2, "kompensate.start", "r1", "checkout", None, b"{}")
    ]
