"""sslmode=verify-full against a real PostgreSQL behind TLS: relays, their slots and participants, whom they believe."""

import logging
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy.exc import OperationalError

from kompensate.outbox.main import RelayService
from kompensate.participants import Participant
from kompensate.participants.main import Service
from tests.fixtures.certificates import Authority
from tests.fixtures.outboxes import RealOutbox
from tests.fixtures.tls_proxy import TlsProxy
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.stack]

AUTHORITY = "certificate verify failed.*: expected a certificate of the authority in sslrootcert that has not expired"
REFUSALS = {
    "wrong authority": AUTHORITY,
    "wrong name": 'does not match host name "localhost"',
    "expired": AUTHORITY,
    "no TLS": "server does not support SSL, but SSL was required",
}


class Guarded:
    """A server at 127.0.0.1 with a certificate for that, and a client that trusts its authority."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.authority, self.stranger = Authority(folder, "authority"), Authority(folder, "stranger")
        self.good = self.authority.sign("postgres", address="127.0.0.1")
        self.expired = self.authority.sign("postgres", address="127.0.0.1", expired=True)
        self._dsn = dsn
        parts = conninfo_to_dict(dsn)
        self.proxy = TlsProxy((str(parts["host"]), int(str(parts["port"]))), self.good)

    def dsn(self, **changed: str) -> str:
        given = {"host": "127.0.0.1", "sslmode": "verify-full", "sslrootcert": str(self.authority.path), **changed}
        return make_conninfo(self._dsn, port=self.proxy.port, **given)

    def spoilt(self, case: str) -> str:
        """The server is like that, or a DSN that makes it so."""
        if case == "wrong authority":
            return self.dsn(sslrootcert=str(self.stranger.path))
        if case == "wrong name":
            return self.dsn(host="localhost")
        self.proxy.certificate = {"expired": self.expired, "no TLS": None}[case]
        return self.dsn()


@pytest.fixture
def guarded(tmp_path: Path, postgres: str) -> Iterator[Guarded]:
    made = Guarded(tmp_path, postgres)
    with made.proxy.listening():
        yield made


def test_a_relay_reads_its_slot_through_tls(outbox: RealOutbox, guarded: Guarded) -> None:
    """All of its connections, the slot's among them, are encrypted, and rows flow."""
    with RelayService(outbox.settings(dsn=guarded.dsn())) as service:
        wait_until("the relay reads its slot", lambda: service.state == "streaming")
        outbox.write([("order-1", b"1")])
        outbox.arrived([b"1"])
        asked = (
            "SELECT backend_type FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert sorted(outbox.sql(asked)) == [("client backend",), ("walsender",)]
        assert guarded.proxy.encrypted >= 2


def test_a_relay_does_not_go_on_with_another_server(
    outbox: RealOutbox, guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    """While somebody else answers at the address nothing is read, which is said; then it goes on where it was."""
    with RelayService(outbox.settings(dsn=guarded.dsn())) as service:
        wait_until("the relay reads its slot", lambda: service.state == "streaming")
        guarded.proxy.certificate = guarded.stranger.sign("other", address="127.0.0.1")
        guarded.proxy.cut()
        outbox.write([("order-1", b"1")])
        wait_until("it says so", lambda: "expected a certificate of the authority" in caplog.text)
        assert outbox.payloads() == []

        guarded.proxy.certificate = guarded.good
        outbox.arrived([b"1"])


@pytest.mark.parametrize("case", REFUSALS)
def test_a_relay_is_told_whom_it_does_not_believe(
    outbox: RealOutbox, guarded: Guarded, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It reads nothing, keeps asking, and its log says what was expected."""
    caplog.set_level(logging.WARNING)
    outbox.write([("order-1", b"1")])

    with RelayService(outbox.settings(dsn=guarded.spoilt(case))) as service:
        pattern = pytest.raises(AssertionError, match=REFUSALS[case])
        wait_until("it says so", lambda: pattern.matches(AssertionError(caplog.text.replace("\n", " "))))
        assert service.state != "streaming"

    assert outbox.payloads() == []


def test_a_participant_through_tls(guarded: Guarded, outbox: RealOutbox, kafka: str, topic_prefix: str) -> None:
    """It starts: its database is the one that its DSN names."""
    topics = ServiceTopics(kafka, topic_prefix)
    outbox.make_topics(topics.commands, topics.dead)
    with Service(stock, guarded.dsn(), kafka, prefix=topic_prefix) as service:
        assert service.alive

    assert guarded.proxy.encrypted >= 1


@pytest.mark.parametrize("spelling", ["libpq", "url"])
@pytest.mark.parametrize("case", REFUSALS)
def test_a_participant_does_not_start_with_another_server(
    guarded: Guarded, outbox: RealOutbox, kafka: str, topic_prefix: str, case: str, spelling: str
) -> None:
    """It takes no command, and the error says what was expected."""
    dsn = guarded.spoilt(case)
    service = Service(stock, dsn if spelling == "libpq" else as_url(dsn), kafka, prefix=topic_prefix)

    with pytest.raises(OperationalError, match=REFUSALS[case]):
        service.start()

    assert guarded.proxy.encrypted == 0


@pytest.mark.parametrize("case", ["wrong name", "expired"])
def test_require_believes_any_server(guarded: Guarded, case: str) -> None:
    """What keeps the others out is verify-full, and not that these servers could not be talked to."""
    dsn = make_conninfo(guarded.spoilt(case), sslmode="require", sslrootcert="")

    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def as_url(dsn: str) -> str:
    parts = conninfo_to_dict(dsn)
    place = f"{parts['user']}:{parts['password']}@{parts['host']}:{parts['port']}/{parts['dbname']}"
    return f"postgresql://{place}?sslmode={parts['sslmode']}&sslrootcert={parts['sslrootcert']}"


stock = Participant("stock")


@stock.handles("stock.Nothing")
def nothing(_command: object) -> None:
    """There to be subscribed to."""
