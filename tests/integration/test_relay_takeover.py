"""Two relays of one outbox, and an active one that dies, is paused, or wakes when another has its slot."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kompensate.outbox.database import Database
from kompensate.outbox.errors import Disconnected
from kompensate.outbox.main import RelayService
from kompensate.outbox.replication import Slot
from tests.fixtures.outboxes import RealOutbox, headers_of, write_numbers
from tests.fixtures.waiting import wait_until

TAKEOVER_SECONDS = 5.0


def takes_over(second: RelayService, act: Callable[[], object]) -> float:
    """Seconds from `act` until the relay that stands by reads the slot."""
    began = time.monotonic()
    act()
    wait_until("the second reads", lambda: second.state == "streaming", 30)
    return time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_standby_takes_over_within_five_seconds(outbox: RealOutbox, tmp_path: Path, end: signal.Signals) -> None:
    """Under load, with the server's socket to a paused reader full: no row is missing, and keys keep their order."""
    log = tmp_path / "first.log"
    with outbox.relay(log=log) as first:
        wait_until("the first reads", lambda: "reads slot" in log.read_text())
        with RelayService(outbox.settings()) as second:
            wait_until("the second stands by", lambda: second.state == "standby")
            written = write_numbers(outbox, 0, 1_000)

            def act() -> None:
                nonlocal written
                first.send_signal(end)
                written += write_numbers(outbox, 1_000, 50)
                outbox.write([("filling", b"0" * 200_000)] * 30, topic=outbox.dead, partition=0)

            took = takes_over(second, act)
            written += write_numbers(outbox, len(written), 50)
            outbox.arrived(written)

    assert took < TAKEOVER_SECONDS, f"{took:.2f} s"
    outbox.in_order()


@pytest.mark.slow
def test_a_paused_relay_does_no_harm_when_it_wakes(outbox: RealOutbox, tmp_path: Path) -> None:
    """It sees that the slot is another's and stands by; all that it may have sent is what was sent before."""
    log = tmp_path / "first.log"
    with outbox.relay(log=log) as first:
        wait_until("the first reads", lambda: "reads slot" in log.read_text())
        with RelayService(outbox.settings()) as second:
            wait_until("the second stands by", lambda: second.state == "standby")
            written = write_numbers(outbox, 0, 2_000)
            takes_over(second, lambda: first.send_signal(signal.SIGSTOP))
            written += write_numbers(outbox, len(written), 20)
            outbox.arrived(written)
            first.send_signal(signal.SIGCONT)
            wait_until("the first stands by", lambda: "standing by" in log.read_text())
            written += write_numbers(outbox, len(written), 20)
            outbox.arrived(written)
            assert second.state == "streaming"

    outbox.in_order()
    first_of: dict[bytes | None, dict[str, bytes | None]] = {}
    for message in outbox.seen:
        headers = dict(headers_of(message))
        assert first_of.setdefault(message.value(), headers) == headers


def test_who_lost_the_slot_notes_nothing(outbox: RealOutbox) -> None:
    """A relay that was in the middle of confirming when it fell asleep: its note would stand over the other's."""
    settings = outbox.settings()
    with outbox.streaming():
        pass
    database = Database(settings.dsn, settings.names)
    try:
        sleeper = Slot(settings.dsn, settings.names, database)
        outbox.sql("SELECT pg_terminate_backend(%s)", sleeper.holder.pid)
        wait_until("the slot is free", lambda: outbox.reader() is None)
        other = Slot(settings.dsn, settings.names, database)
        other.forget()
        with pytest.raises(Disconnected, match="taken over: 0/FF is not noted"):
            database.note(sleeper.holder, 255)
        noted = database.checkpoint()
        assert noted is not None
        assert noted.lsn == 0
        database.note(other.holder, 255)
        sleeper.close()
        other.close()
    finally:
        database.close()
