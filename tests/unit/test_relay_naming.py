"""DSNs and names of slots, as `kompensate relay` and Debezium's configuration read them; the latter's content."""

import json

import pytest
from click.testing import CliRunner

from kompensate.orchestrator.cli.outboxes import outbox_of
from kompensate.orchestrator.cli.relay import relay
from kompensate.outbox.debezium import connector
from kompensate.outbox.errors import refused
from kompensate.outbox.main import RelaySettings
from kompensate.outbox.naming import Names, database_of, slot_name


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        (
            "postgresql://ann:p%40ss@db:5433/shop?sslmode=require",
            {"host": "db", "port": "5433", "user": "ann", "password": "p@ss", "dbname": "shop", "sslmode": "require"},
        ),
        ("postgres://db/shop", {"host": "db", "dbname": "shop"}),
        ("postgresql+psycopg://db/shop", {"host": "db", "dbname": "shop"}),
        ("host=db dbname='my shop'", {"host": "db", "dbname": "my shop"}),
        (
            "postgresql://ann:p%2Css@one:5433,two/shop?target_session_attrs=read-write",
            {"host": "one,two", "port": "5433,", "user": "ann", "password": "p,ss", "dbname": "shop"}
            | {"target_session_attrs": "read-write"},
        ),
        ("postgresql://ann@db", {"host": "db", "user": "ann", "dbname": "ann"}),
    ],
)
def test_a_dsn_is_read_as_libpq_reads_it(dsn: str, expected: dict[str, str]) -> None:
    """Both of libpq's spellings, and SQLAlchemy's."""
    assert database_of(dsn) == expected


@pytest.mark.parametrize("dsn", ["", "shop", "postgresql://db", "postgresql://db:port/shop", "host=db"])
def test_what_names_no_database_is_refused(dsn: str) -> None:
    """The error says what a DSN looks like."""
    with pytest.raises(ValueError, match="expected"):
        database_of(dsn)


def test_the_password_is_not_repeated_in_errors() -> None:
    """A DSN that cannot be read may hold a password."""
    with pytest.raises(ValueError, match="expected") as caught:
        database_of("host=db password=secret dbname")

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inventory=postgresql://db/x", ("inventory", "postgresql://db/x")),
        ("postgresql://db/x?options=a=b", (None, "postgresql://db/x?options=a=b")),
        ("host=db dbname=x", (None, "host=db dbname=x")),
    ],
)
def test_a_service_may_stand_before_its_dsn(text: str, expected: tuple[str | None, str]) -> None:
    """SERVICE=URL is told from libpq's own keyword=value."""
    assert outbox_of(text) == expected


def test_slot_names_are_ones_that_postgresql_takes() -> None:
    """Lower-case letters, digits and _, at most 63 of them, one a database."""
    assert slot_name("My-Shop") == "kompensate_outbox_my_shop"
    assert len(slot_name("x" * 100)) == 63
    assert RelaySettings("postgresql://db/shop", "kafka:9092").names == Names(
        "outbox", "kompensate_outbox", "kompensate_outbox_shop"
    )


def test_dead_letters_are_named_by_the_service() -> None:
    """`<prefix><service>.dead`, the participant's own dead-letter topic; else the database's name stands for it."""
    settings = RelaySettings("postgresql://db/x", "kafka:9092", prefix="test.", service="inventory")

    assert settings.dead_topic == "test.inventory.dead"
    assert RelaySettings("postgresql://db/shop", "kafka:9092").dead_topic == "shop.dead"


def test_the_connector_places_every_column() -> None:
    """Debezium gets our publication, a slot of its own, and one placement for each header and the partition."""
    found = connector("postgresql://ann:secret@db:5433/shop")

    assert found["publication.autocreate.mode"] == "disabled"
    assert found["publication.name"] == "kompensate_outbox"
    assert found["slot.name"] == "kompensate_debezium_shop"
    assert found["slot.failover"] == "true"
    assert found["database.password"] == "secret"
    assert found["transforms.outbox.table.fields.additional.placement"] == (
        "ce_specversion:header:ce_specversion,ce_id:header:ce_id,ce_source:header:ce_source,type:header:ce_type,"
        "content_type:header:content-type,ce_correlationid:header:ce_correlationid,"
        "ce_causationid:header:ce_causationid,ce_replyoutcome:header:ce_replyoutcome,ce_sagatype:header:ce_sagatype,"
        "ce_subject:header:ce_subject,ce_time:header:ce_time,ce_sagaattributes:header:ce_sagaattributes,"
        "traceparent:header:traceparent,tracestate:header:tracestate,"
        "partition:partition"
    )


def test_the_connector_takes_one_host() -> None:
    """libpq's form of several is not for Debezium, and is told so instead of rendered."""
    with pytest.raises(ValueError, match=r"expected the address of one host, got one,two: .*moves with the primary"):
        connector("postgresql://ann:secret@one:5433,two:5433/shop")


def test_the_command_prints_the_configuration_as_json() -> None:
    """`kompensate relay debezium` prints what Kafka Connect's REST interface takes."""
    done = CliRunner().invoke(relay, ["debezium", "--dsn", "inventory=postgresql://db/shop", "--slot", "mine"])

    assert done.exit_code == 0
    assert json.loads(done.stdout)["slot.name"] == "mine"
    assert json.loads(done.stdout)["topic.prefix"] == "inventory"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which database?"),
        (["--dsn", "postgresql://a/a", "--dsn", "postgresql://b/b", "--slot", "x"], "a slot of its own"),
        (["--dsn", "postgresql://a/a", "--dsn", "postgresql://b/a"], "expected one relay a slot"),
        (["--dsn", "nothing"], "expected a PostgreSQL URL"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_connected(arguments: list[str], message: str) -> None:
    """Each mistake on the command line has its own sentence."""
    done = CliRunner().invoke(relay, arguments)

    assert done.exit_code != 0
    assert message in done.output


def test_psycopg_has_what_the_door_relies_on() -> None:
    """The libpq calls behind the replication stream are not announced API: this says when they go."""
    from psycopg import pq

    for name in ("get_copy_data", "put_copy_data", "consume_input", "flush", "get_result", "socket"):
        assert hasattr(pq.PGconn, name)


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ('failed: FATAL:  password authentication failed for user "ann"', True),
        ('failed: FATAL:  database "no" does not exist', True),
        ('failed: FATAL:  role "no" does not exist', True),
        ('failed: FATAL:  role "group" is not permitted to log in', True),
        ('failed: FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "ann", database "shop"', True),
        ("failed: fe_sendauth: no password supplied", True),
        ("failed: Connection refused", False),
        ("failed: FATAL:  the database system is starting up", False),
        ("connection timeout expired", False),
        ('x\n- host: a: FATAL:  role "no" does not exist\n- host: b: failed: Connection refused', False),
        ('x\n- host: a: FATAL:  role "no" does not exist\n- host: b: FATAL:  role "no" does not exist', True),
    ],
)
def test_a_server_that_does_not_want_us_is_told_from_one_that_is_away(text: str, final: bool) -> None:
    """Asking again does not help where role, password or database are wrong; it does where a server is away."""
    assert refused(text) is final
