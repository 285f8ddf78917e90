"""A relay at work while somebody changes the database under it: nothing is lost, and what cannot go on says why."""

import secrets
from contextlib import AbstractContextManager
from random import Random
from unittest.mock import patch

import psycopg
import pytest

from kompensate.outbox import database
from kompensate.outbox.errors import Gap, Misconfigured
from kompensate.outbox.main import RelayService
from tests.fixtures.outboxes import RealOutbox, write_numbers
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until


def test_columns_and_partitions_may_change(outbox: RealOutbox) -> None:
    """A column added and a day's partition attached in mid-run change nothing for the records."""
    with outbox.streaming():
        written = write_numbers(outbox, 0, 3)
        outbox.sql("ALTER TABLE outbox ADD COLUMN tenant text DEFAULT 'blue'")
        written += write_numbers(outbox, 3, 3)
        outbox.sql("ALTER TABLE outbox DROP COLUMN tenant")
        with psycopg.connect(outbox.dsn) as connection:
            connection.execute("DROP TABLE outbox_default")
            connection.execute("CREATE TABLE outbox_other PARTITION OF outbox DEFAULT")
        written += write_numbers(outbox, 6, 3)
        outbox.arrived(written)

    assert len(outbox.seen) == 9


def test_a_note_of_an_older_relay_gets_its_column(outbox: RealOutbox) -> None:
    """What was noted stands, and nothing is published again."""
    with outbox.streaming():
        outbox.write([("order-1", b"1")])
        outbox.arrived([b"1"])
    outbox.sql("ALTER TABLE outbox_relay DROP COLUMN below")
    with RelayService(outbox.settings()) as service:
        outbox.write([("order-1", b"2")])
        outbox.arrived([b"2"])
        wait_until("the slot is read", lambda: service.state == "streaming")
        outbox.settle()
    assert len(outbox.seen) == 2
    assert outbox.sql("SELECT below IS NOT NULL FROM outbox_relay") == [(True,)]


def test_a_renamed_outbox_loses_nothing(outbox: RealOutbox) -> None:
    """Its rows go on while the relay runs, and those of a time under another name arrive; a start asks for its name."""
    with outbox.streaming():
        outbox.sql("ALTER TABLE outbox RENAME TO moved")
        outbox.sql(
            "INSERT INTO moved (id, aggregatetype, aggregateid, type, payload, partition)"
            " VALUES (gen_random_uuid(), %s, 'order-1', 'x', '1', 0)",
            outbox.replies,
        )
        outbox.arrived([b"1"])
    outbox.sql(
        "INSERT INTO moved (id, aggregatetype, aggregateid, type, payload, partition)"
        " VALUES (gen_random_uuid(), %s, 'order-1', 'x', '2', 0)",
        outbox.replies,
    )
    with pytest.raises(Misconfigured, match="expected a table outbox, got none"):
        RelayService(outbox.settings()).run()
    outbox.sql("ALTER TABLE moved RENAME TO outbox")
    with RelayService(outbox.settings()):
        outbox.arrived([b"1", b"2"])


def test_rows_of_before_an_upgrade_arrive(outbox: RealOutbox) -> None:
    """What was written before a header's column was there has a null header; the relay may have been down meanwhile."""
    with outbox.streaming():
        pass
    outbox.sql("ALTER TABLE outbox DROP COLUMN ce_sagaattributes")
    outbox.write([("order-1", b"1")])
    outbox.sql("ALTER TABLE outbox ADD COLUMN ce_sagaattributes text")
    outbox.write([("order-1", b"2")])
    with RelayService(outbox.settings()):
        outbox.arrived([b"1", b"2"])
        outbox.settle()

    for record in outbox.records():
        assert dict(record["headers"])["ce_sagaattributes"] is None


def test_a_column_that_no_record_can_do_without_stops_it(outbox: RealOutbox) -> None:
    """Without its payload a row means nothing: it stops, and confirms nothing of it."""
    service = RelayService(outbox.settings())
    service.start()
    wait_until("the relay reads its slot", lambda: service.state == "streaming")
    outbox.sql("ALTER TABLE outbox DROP COLUMN payload")
    outbox.sql(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, partition)"
        " VALUES (gen_random_uuid(), %s, 'order-1', 'x', 0)",
        outbox.replies,
    )
    wait_until("the relay stops", lambda: not service.alive)
    with pytest.raises(Misconfigured, match="got none named payload"):
        service.stop()
    assert outbox.payloads() == []


@pytest.mark.parametrize(
    ("topic", "key", "partition", "reason"),
    [("replies", "k", None, "partition"), (None, "k", 0, "topic"), ("replies", None, 0, "")],
    ids=["no partition", "no topic", "no key"],
)
def test_a_row_that_does_not_say_where_it_goes(
    outbox: RealOutbox, topic: str | None, key: str | None, partition: int | None, reason: str
) -> None:
    """The table refuses it. Where somebody took NOT NULL away it is a dead letter, others go on; a key it may lack."""
    row = (topic and outbox.replies, key, partition)
    insert = (
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, partition)"
        " VALUES (gen_random_uuid(), %s, %s, 'x', '1', %s)"
    )
    with pytest.raises(psycopg.errors.NotNullViolation):
        outbox.sql(insert, *row)
    for column in ("aggregatetype", "aggregateid", "partition"):
        outbox.sql(f"ALTER TABLE outbox ALTER COLUMN {column} DROP NOT NULL")
    with outbox.streaming():
        outbox.sql(insert, *row)
        outbox.write([("order-1", b"2")])
        outbox.arrived([b"2"] if reason else [b"1", b"2"])
        outbox.settle()

    if reason:
        [letter] = ServiceTopics(outbox.bootstrap, outbox.prefix, "shop").dead_letters(1)
        assert letter.value() == b"1"
        assert reason in str(dict(letter.headers() or [])["q_reason"])


MAKE = (
    "CREATE PUBLICATION kompensate_outbox FOR TABLE outbox WITH (publish = 'insert', publish_via_partition_root = true)"
)
CHANGES = {
    "dropped": ("DROP PUBLICATION kompensate_outbox", MAKE),
    "no inserts": tuple(f"ALTER PUBLICATION kompensate_outbox SET (publish = '{w}')" for w in ("update", "insert")),
    "without the table": tuple(f"ALTER PUBLICATION kompensate_outbox {word} TABLE outbox" for word in ("DROP", "ADD")),
    "a filter": tuple(
        f"ALTER PUBLICATION kompensate_outbox SET TABLE outbox {where}" for where in ("WHERE (partition > 9)", "")
    ),
}


def undefended() -> AbstractContextManager[object]:
    """The relay notes its position whatever became of the publication."""
    return patch.object(database, "UNCHANGED", "true")


@pytest.mark.parametrize("stopped", [False, True], ids=["at work", "stopped"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_publication_that_changes_is_a_gap_that_a_resync_closes(
    outbox: RealOutbox, change: str, *, stopped: bool
) -> None:
    """Rows of the time between are not published, and PostgreSQL does not say so: the relay does, and stops."""
    spoil, mend = CHANGES[change]
    service = RelayService(outbox.settings())
    service.start()
    written = write_numbers(outbox, 0, 3)
    outbox.arrived(written)
    outbox.settle()
    if stopped:
        service.stop()
    outbox.sql(spoil)
    written += write_numbers(outbox, 3, 3)
    outbox.sql(mend)
    written += write_numbers(outbox, 6, 3)
    if stopped:
        service = RelayService(outbox.settings())
        service.start()

    wait_until("the relay stops", lambda: not service.alive)
    with pytest.raises(Gap, match="publication kompensate_outbox: expected it unchanged"):
        service.stop()
    with RelayService(outbox.settings(), resync=True):
        outbox.arrived(written)
        outbox.settle()
    with outbox.streaming():  # the resync is the end of it
        written += write_numbers(outbox, 9, 1)
        outbox.arrived(written)
        outbox.settle()


def test_without_that_they_are_lost(outbox: RealOutbox) -> None:
    """The slot moves past rows that nobody was sent."""
    with undefended(), outbox.streaming():
        outbox.arrived(write_numbers(outbox, 0, 3))
        outbox.settle()
        outbox.sql(CHANGES["no inserts"][0])
        write_numbers(outbox, 3, 3)
        outbox.sql(CHANGES["no inserts"][1])
        outbox.arrived(write_numbers(outbox, 6, 3))
        outbox.settle()

    assert set(outbox.payloads()) == {b"0", b"1", b"2", b"6", b"7", b"8"}


def test_a_publication_that_grows_loses_nothing(outbox: RealOutbox) -> None:
    """Another table's rows are no messages, and ours go on; the next start says that it is too wide."""
    with outbox.streaming():
        outbox.arrived(write_numbers(outbox, 0, 3))
        outbox.sql("ALTER PUBLICATION kompensate_outbox ADD TABLE inbox")
        outbox.sql("INSERT INTO inbox (consumer, command_id, state) VALUES ('shop', 'c', 'claimed')")
        outbox.arrived(write_numbers(outbox, 3, 3))
        outbox.settle()
    with pytest.raises(Misconfigured, match=r"and no other, got public\.inbox, public\.outbox"):
        RelayService(outbox.settings()).run()
    assert len(outbox.payloads()) == 6


@pytest.mark.slow
def test_a_slot_dropped_at_random_is_a_gap_that_a_resync_closes(outbox: RealOutbox) -> None:
    """Under load, by somebody who ends the relay's session first: it says so, and no row is missing afterwards."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    random = Random(seed)
    written: list[bytes | None] = []
    with outbox.streaming():
        written += write_numbers(outbox, 0, 20)
        outbox.arrived(written)
        outbox.settle()
    for _ in range(3):
        service = RelayService(outbox.settings())
        service.start()
        wait_until("the slot is read", outbox.reader)
        for _ in range(random.randint(0, 20)):
            written += write_numbers(outbox, len(written), 10)
        with psycopg.connect(outbox.dsn, autocommit=True) as connection:
            connection.execute(
                "DO $$ BEGIN FOR n IN 1..1000 LOOP BEGIN"
                " PERFORM pg_terminate_backend(active_pid, 1000) FROM pg_replication_slots"
                f" WHERE slot_name = '{outbox.slot}' AND active;"
                f" PERFORM pg_drop_replication_slot('{outbox.slot}'); RETURN;"
                " EXCEPTION WHEN object_in_use THEN NULL; END; END LOOP; END $$"
            )
        written += write_numbers(outbox, len(written), 10)
        wait_until("the relay stops", lambda: not service.alive)  # noqa: B023  # waited for at once
        with pytest.raises(Gap, match="got no such slot"):
            service.stop()
        with RelayService(outbox.settings(), resync=True):
            outbox.arrived(written, 60)
            outbox.settle()
    outbox.in_order()
