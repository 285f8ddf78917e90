"""The relay where PostgreSQL fails over to a standby, or comes back from a backup: real servers, killed with -9.

What was committed on the server that takes over has to arrive, whatever the relay had noted on the one that died.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from kompensate.outbox import main as relays
from kompensate.outbox.database import Database
from kompensate.outbox.errors import Gap
from kompensate.outbox.main import RelayService, diagnose
from kompensate.outbox.replication import Slot
from tests.fixtures.outboxes import RealOutbox, write_numbers
from tests.fixtures.pair import DATABASE, STANDBY_SLOT, Node, Pair, base_backup, nodes, pair
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def two(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A primary and its standby; `indirect` False: one that copies no slots."""
    with pair(sync_slots=getattr(request, "param", True)) as made:
        yield made


@pytest.fixture
def shop(two: Pair, kafka: str, topic_prefix: str) -> Iterator[RealOutbox]:
    """The outbox of whichever of the two takes writes."""
    with closing(RealOutbox(two.dsn, kafka, topic_prefix)) as made:
        yield made


def publish(
    outbox: RealOutbox, first: int, count: int, meanwhile: Callable[[], object] = lambda: None
) -> list[bytes | None]:
    """Rows that go out and are noted, by a relay that ends after `meanwhile`; `below` is noted as well."""
    written = []
    with RelayService(outbox.settings()) as service:
        wait_until("the slot is read", lambda: service.state == "streaming")  # else a first start publishes them twice
        for start in range(first, first + count, count // 2):
            # Twice: what was running at one note is known to have ended at the next.
            written += write_numbers(outbox, start, count // 2)
            outbox.arrived(written)
            outbox.settle()
        meanwhile()
    return written


def times(outbox: RealOutbox, payloads: Sequence[bytes | None]) -> set[int]:
    """How often each of `payloads` has arrived: the different counts."""
    found = Counter(outbox.payloads())
    return {found[payload] for payload in payloads}


def in_table(outbox: RealOutbox) -> set[bytes]:
    return {bytes(payload) for (payload,) in outbox.sql("SELECT payload FROM outbox")}


def fails_over(two: Pair, shop: RealOutbox) -> None:
    """What is published, what is not yet, and what comes on the new primary, with a slot that came along."""
    published = publish(shop, 0, 100, lambda: two.synchronised(shop.slot, 30))
    late = write_numbers(shop, 100, 50)
    two.caught_up()
    two.fail_over()
    new = write_numbers(shop, 150, 50)
    assert shop.sql("SELECT synced FROM pg_replication_slots WHERE slot_name = %s", shop.slot) == [(True,)]

    with RelayService(shop.settings()):
        shop.arrived([*published, *late, *new])
    assert times(shop, late + new) == {1}
    shop.in_order()


def test_a_slot_fails_over_with_its_server(two: Pair, shop: RealOutbox) -> None:
    """Its copy on the standby is read on: nothing is missing, and what was not confirmed comes once."""
    fails_over(two, shop)


def test_without_the_flag_no_standby_has_the_slot(two: Pair, shop: RealOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence off: the very same story fails."""
    monkeypatch.setattr(Database, "_failover", "")
    monkeypatch.setattr(relays, "let_fail_over", lambda *_: None)
    with pytest.raises(AssertionError, match="is on the standby"):
        fails_over(two, shop)


def test_a_slot_of_before_is_made_to_fail_over(two: Pair, shop: RealOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was made by an older relay is altered when a relay takes it."""
    with monkeypatch.context() as older:
        older.setattr(Database, "_failover", "")
        publish(shop, 0, 20)
    failover = "SELECT failover FROM pg_replication_slots WHERE slot_name = %s"
    assert shop.sql(failover, shop.slot) == [(False,)]
    publish(shop, 20, 20, lambda: two.synchronised(shop.slot))

    assert shop.sql(failover, shop.slot) == [(True,)]


def test_a_running_relay_follows_its_server(two: Pair, shop: RealOutbox, tmp_path: Path) -> None:
    """As a process with both hosts in its DSN, under load when the primary dies: it finds the new one by itself."""
    log = tmp_path / "relay.log"
    with shop.relay(log=log) as process:
        wait_until("the slot is read", lambda: "reads slot" in log.read_text())
        written = write_numbers(shop, 0, 1_000)
        two.synchronised(shop.slot)
        written += write_numbers(shop, 1_000, 1_000)
        two.fail_over()
        kept = in_table(shop)
        written += write_numbers(shop, 2_000, 200)
        shop.arrived([payload for payload in written if payload in kept] + written[2_000:], 60)

        assert process.poll() is None
    assert "published" not in log.read_text(), log.read_text()
    assert in_table(shop) <= set(shop.payloads())


def loses_its_slot(two: Pair, shop: RealOutbox) -> "tuple[list[bytes | None], list[bytes | None]]":
    """What was noted as published, and what was not: of a server whose standby knows nothing of the slot."""
    published = publish(shop, 0, 100)
    late = write_numbers(shop, 100, 50)
    two.caught_up()
    two.fail_over()
    return published, late + write_numbers(shop, 150, 50)


@pytest.mark.parametrize("two", [False], indirect=True, ids=["no slots copied"])
def test_a_slot_that_is_missing_is_made_and_the_rest_published(two: Pair, shop: RealOutbox) -> None:
    """Nobody is asked: rows since its note go out of the table, older ones do not come again."""
    published, rest = loses_its_slot(two, shop)

    with RelayService(shop.settings()) as service:
        shop.arrived(rest)
        wait_until("the slot is read", lambda: service.state == "streaming")
        written = write_numbers(shop, 200, 50)
        shop.arrived(written)
    assert times(shop, published[:50]) == {1}
    assert in_table(shop) <= set(shop.payloads())
    shop.in_order()


@pytest.mark.parametrize("two", [False], indirect=True, ids=["no slots copied"])
def test_without_a_look_at_the_position_rows_are_lost(
    two: Pair, shop: RealOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defence off: whatever slot there is is read."""
    _, rest = loses_its_slot(two, shop)
    monkeypatch.setattr(relays, "check_slot", lambda *_: None)
    monkeypatch.setattr(relays, "start_from", lambda *_: "stream")

    with RelayService(shop.settings()) as service:
        wait_until("the slot is read", lambda: service.state == "streaming")
        shop.arrived(write_numbers(shop, 200, 50))
    assert not set(rest) & set(shop.payloads())


def runs_long(two: Pair, shop: RealOutbox) -> None:
    """A transaction with a lower number than all that is noted as published, which commits when the relay is gone."""
    publish(shop, 0, 20)  # a slot is not made while a transaction runs
    with psycopg.connect(two.primary.dsn()) as slow:
        slow.execute(
            "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, partition)"
            " SELECT gen_random_uuid(), %s, 'order-7', 'x', '7000', 0",
            [shop.replies],
        )
        publish(shop, 20, 100)
        publish(shop, 120, 100)
        slow.commit()
    two.caught_up()
    two.fail_over()

    with RelayService(shop.settings()):
        shop.arrived([b"7000"])


@pytest.mark.parametrize("two", [False], indirect=True, ids=["no slots copied"])
def test_a_transaction_that_ran_long_is_of_the_rest(two: Pair, shop: RealOutbox) -> None:
    """What ran when the note was made is not taken for published."""
    runs_long(two, shop)


@pytest.mark.parametrize("two", [False], indirect=True, ids=["no slots copied"])
def test_without_a_bound_by_what_runs_it_is_lost(two: Pair, shop: RealOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence off: everything below the newest number is taken for published."""
    note = Database._note

    def newest(self: Database, *arguments: Any) -> tuple[int, int]:
        place, _ = note(self, *arguments)
        [(number,)] = self.ask("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        return place, number

    monkeypatch.setattr(Database, "_note", newest)
    with pytest.raises(AssertionError, match="rows in Kafka"):
        runs_long(two, shop)


def fill(outbox: RealOutbox, end: int) -> None:
    """Have the server's log go on beyond `end`, by what is no row."""
    while outbox.log_end() <= end:
        outbox.sql("SELECT pg_logical_emit_message(true, 'filling', repeat('x', 200000))")


def is_ahead(two: Pair, shop: RealOutbox) -> None:
    """The relay has noted what the standby never got; that is promoted, and its log goes over the same ground."""
    with RelayService(shop.settings()) as service:
        kept = write_numbers(shop, 0, 50)
        shop.arrived(kept)
        two.synchronised(shop.slot)
        two.caught_up()
        two.cut_off()
        lost = write_numbers(shop, 50, 200)
        shop.arrived(lost)
        fill(shop, shop.log_end() + 2_000_000)
        shop.settle()
        noted = shop.confirmed()
        two.fail_over()
        new = write_numbers(shop, 1_000, 10)
        assert shop.log_end() < noted, "the new timeline is beyond what was noted: nothing would be proved"
        wait_until("the new primary's slot is read", lambda: service.state == "streaming" and shop.reader())
        # So that a relay that takes these for published has something that it does not take for it.
        fill(shop, noted)
        new += write_numbers(shop, 2_000, 10)
        shop.arrived(new[-10:], 60)
        shop.arrived(new, 5)
    table = in_table(shop)
    assert not table & set(lost), "the standby had them after all"
    assert table <= set(shop.payloads())
    shop.in_order()


def test_positions_noted_on_a_server_that_died_hold_nothing_back(two: Pair, shop: RealOutbox) -> None:
    """A reader ahead of its standby: rows whose positions lie below what it had noted are published."""
    is_ahead(two, shop)


def test_a_relay_that_kept_its_position_elsewhere_would_pass_rows_over(
    two: Pair, shop: RealOutbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defence off: a note that did not go back with its database, here in the process, and believed."""
    noted: list[int] = [0]
    confirm = Slot.confirm

    def remember(self: Slot, lsn: int) -> None:
        confirm(self, lsn)
        noted.append(lsn)

    def start(self: Slot, names: Any) -> None:
        at = f"{max(noted) >> 32:X}/{max(noted) & 0xFFFFFFFF:X}"
        self._connection.execute(
            sql.SQL(
                f"START_REPLICATION SLOT {{}} LOGICAL {at} (proto_version '1', publication_names {{}}, binary 'true')"
            ).format(sql.Identifier(names.slot), sql.Literal(f'"{names.publication}"'))
        )

    monkeypatch.setattr(Slot, "confirm", remember)
    monkeypatch.setattr(Slot, "_start", start)
    with pytest.raises(AssertionError, match="rows in Kafka"):
        is_ahead(two, shop)


def test_a_relay_waits_for_the_standbys_it_is_told_of(two: Pair, shop: RealOutbox) -> None:
    """synchronized_standby_slots: nothing is published that the standby lacks, so nothing published is lost with it."""
    two.primary.set("synchronized_standby_slots", STANDBY_SLOT)
    with RelayService(shop.settings()):
        kept = write_numbers(shop, 0, 50)
        shop.arrived(kept)
        two.synchronised(shop.slot)
        two.cut_off()
        lost = write_numbers(shop, 50, 50)
        wait_until(
            "the server holds the relay back",
            lambda: shop.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'WaitForStandbyConfirmation'"),
        )
        two.fail_over()
        new = write_numbers(shop, 100, 50)
        shop.arrived(new, 60)
    assert not set(lost) & set(shop.payloads())
    assert in_table(shop) <= set(shop.payloads())


def test_a_standby_is_waited_for(two: Pair, shop: RealOutbox) -> None:
    """A DSN that leads to a server that is not promoted yet, as a moving address does, halts nothing."""
    written = write_numbers(shop, 0, 10)
    two.caught_up()
    with RelayService(shop.settings(dsn=two.standby.dsn())) as service:
        wait_until("it has seen the standby", lambda: service._retries > 1)
        two.fail_over()
        shop.arrived(written, 60)


@pytest.fixture
def three() -> Iterator[list[Node]]:
    """Folders for servers; one runs, with the database."""
    with nodes() as made:
        made[0].start()
        made[0].sql(f"CREATE DATABASE {DATABASE}", database="postgres")
        yield made


def restored(three: list[Node], outbox: RealOutbox, *, recover: bool) -> None:
    """Back to a base backup that has rows which no relay had sent, and lacks later ones which were sent since."""
    running, backup, _ = three
    publish(outbox, 0, 100)
    write_numbers(outbox, 100, 20)
    base_backup(backup, running, "-X", "stream")
    with RelayService(outbox.settings()):
        outbox.arrived(write_numbers(outbox, 200, 100))
        outbox.settle()
    running.kill()
    backup.port = running.port
    if recover:
        (backup.data / "recovery.signal").touch()
        backup.start(restore_command="/bin/false", recovery_target_timeline="current")
        wait_until("recovery has ended", lambda: backup.sql("SELECT pg_is_in_recovery()") == [(False,)], 60)
    else:
        backup.start()


@pytest.fixture
def alone(three: list[Node], kafka: str, topic_prefix: str) -> Iterator[RealOutbox]:
    dsn = f"postgresql://postgres:pair@127.0.0.1:{three[0].port}/{DATABASE}"
    with closing(RealOutbox(dsn, kafka, topic_prefix)) as made:
        yield made


def all_arrives(outbox: RealOutbox) -> None:
    new = write_numbers(outbox, 1_000, 20)
    outbox.arrived(new)
    table = in_table(outbox)
    assert len(table) == 140, "the restored database is not what the story is about"
    assert table <= set(outbox.payloads())


def test_recovered_to_a_point_in_time_nothing_is_left_unpublished(three: list[Node], alone: RealOutbox) -> None:
    """Recovery begins a new timeline, so that nobody has to be asked."""
    restored(three, alone, recover=True)
    # What was sent since the backup was taken is not told apart from what was not: read as if nothing were in Kafka.
    alone.seen.clear()
    with RelayService(alone.settings()):
        new = write_numbers(alone, 1_000, 20)
        alone.arrived([*(b"%d" % n for n in range(100, 120)), *new])


def test_a_backup_started_as_it_is_is_a_gap_that_a_resync_closes(three: list[Node], alone: RealOutbox) -> None:
    """On the same timeline nothing tells a restored server from one whose slot somebody dropped: a person has to."""
    restored(three, alone, recover=False)
    alone.seen.clear()
    with pytest.raises(Gap, match="got no such slot"):
        RelayService(alone.settings()).run()
    with RelayService(alone.settings(), resync=True):
        all_arrives(alone)


def findings(outbox: RealOutbox) -> dict[str, tuple[str, str]]:
    """The doctor's levels, and what it got, of what concerns failing over."""
    found = diagnose(outbox.settings())
    return {one.check: (one.level, one.got) for one in found if one.check in ("slot.failover", "slot.standbys")}


def test_the_doctor_knows_of_the_standby(two: Pair, shop: RealOutbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that does not fail over, one that may run ahead, one that waits, and one that waits for nobody."""
    assert findings(shop) == {}
    with monkeypatch.context() as older:
        older.setattr(Database, "_failover", "")
        publish(shop, 0, 2)
    level, got = findings(shop)["slot.failover"]
    assert level == "advice"
    assert "a promoted standby will lack" in got

    publish(shop, 2, 2)
    found = findings(shop)
    assert found["slot.failover"][0] == "ok"
    assert found["slot.standbys"][0] == "advice"
    assert found["slot.standbys"][1].startswith("none: a standby may be promoted that lacks transactions")

    two.primary.set("synchronized_standby_slots", STANDBY_SLOT)
    assert findings(shop)["slot.standbys"][0] == "ok"
    two.cut_off()
    assert findings(shop)["slot.standbys"] == (
        "wrong",
        f"none at {STANDBY_SLOT}: the relay is given no rows until there is",
    )


def test_a_standby_that_nobody_knows_is_waited_for_too(three: list[Node], alone: RealOutbox) -> None:
    """A new primary whose configuration names the slot of its former self: no row goes out, and the doctor says why."""
    publish(alone, 0, 2)
    three[0].kill()
    three[0].start(synchronized_standby_slots="gone")
    with RelayService(alone.settings()):
        write_numbers(alone, 2, 2)
        wait_until(
            "the server holds the relay back",
            lambda: alone.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'WaitForStandbyConfirmation'"),
        )
        assert findings(alone)["slot.standbys"] == (
            "wrong",
            "none at gone: the relay is given no rows until there is",
        )
