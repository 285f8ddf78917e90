"""MariaDB's outbox as a polling relay reads it: nothing is passed over, however late it commits; nothing overtakes."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, text

from kompensate.outbox import spent
from kompensate.outbox.errors import Disconnected, Misconfigured, SlotInUse
from kompensate.outbox.main import RelayService, RelaySettings, diagnose
from kompensate.outbox.polled import PolledRows, open_rows
from kompensate.outbox.polling import NAMES
from kompensate.outbox.spent import ROWS_MAX, MysqlRows
from kompensate.outbox.tables import create_tables
from kompensate.participants.database import connect
from kompensate.participants.main import Service
from tests.fixtures.participants import World, forward, stock
from tests.fixtures.polled_outboxes import MariaOutbox
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

PAYLOAD = NAMES.index("payload")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody says here that it lives. (What the server does with the silent: the takeover in test_relay_polling.)"""
    monkeypatch.setattr(spent, "SILENCE_SECONDS", 600)


@pytest.fixture
def engine(mariadb: str) -> Iterator[Engine]:
    """A service's, whose database has the tables."""
    made = create_engine(mariadb.replace("mysql://", "mysql+pymysql://"), isolation_level="READ COMMITTED")
    with made.begin() as connection:
        create_tables(connection)
    yield made
    made.dispose()


@pytest.fixture
def rows(mariadb: str, engine: Engine) -> Iterator[MysqlRows]:
    """The outbox, locked for us."""
    made = open_rows(mariadb, "outbox")
    assert isinstance(made, MysqlRows)
    yield made
    made.close()


def insert(connection: Connection, *payloads: bytes) -> None:
    connection.execute(
        text(
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, `partition`)"
            " VALUES (UUID(), 't', 'order-1', 'x', :payload, 0)"
        ),
        [{"payload": payload} for payload in payloads],
    )


def read(rows: PolledRows) -> list[bytes]:
    return [values[PAYLOAD] for _, values in rows.fresh()]


def test_a_row_that_commits_late_is_found_while_others_are_on_their_way(engine: Engine, rows: MysqlRows) -> None:
    """It has a lower number than what was read, and nothing of that is sent yet: it comes next, and once."""
    with engine.connect() as early, engine.connect() as other:
        insert(early, b"1")
        insert(other, b"2")
        other.commit()
        assert read(rows) == [b"2"]
        early.commit()
        insert(other, b"3")
        other.commit()

        assert read(rows) == [b"1", b"3"]
        assert read(rows) == []


def test_without_the_count_it_is_passed_over(engine: Engine, rows: MysqlRows, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence of the test before, taken away."""
    monkeypatch.setattr(MysqlRows, "_late", lambda self: iter(()))
    with pytest.raises(AssertionError):
        test_a_row_that_commits_late_is_found_while_others_are_on_their_way(engine, rows)


def test_a_row_does_not_overtake_the_late_one_that_it_followed(engine: Engine, rows: MysqlRows) -> None:
    """One commits late, another is written after it, both between the two questions of one look."""
    asked = rows._ask

    def between(statement: str, number: int) -> Sequence[Sequence[Any]]:
        found = asked(statement, number)
        rows._ask = asked  # type: ignore[method-assign]
        early.commit()
        insert(other, b"3")
        other.commit()
        return found

    with engine.connect() as early, engine.connect() as other:
        insert(early, b"1")
        insert(other, b"2")
        other.commit()
        assert read(rows) == [b"2"]
        rows._ask = between  # type: ignore[method-assign]
        assert read(rows) + read(rows) == [b"1", b"3"]


def test_a_row_that_is_rolled_back_holds_up_nothing(engine: Engine, rows: MysqlRows) -> None:
    """Its number is never seen, and nobody waits for it."""
    with engine.connect() as gone, engine.connect() as other:
        insert(gone, b"1")
        insert(other, b"2")
        other.commit()
        gone.rollback()
        insert(other, b"3")
        other.commit()
    assert read(rows) == [b"2", b"3"]


def test_what_was_sent_is_deleted_and_nothing_else(engine: Engine, rows: MysqlRows) -> None:
    """By number: a row that was committed late, and not sent, stays."""
    with engine.connect() as early, engine.connect() as other:
        insert(early, b"1")
        insert(other, b"2", b"3")
        other.commit()
        places = [place for place, _ in rows.fresh()]
        early.commit()
    rows.published(places[0])

    with engine.connect() as connection:
        left = connection.execute(text("SELECT payload FROM outbox ORDER BY position")).scalars().all()
    assert left == [b"1", b"3"]
    assert read(rows) == [b"1"]
    rows.published(rows._place)
    assert read(rows) == []


def test_many_rows_of_one_transaction_come_in_order_and_few_are_held_at_once(
    engine: Engine, rows: MysqlRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, ROWS_MAX of them are asked for at a time."""
    asked: list[int] = []
    ask = rows._ask

    def counting(statement: str, number: int) -> Sequence[Sequence[Any]]:
        found = ask(statement, number)
        asked.append(len(found))
        return found

    monkeypatch.setattr(rows, "_ask", counting)
    many = [b"%d" % n for n in range(3 * ROWS_MAX + 1)]
    with engine.begin() as connection:
        insert(connection, *many)

    assert read(rows) == many
    assert max(asked) == ROWS_MAX


def test_numbers_that_begin_anew_are_read(engine: Engine, rows: MysqlRows) -> None:
    """As after a TRUNCATE, or a restart of an old MySQL: lower numbers than before are rows like all others."""
    for _ in range(3):
        with engine.begin() as connection:
            insert(connection, b"1", b"2")
        assert read(rows) == [b"1", b"2"]
        rows.published(rows._place)
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE outbox AUTO_INCREMENT = 1"))


def kill(rows: MysqlRows, url: str) -> None:
    """End the session that has the lock."""
    session = rows._notes.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one()
    killer = create_engine(url.replace("mysql://", "mysql+pymysql://"))
    with killer.connect() as connection:
        connection.execute(text(f"KILL {session}"))
    killer.dispose()


def test_one_relay_at_a_time(mariadb: str, rows: MysqlRows, fresh_mariadb: Callable[[], str]) -> None:
    """The lock is of this database's table alone; one that loses its session has lost it, and notes no more."""
    with pytest.raises(SlotInUse, match="outbox outbox is polled by another relay"):
        open_rows(mariadb, "outbox")
    open_rows(fresh_mariadb(), "outbox").close()
    kill(rows, mariadb)

    with pytest.raises(Disconnected):
        rows.stay()
    another = open_rows(mariadb, "outbox")
    assert isinstance(another, MysqlRows)
    kill(another, mariadb)
    another.close()  # it does not matter that the server was faster


def test_an_account_with_two_rights_is_enough(engine: Engine, mariadb: str) -> None:
    """SELECT and DELETE on the outbox; without the second the relay stops and says so."""
    user, url = f"'r{engine.url.database}'@'127.0.0.1'", engine.url.set(username=f"r{engine.url.database}", password="")
    with engine.begin() as connection:
        insert(connection, b"1")
        connection.execute(text(f"CREATE USER {user}"))
        connection.execute(text(f"GRANT SELECT ON outbox TO {user}"))
    found = open_rows(url.render_as_string(hide_password=False), "outbox")
    try:
        assert read(found) == [b"1"]
        with pytest.raises(Misconfigured, match="DELETE command denied"):
            found.published(1)
    finally:
        found.close()
    with engine.begin() as connection:
        connection.execute(text(f"GRANT DELETE ON outbox TO {user}"))
    found = open_rows(url.render_as_string(hide_password=False), "outbox")
    try:
        assert read(found) == [b"1"]
        found.published(1)
        assert read(found) == []
    finally:
        found.close()
        with engine.begin() as connection:
            connection.execute(text(f"DROP USER {user}"))


def test_the_doctor_says_that_it_looks_at_postgresql_alone(mariadb: str) -> None:
    """What is wrong in a database that is polled the relay names itself."""
    with pytest.raises(Misconfigured, match="expected a database of PostgreSQL, got mysql://, which is polled"):
        diagnose(RelaySettings(mariadb, "127.0.0.1:1"))


@pytest.mark.slow
def test_a_service_and_its_relay(kafka: str, topic_prefix: str, mariadb: str) -> None:
    """Commands from Kafka to replies in Kafka: each effect once, each delivery answered, nothing left in the table."""
    topics = ServiceTopics(kafka, topic_prefix)
    topics.make()
    outbox, world = MariaOutbox(mariadb, kafka, topic_prefix), World(connect(mariadb, "stock"))
    commands = [
        replace(forward(f"c{n}", saga_id=f"s{n}"), reply_to=outbox.replies, reply_partition=n % 3) for n in range(60)
    ]
    topics.send([*commands, *commands[:20]])
    with Service(stock, mariadb, kafka, prefix=topic_prefix), RelayService(outbox.settings()):
        wait_until("80 replies", lambda: len(outbox.payloads()) == 80, 60)
        outbox.settle()

    assert world.effects() == {(command.id, "take"): 1 for command in commands}
    answered = Counter(dict(record["headers"])["ce_causationid"].decode() for record in outbox.records())
    assert answered == Counter({command.id: 1 + (n < 20) for n, command in enumerate(commands)})
    outbox.close()
    world.close()


def look(url: str) -> None:
    found = open_rows(url, "outbox")
    try:
        list(found.fresh())
    finally:
        found.close()


def wrong(url: str) -> str:
    with pytest.raises(Misconfigured) as caught:
        look(url)
    return str(caught.value)


def test_a_wrong_setup_is_named(
    engine: Engine, mariadb: str, fresh_mariadb: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mistake has its sentence; none is retried for ever."""
    assert "doesn't exist" in wrong(fresh_mariadb())
    assert "Unknown database" in wrong(f"{mariadb}x")
    assert "Access denied" in wrong(mariadb.replace("kompensate:", "kompensate:not"))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE outbox DROP COLUMN ce_subject"))
    assert "ce_subject" in wrong(mariadb)
    monkeypatch.setattr("kompensate.outbox.mysql.find_spec", lambda _: None)
    assert "pip install 'kompensate[mysql]'" in wrong(mariadb)
    with pytest.raises(ValueError, match=r"expected the package PyMySQL"):
        connect(mariadb, "shop")
