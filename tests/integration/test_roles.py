"""The three roles of a service's database: each does what it needs, and is refused everything else.

One table says who may do what; every role tries all of it on a real PostgreSQL.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import text

from kompensate.compose.local.postgres import Postgres
from kompensate.compose.local.stack import Stack
from kompensate.outbox.database import Database
from kompensate.outbox.doctor import role
from kompensate.outbox.errors import Misconfigured
from kompensate.outbox.keeping import Housekeeping
from kompensate.outbox.naming import Names
from kompensate.outbox.retention import Retention
from kompensate.outbox.roles import roles_sql
from kompensate.participants.database import connect
from tests.fixtures.roles import Guarded, as_role, guarded_database, make_tables
from tests.fixtures.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.stack]

OUTBOX_ROW = (
    "INSERT INTO outbox (id, aggregatetype, aggregateid, type, partition) VALUES (gen_random_uuid(), 't', 'k', 'x', 0)"
)
# Tomorrow's: it is there on either side of midnight.
A_DAY = f"outbox_{datetime.now(UTC) + timedelta(days=1):%Y%m%d}"

# What is tried, and which roles may: o(wner), a(pp), r(elay), (o)p(erator). Each in a transaction that is rolled back.
MATRIX: tuple[tuple[str, str], ...] = (
    # Business tables are the service's. The owner of these is the superuser that made them.
    ("SELECT * FROM stock", "a"),
    ("INSERT INTO stock VALUES ('fork', 1)", "a"),
    ("UPDATE stock SET free = 1", "a"),
    ("DELETE FROM stock", "a"),
    ("INSERT INTO log (line) VALUES ('x')", "a"),
    ("TRUNCATE stock", ""),
    ("DROP TABLE stock", ""),
    ("ALTER TABLE stock ADD COLUMN x text", ""),
    ("CREATE TRIGGER t BEFORE INSERT ON stock FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()", ""),
    # The outbox: the service adds, the relay reads, nobody but the owner changes what was said.
    (OUTBOX_ROW, "oap"),
    ("SELECT * FROM outbox", "or"),
    ("UPDATE outbox SET payload = NULL", "o"),
    ("DELETE FROM outbox", "o"),
    ("TRUNCATE outbox", "o"),
    ("DROP TABLE outbox", "o"),
    ("ALTER TABLE outbox ADD COLUMN x text", "o"),
    # Its partitions are not another door to it.
    ("SELECT * FROM outbox_default", "o"),
    (OUTBOX_ROW.replace("INTO outbox", "INTO outbox_default"), ""),  # no day of its own: refused to all by its bounds
    (f"SELECT * FROM {A_DAY}", "o"),
    (f"DELETE FROM {A_DAY}", "o"),
    (f"DROP TABLE {A_DAY}", "o"),
    ("CREATE TABLE outbox_20400101 (LIKE outbox INCLUDING DEFAULTS INCLUDING CONSTRAINTS)", "o"),
    # The inbox is the service's.
    ("INSERT INTO inbox (consumer, command_id, state) VALUES ('c', 'i', 'claimed')", "oa"),
    ("SELECT * FROM inbox", "oap"),
    ("UPDATE inbox SET state = 'answered'", "oap"),
    ("UPDATE inbox SET command_id = 'another'", "oa"),
    ("DELETE FROM inbox", "oa"),
    ("DROP TABLE inbox", "o"),
    # Locks and outside calls are the service's; an operator breaks locks, and says what became of calls.
    ("SELECT * FROM saga_lock, saga_lock_wait", "oap"),
    ("UPDATE saga_lock SET broken_at = 1, broken_by = 'ann', broken_why = 'x'", "oap"),
    ("UPDATE saga_lock SET saga_id = 'another'", "oa"),
    ("INSERT INTO saga_lock (name, app, saga_id, command_id, taken_at) VALUES ('n', 'a', 's', 'c', 0)", "oa"),
    ("DELETE FROM saga_lock", "oa"),
    ("DELETE FROM saga_lock_wait", "oa"),
    ("DROP TABLE saga_lock", "o"),
    ("SELECT * FROM idempotency, breaker", "oap"),
    ("UPDATE idempotency SET status = 'closed'", "oap"),
    ("UPDATE idempotency SET request_hash = ''", "oa"),
    ("UPDATE breaker SET state = 'closed'", "oa"),
    ("DELETE FROM idempotency", "oa"),
    ("DROP TABLE idempotency", "o"),
    # The relay's note is the relay's.
    ("SELECT * FROM outbox_relay", "or"),
    ("INSERT INTO outbox_relay (slot, system_id, confirmed_lsn) VALUES ('s', '1', '0/1')", "or"),
    ("UPDATE outbox_relay SET confirmed_lsn = '0/2'", "or"),
    ("DELETE FROM outbox_relay", "o"),
    # Tables, publications and slots.
    ("CREATE TABLE mine (x text)", "o"),
    ("ALTER PUBLICATION kompensate_outbox SET (publish = 'insert, update')", "o"),
    ("ALTER PUBLICATION kompensate_outbox ADD TABLE stock", ""),
    ("DROP PUBLICATION kompensate_outbox", "o"),
    ("CREATE PUBLICATION other FOR TABLE outbox", "o"),
    ("CREATE PUBLICATION everything FOR ALL TABLES", ""),
    ("SELECT pg_create_logical_replication_slot('forbidden', 'pgoutput', true)", "r"),
    # The server.
    ("CREATE ROLE another", ""),
    ("CREATE DATABASE another", ""),
    ("SELECT pg_read_file('postgresql.conf')", ""),
    ("COPY stock TO PROGRAM 'cat'", ""),
    ("SELECT rolpassword FROM pg_authid", ""),
    ("ALTER SYSTEM SET wal_level = minimal", ""),
)


@pytest.fixture
def guarded(postgres: str) -> Iterator[Guarded]:
    with guarded_database(postgres) as made:
        yield made


def may(dsn: str, statement: str) -> bool:
    """Whether that role may, by trying; nothing of it stays."""
    with psycopg.connect(dsn) as connection:
        try:
            connection.execute(statement.encode())
        except (errors.InsufficientPrivilege, errors.CheckViolation):
            return False
        except errors.ActiveSqlTransaction:
            pass  # not in a transaction: asked again outside of one
        else:
            connection.rollback()
            return True
    with psycopg.connect(dsn, autocommit=True) as connection, suppress(errors.InsufficientPrivilege):
        connection.execute(statement.encode())
        return True
    return False


def matrix(guarded: Guarded) -> dict[str, str]:
    """By statement, who may."""
    roles = {"o": guarded.owner, "a": guarded.app, "r": guarded.relay, "p": guarded.operator}
    return {
        statement: "".join(letter for letter, dsn in roles.items() if may(dsn, statement)) for statement, _ in MATRIX
    }


def test_each_role_may_do_what_it_needs_and_nothing_else(guarded: Guarded) -> None:
    """Every statement of the matrix is allowed to the roles that it names, and refused to the others."""
    found = matrix(guarded)

    assert found == dict(MATRIX)


def test_a_right_too_wide_is_found(guarded: Guarded) -> None:
    """The matrix is believed: with one grant more it differs by that one."""
    relay = psycopg.conninfo.conninfo_to_dict(guarded.relay)["user"]
    with psycopg.connect(guarded.superuser, autocommit=True) as connection:
        connection.execute(sql.SQL("GRANT SELECT ON stock TO {}").format(sql.Identifier(str(relay))))

    found = matrix(guarded)

    assert {statement for statement, roles in MATRIX if found[statement] != roles} == {"SELECT * FROM stock"}


def test_roles_may_be_rendered_again_and_take_back_what_was_given(guarded: Guarded) -> None:
    """A second run changes nothing, takes a stray grant on our tables back, and covers tables that came since."""
    names = [str(psycopg.conninfo.conninfo_to_dict(dsn)["user"]) for dsn in (guarded.owner, guarded.app, guarded.relay)]
    with psycopg.connect(guarded.superuser, autocommit=True) as connection:
        connection.execute(sql.SQL("GRANT SELECT, UPDATE ON outbox TO {}").format(sql.Identifier(names[1])))
        connection.execute("CREATE TABLE orders (id text)")

        connection.execute(roles_sql(*names).encode())

    assert matrix(guarded) == dict(MATRIX)
    assert may(guarded.app, "SELECT * FROM orders")
    assert not may(guarded.relay, "SELECT * FROM orders")


def test_a_polling_relay_keeps_its_position(guarded: Guarded) -> None:
    """Where its table is there, the relay may note where it stands, and the service may read it."""
    names = [str(psycopg.conninfo.conninfo_to_dict(dsn)["user"]) for dsn in (guarded.owner, guarded.app, guarded.relay)]
    with psycopg.connect(guarded.superuser, autocommit=True) as connection:
        connection.execute("CREATE TABLE outbox_polled (reader text PRIMARY KEY, below text)")
        connection.execute(roles_sql(*names).encode())

    for statement, roles in (
        ("SELECT * FROM outbox_polled", "ar"),
        ("INSERT INTO outbox_polled VALUES ('r', '1')", "r"),
        ("UPDATE outbox_polled SET below = '2'", "r"),
        ("DELETE FROM outbox_polled", ""),
    ):
        assert [may(guarded.app, statement), may(guarded.relay, statement)] == ["a" in roles, "r" in roles], statement


def test_another_database_is_closed_to_them(guarded: Guarded, fresh_database: Callable[[], str]) -> None:
    """A role of one service does not even connect to the database of another."""
    with guarded_database(fresh_database()) as other:
        for dsn in (guarded.owner, guarded.app, guarded.relay):
            dbname = psycopg.conninfo.conninfo_to_dict(other.app)["dbname"]
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(make_conninfo(dsn, dbname=str(dbname)))


def test_hostile_names_are_quoted(postgres: str) -> None:
    """Names with quotes, backslashes, percent signs and statements in them are names (S6)."""
    hostile = ('o"; DROP TABLE stock; --', "a'; DROP TABLE stock; --\\", "r%s $$ {}")

    with guarded_database(postgres, *hostile) as made:
        assert matrix(made) == dict(MATRIX)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (("", "app", "relay"), "owner: expected a name of 1 to 63 bytes, got ''"),
        (("o", "a" * 64, "relay"), "app: expected a name of 1 to 63 bytes, got 'aaaa"),
        (("o", "a", "r$kompensate$"), "relay: expected a name"),
        (("o", "a", "a"), "roles: expected 3 different ones, got 'o', 'a', 'a'"),
    ],
)
def test_names_that_cannot_be_are_refused(names: tuple[str, str, str], complaint: str) -> None:
    """Instead of being cut off, or ending what they stand in."""
    with pytest.raises(ValueError, match=complaint.replace("$", r"\$")):
        roles_sql(*names)


def test_a_service_keeps_what_house_it_may(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """As the service: old inbox rows go, partitions are left alone, which is said once. As the owner: all of it."""
    caplog.set_level(logging.WARNING)
    old = datetime.now(UTC) - timedelta(days=40)
    with psycopg.connect(guarded.superuser, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(A_DAY)))
        connection.execute(
            "INSERT INTO inbox (consumer, command_id, state, received_at) VALUES ('c', 'old', 'answered', %s)", [old]
        )
    app, owner = connect(guarded.app, "test"), connect(guarded.owner, "test")
    house = Housekeeping(app, Retention(7, 30))

    assert not house.keep()
    assert not house.keep()

    said = [record.message for record in caplog.records if "housekeeping" in record.message]
    assert len(said) == 1
    assert "expected a role that owns outbox, got: permission denied" in said[0]
    with app.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM inbox")).scalar_one() == 0
        assert connection.execute(text(f"SELECT to_regclass('{A_DAY}')")).scalar_one() is None

    Housekeeping(owner, Retention(7, 30)).keep()

    with owner.begin() as connection:
        assert connection.execute(text(f"SELECT to_regclass('{A_DAY}')")).scalar_one() == A_DAY
    for engine in (app, owner):
        engine.dispose()
    assert not may(guarded.app, f"SELECT * FROM {A_DAY}")


def test_a_relay_says_what_its_role_lacks(guarded: Guarded) -> None:
    """One who may not read the outbox is told which rights a relay needs."""
    names = Names("outbox", "kompensate_outbox", "none")
    app = Database(guarded.app, names)

    with pytest.raises(Misconfigured, match=r"It needs SELECT on the outbox, all rights on its checkpoint table"):
        app.checkpoint()

    app.close()


def test_a_relay_that_may_not_add_its_column_says_so(guarded: Guarded) -> None:
    """The note's table of an older version, owned by another role: an error with the statement, and the doctor's."""
    with psycopg.connect(guarded.superuser, autocommit=True) as connection:
        connection.execute("ALTER TABLE outbox_relay DROP COLUMN below")
    names = Names("outbox", "kompensate_outbox", "none")
    with closing(Database(guarded.relay, names)) as database:
        with pytest.raises(Misconfigured, match=r"ALTER TABLE \"outbox_relay\" ADD COLUMN IF NOT EXISTS below"):
            database.make_checkpoints()
        wrong = [one for one in role(database.ask, names, None) if one.level == "wrong"]
    assert [one.remedy for one in wrong] == ["ALTER TABLE outbox_relay ADD COLUMN below xid8"]


PG_HBA = """\
# TYPE  DATABASE     USER          ADDRESS       METHOD
host    replication  shop_relay    all           reject
host    shop         shop_relay    127.0.0.1/32  scram-sha-256
host    all          shop_relay    all           reject
"""


@pytest.fixture
def guarded_server(stack_directory: Path) -> Stack:
    """A PostgreSQL of its own, with the lines of docs/guides/security.md before the others in its pg_hba.conf."""
    stack = Stack(stack_directory, servers=[Postgres()])
    stack.up(["postgres"])
    stack.make_database("shop")
    stack.make_database("other")
    with psycopg.connect(stack.postgres_dsn(), autocommit=True) as connection:
        found = connection.execute("SHOW hba_file").fetchone()
        assert found is not None
        path = Path(found[0])
        path.write_text(PG_HBA + path.read_text())
        connection.execute("SELECT pg_reload_conf()")
    make_tables(stack.postgres_dsn("shop"))
    with psycopg.connect(stack.postgres_dsn("shop"), autocommit=True) as connection:
        connection.execute(roles_sql("shop_owner", "shop", "shop_relay").encode())
        connection.execute("ALTER ROLE shop_relay PASSWORD 'x'")
    return stack


def test_pg_hba_keeps_the_relay_to_its_database(guarded_server: Stack) -> None:
    """The documented lines admit it to its own database, for queries and for its slot, and to nothing else.

    They do not keep it from BASE_BACKUP: PostgreSQL takes that from a logical replication connection too, so
    REPLICATION is the right to read every file of the server, and the guide says so. Where this fails, PostgreSQL has
    changed.
    """
    dsn = as_role(guarded_server.postgres_dsn("shop"), "shop_relay", "x")
    wait_until("the lines hold", lambda: _refused(make_conninfo(dsn, replication="true")))

    assert _refused(make_conninfo(dsn, dbname="other"))
    assert _refused(make_conninfo(dsn, dbname="other", replication="database"))
    with psycopg.connect(make_conninfo(dsn, replication="database"), autocommit=True) as connection:
        assert connection.execute("IDENTIFY_SYSTEM").fetchone() is not None
        connection.pgconn.send_query(b"BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast')")
        answer = connection.pgconn.get_result()
        assert answer is not None
        assert answer.error_message == b""
        connection.pgconn.finish()


def _refused(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError as error:
        return "pg_hba.conf rejects" in str(error)
    return False
