"""The relay between a real PostgreSQL and a real Kafka: rows in, records out, and every way to be set up wrongly."""

import time
from collections.abc import Callable

import psycopg
import pytest

from kompensate.outbox.errors import Gap, Halted, Misconfigured
from kompensate.outbox.main import RelayService
from tests.fixtures.outboxes import RealOutbox
from tests.fixtures.waiting import wait_until


def numbered(first: int, count: int, key: str = "order") -> list[tuple[str, bytes | None]]:
    return [(f"{key}-{n % 7}", b"%d" % n) for n in range(first, first + count)]


def payloads(first: int, count: int) -> list[bytes | None]:
    return [payload for _, payload in numbered(first, count)]


def test_a_first_publication_cut_short_begins_anew(outbox: RealOutbox) -> None:
    """Stopped while Kafka is away, with the table half read, the relay leaves at once; the next one sends all."""
    for first in range(0, 5_000, 1_000):
        outbox.write(numbered(first, 1_000))
    nowhere = outbox.settings(bootstrap="127.0.0.1:1", kafka={"queue.buffering.max.messages": 10})
    with RelayService(nowhere) as service:
        wait_until("publishing", lambda: service.state == "publishing")
        started = time.monotonic()
    assert time.monotonic() - started < 30, "it waited for a broker that is not there"
    assert outbox.payloads() == []

    with RelayService(outbox.settings()):
        outbox.arrived(payloads(0, 5_000))
    outbox.in_order()


@pytest.mark.parametrize("where", ["another table", "another database"])
def test_an_idle_outbox_beside_busy_tables_lets_the_log_go(
    outbox: RealOutbox, fresh_database: Callable[[], str], where: str
) -> None:
    """What others write does not pin the server's log: the slot moves on though no row is written."""
    with RelayService(outbox.settings()):
        wait_until("the slot is read", outbox.reader)
        with psycopg.connect(outbox.dsn if where == "another table" else fresh_database()) as busy:
            busy.execute("CREATE TABLE stock AS SELECT n FROM generate_series(1, 20000) n")
        end = outbox.log_end()
        wait_until("the slot moves on", lambda: outbox.confirmed() >= end)

    assert outbox.payloads() == []


def test_a_cut_connection_is_made_again(outbox: RealOutbox) -> None:
    """A walsender that the server ends is replaced, and nothing is missing."""
    with RelayService(outbox.settings()) as service:
        outbox.write(numbered(0, 5))
        outbox.arrived(payloads(0, 5))
        before = outbox.reader()
        outbox.sql("SELECT pg_terminate_backend(%s)", before)
        outbox.write(numbered(5, 5))
        outbox.arrived(payloads(5, 5))

        assert outbox.reader() not in (None, before)
        assert service.failure is None


def halted(outbox: RealOutbox, **changed: object) -> Halted:
    """What a relay with these settings stops with."""
    with pytest.raises(Halted) as caught:
        RelayService(outbox.settings(**changed)).run()
    return caught.value


def test_a_dropped_slot_is_a_gap_that_a_resync_closes(outbox: RealOutbox) -> None:
    """Without the slot the relay refuses to pass over what was committed meanwhile; a resync publishes all of it."""
    with RelayService(outbox.settings()):
        outbox.write(numbered(0, 10))
        outbox.arrived(payloads(0, 10))
    outbox.sql("SELECT pg_drop_replication_slot(%s)", outbox.slot)
    outbox.write(numbered(10, 10))

    error = halted(outbox)
    assert isinstance(error, Gap)
    assert "got no such slot" in str(error)
    with RelayService(outbox.settings(), resync=True):
        outbox.arrived(payloads(0, 20))
        outbox.write(numbered(20, 10))
        outbox.arrived(payloads(20, 10))
    with outbox.streaming():  # without --resync
        outbox.in_order()


@pytest.mark.parametrize(
    "tamper",
    [
        "SELECT pg_drop_replication_slot(s), pg_create_logical_replication_slot(s, 'pgoutput') FROM (SELECT %s) x(s)",
        "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())",
    ],
    ids=["made again", "advanced"],
)
def test_a_slot_further_on_than_it_was_left_is_a_gap(outbox: RealOutbox, tamper: str) -> None:
    """A slot that was made again or advanced by hand is found at the start, and the rows are still there."""
    with RelayService(outbox.settings()):
        outbox.write(numbered(0, 5))
        outbox.arrived(payloads(0, 5))
    outbox.write(numbered(5, 5))
    outbox.sql(tamper, outbox.slot)

    error = halted(outbox)
    assert isinstance(error, Gap)
    assert "expected at or before" in str(error)
    with RelayService(outbox.settings(), resync=True):
        outbox.arrived(payloads(0, 10))


WRONG: list[tuple[str, Callable[[RealOutbox], object], dict[str, object], str]] = [
    ("no publication", lambda o: o.sql("DROP PUBLICATION kompensate_outbox"), {}, "CREATE PUBLICATION kompensate_outb"),
    (
        "updates published",
        lambda o: o.sql("ALTER PUBLICATION kompensate_outbox SET (publish = 'insert, update')"),
        {},
        "got 'insert, update' via the root: ALTER PUBLICATION",
    ),
    (
        "not via the root",
        lambda o: o.sql("ALTER PUBLICATION kompensate_outbox SET (publish_via_partition_root = false)"),
        {},
        "not via the root: ALTER PUBLICATION",
    ),
    (
        "another table",
        lambda o: o.sql("ALTER PUBLICATION kompensate_outbox ADD TABLE inbox"),
        {},
        "expected table outbox and no other, got public.inbox, public.outbox",
    ),
    (
        "a row filter",
        lambda o: o.sql("ALTER PUBLICATION kompensate_outbox SET TABLE outbox WHERE (partition > 0)"),
        {},
        "expected every row of outbox, got the filter",
    ),
    ("no table", lambda o: o.sql("ALTER TABLE outbox RENAME TO o"), {}, "expected a table outbox, got none"),
    ("no column", lambda o: o.sql("ALTER TABLE outbox DROP COLUMN ce_subject"), {}, "got none named ce_subject"),
    (
        "another type",
        lambda o: o.sql("ALTER TABLE outbox ALTER payload TYPE jsonb USING NULL"),
        {},
        "column payload: expected type bytea",
    ),
    (
        "another plugin",
        lambda o: o.sql("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", o.slot),
        {},
        "expected plugin pgoutput on database",
    ),
    ("Kafka option", lambda o: None, {"kafka": {"acks": "1"}}, "Kafka option acks: expected all"),
    ("unknown Kafka option", lambda o: None, {"kafka": {"no.such": "1"}}, 'No such configuration property: "no.such"'),
]


@pytest.mark.parametrize(("break_it", "changed", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_a_wrong_setup_is_named_with_its_remedy(
    outbox: RealOutbox, break_it: Callable[[RealOutbox], object], changed: dict[str, object], message: str
) -> None:
    """The relay stops with what it expected, what it found and what to do."""
    break_it(outbox)
    error = halted(outbox, **changed)

    assert isinstance(error, Misconfigured)
    assert message in str(error)


@pytest.mark.parametrize("wrong", [{"password": "no"}, {"user": "nobody", "password": "no"}, {"dbname": "no_such"}])
def test_a_server_that_does_not_want_it_stops_the_relay(outbox: RealOutbox, wrong: dict[str, str]) -> None:
    """A wrong password, role or database is said at once: asking again would not help."""
    error = halted(outbox, slot="kompensate_no", dsn=psycopg.conninfo.make_conninfo(outbox.dsn, **wrong))

    assert isinstance(error, Misconfigured)
    assert "expected a role, password and database that the server takes, got: " in str(error)
    assert "FATAL: " in str(error)


def test_a_server_without_logical_wal_is_named(outbox: RealOutbox) -> None:
    """wal_level other than logical: what to set. A function stands in front of the server's own answer here."""
    outbox.sql("CREATE FUNCTION current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT 'replica' $$")
    error = halted(outbox, dsn=f"{outbox.dsn}?options=-csearch_path%3Dpublic,pg_catalog")

    assert isinstance(error, Misconfigured)
    assert "expected wal_level 'logical', got 'replica': ALTER SYSTEM SET wal_level = logical" in str(error)


def test_a_role_without_replication_is_named(outbox: RealOutbox) -> None:
    """A role that may read the tables but has no REPLICATION attribute gets told so."""
    role = f"r{outbox.prefix.strip('.')}"
    outbox.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    try:
        outbox.sql(f"GRANT ALL ON SCHEMA public TO {role}")
        outbox.sql(f"GRANT SELECT ON outbox TO {role}")
        outbox.sql("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", outbox.slot)
        error = halted(outbox, dsn=psycopg.conninfo.make_conninfo(outbox.dsn, user=role, password="p"))
    finally:
        outbox.sql(f"DROP OWNED BY {role}")
        outbox.sql(f"DROP ROLE {role}")

    assert isinstance(error, Misconfigured)
    assert "REPLICATION" in str(error)


def test_the_tables_may_stand_in_a_schema_of_their_own(kafka: str, postgres: str, topic_prefix: str) -> None:
    """Beside a table `outbox` of somebody else's: the connection's search path says which is ours."""
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE TABLE outbox (n int)")
        connection.execute("CREATE SCHEMA kompensate")
    ours = RealOutbox(f"{postgres}?options=-csearch_path%3Dkompensate,public", kafka, topic_prefix)
    try:
        with ours.streaming():
            ours.write(numbered(0, 5))
            ours.sql("INSERT INTO public.outbox VALUES (1)")
            ours.arrived(payloads(0, 5))
        assert ours.sql("SELECT count(*) FROM kompensate.outbox") == [(5,)]
        assert len(ours.seen) == 5
    finally:
        ours.close()
