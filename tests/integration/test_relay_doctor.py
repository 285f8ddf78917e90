"""`kompensate relay doctor`: everything wrong with a set-up in one list, each with what to do."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from click.testing import CliRunner

from kompensate.orchestrator.cli.relay import relay
from kompensate.outbox.main import RelayService, diagnose
from kompensate.outbox.setup import Finding
from tests.fixtures.outboxes import RealOutbox
from tests.fixtures.waiting import wait_until


def problems(outbox: RealOutbox, **changed: object) -> dict[str, Finding]:
    """By check, what the doctor finds that is not as it should be; other slots of these servers left out."""
    found = diagnose(outbox.settings(**changed))
    return {one.check: one for one in found if one.level != "ok" and one.check != "slots.stray"}


def test_a_relay_at_work_has_nothing_to_mend(outbox: RealOutbox) -> None:
    """Every check is there and says ok, once rows flow; looking changes nothing."""
    with outbox.streaming():
        outbox.write([("order-1", b"1")])
        outbox.arrived([b"1"])
        assert problems(outbox) == {}


def test_before_the_first_start_nothing_is_made(outbox: RealOutbox) -> None:
    """Neither slot nor checkpoint table: the doctor says what is missing and leaves it to the relay."""
    assert problems(outbox).keys() == {"slot"}
    assert outbox.sql("SELECT to_regclass('outbox_relay'), count(*) FROM pg_replication_slots WHERE slot_name = %s",
                      outbox.slot) == [(None, 0)]  # fmt: skip


WRONG: list[tuple[str, str, str, str]] = [
    ("publication", "DROP PUBLICATION kompensate_outbox", "none", "CREATE PUBLICATION kompensate_outbox FOR TABLE"),
    ("publication", "ALTER PUBLICATION kompensate_outbox ADD TABLE inbox", "public.inbox", "DROP PUBLICATION"),
    (
        "publication",
        "ALTER PUBLICATION kompensate_outbox SET TABLE outbox (id, aggregatetype)",
        "a list without aggregateid, partition, payload, ce_specversion",
        "DROP PUBLICATION",
    ),
    ("table", "ALTER TABLE outbox RENAME TO o", "none", "run kompensate/outbox/schema.sql"),
    ("table.columns", "ALTER TABLE outbox DROP COLUMN ce_subject", "none named ce_subject", "add them"),
    ("table.not_null", "ALTER TABLE outbox ALTER aggregateid DROP NOT NULL", "NULL allowed in aggregateid", "SET NOT"),
    ("table.updates", "DROP TRIGGER outbox_insert_only ON outbox", "none: an UPDATE is no message", "schema.sql again"),
    (
        "table.partitions",
        (
            "DO $$ DECLARE t text; BEGIN FOR t IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent ="
            " 'outbox'::regclass AND inhrelid::regclass::text <> 'outbox_default' LOOP EXECUTE 'DROP TABLE ' || t;"
            " END LOOP; END $$"
        ),
        "no outbox_2",
        "ensure_partitions()",
    ),
    (
        "table.default",
        (
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, partition, created_at)"
            " SELECT gen_random_uuid(), replace(current_database(), '_', ''), 'k', 'x', 0, '2001-01-01'"
        ),
        "rows of days that nobody prepared",
        "delete those",
    ),
    (
        "kafka.topic",
        (
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, partition)"
            " SELECT gen_random_uuid(), 'nowhere', 'k', 'x', 2"
        ),
        "no such topic",
        "kompensate topics apply",
    ),
]


@pytest.mark.parametrize(
    ("check", "break_it", "got", "remedy"), WRONG, ids=[f"{w[0]} {n}" for n, w in enumerate(WRONG)]
)
def test_what_is_wrong_is_found(outbox: RealOutbox, check: str, break_it: str, got: str, remedy: str) -> None:
    """Each with what was found and what to do."""
    outbox.sql(break_it)
    found = problems(outbox)[check]

    assert got in found.got
    assert remedy in found.remedy


def test_a_topic_with_too_few_partitions_is_found(outbox: RealOutbox) -> None:
    """A row for partition 7 of a topic that has three."""
    outbox.write([("order-1", b"1")], partition=7)

    found = problems(outbox)["kafka.topic"]
    assert (found.expected, found.got) == ("at least 8 partitions", "3 partitions")


def test_a_slot_gone_behind_the_relays_back_is_found(outbox: RealOutbox) -> None:
    """Dropped, made again further on, and not read: three findings, each its own."""
    with outbox.streaming():
        outbox.write([("order-1", b"1")])
        outbox.arrived([b"1"])
    assert "not read" in problems(outbox)["slot.lag"].got
    outbox.sql("SELECT pg_drop_replication_slot(%s)", outbox.slot)
    assert problems(outbox)["slot"].got == "none, though a relay read it before"
    outbox.sql("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", outbox.slot)
    assert "--resync" in problems(outbox)["slot.position"].remedy


def test_stray_slots_are_named_with_what_they_keep(outbox: RealOutbox) -> None:
    """A slot of nobody's keeps the log of the whole server."""
    stray = f"stray_{outbox.prefix.strip('.')}"
    outbox.sql("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", stray)

    [found] = [one for one in diagnose(outbox.settings()) if one.check == "slots.stray" and stray in one.subject]
    assert f"pg_drop_replication_slot('{stray}')" in found.remedy
    assert "of log kept for it" in found.got


@contextmanager
def a_role(outbox: RealOutbox, *grants: str) -> Iterator[str]:
    """DSN of a role with these rights, which is gone afterwards."""
    role = f"r{outbox.prefix.strip('.')}"
    outbox.sql(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
    try:
        for grant in grants:
            outbox.sql(f"GRANT {grant} TO {role}")
        yield psycopg.conninfo.make_conninfo(outbox.dsn, user=role, password="p")
    finally:
        outbox.sql(f"DROP OWNED BY {role}")
        outbox.sql(f"DROP ROLE {role}")


def test_a_role_without_its_rights_is_told_each_of_them(outbox: RealOutbox) -> None:
    """Replication, SELECT and the checkpoint table, all at once."""
    with a_role(outbox) as dsn:
        found = problems(outbox, dsn=dsn, slot=outbox.slot)

    assert {"role.replication", "role.select", "role.checkpoint"} <= found.keys()
    assert "GRANT SELECT ON outbox TO" in found["role.select"].remedy
    assert "REPLICATION" in found["role.replication"].got


def test_servers_that_do_not_answer_are_findings(outbox: RealOutbox) -> None:
    """A database that is not there and a Kafka that is not there are told together."""
    found = problems(outbox, dsn=psycopg.conninfo.make_conninfo(outbox.dsn, dbname="no_such"), bootstrap="127.0.0.1:1")

    assert found.keys() == {"server", "kafka"}
    assert 'database "no_such" does not exist' in found["server"].got


def test_updates_of_outbox_rows_are_refused(outbox: RealOutbox) -> None:
    """An UPDATE would be passed over by every relay: the table says so, in partitions that come later as well."""
    outbox.write([("order-1", b"1")])
    outbox.sql("CREATE TABLE late PARTITION OF outbox FOR VALUES FROM ('2001-01-01') TO ('2001-01-02')")
    outbox.sql("INSERT INTO outbox (id, aggregatetype, aggregateid, type, partition, created_at)"
               " VALUES (gen_random_uuid(), 't', 'k', 'x', 0, '2001-01-01')")  # fmt: skip
    for table in ("outbox", "late"):
        with pytest.raises(psycopg.errors.RestrictViolation, match="got an UPDATE, which is no message"):
            outbox.sql(f"UPDATE {table} SET payload = 'x'")
    outbox.sql("DELETE FROM outbox")


def test_the_command_exits_by_what_it_found(outbox: RealOutbox, fresh_database: Callable[[], str]) -> None:
    """0 where there is only advice, 1 where something is wrong; JSON for programs, a table for people."""
    arguments = ["doctor", "--bootstrap", outbox.bootstrap, "--prefix", outbox.prefix]
    outbox.write([("order-1", b"1")])
    good = CliRunner().invoke(relay, [*arguments, "--dsn", f"shop={outbox.dsn}", "-o", "json"])
    bad = CliRunner().invoke(relay, [*arguments, "--dsn", f"shop={fresh_database()}"])

    # Other tests' slots may keep the log of these servers.
    wrong = {one["check"] for one in json.loads(good.stdout) if one["level"] == "wrong"}
    assert wrong <= {"slots.stray"}
    assert good.exit_code == len(wrong), good.output
    assert bad.exit_code == 1
    assert "mend: run kompensate/outbox/schema.sql in it" in bad.stdout


@pytest.mark.slow
def test_a_busy_slot_is_no_reason_to_worry(outbox: RealOutbox) -> None:
    """With the slot held by a relay the doctor asks beside it, and holds nobody up."""
    with RelayService(outbox.settings()) as service:
        wait_until("the slot is read", lambda: service.state == "streaming")
        before = outbox.reader()
        assert "slot.lag" not in problems(outbox)
        assert outbox.reader() == before
