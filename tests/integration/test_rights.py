"""Rights on a real broker with TLS, SCRAM and an authorizer: what each process needs works, and nothing else does.

The table below is written by hand, and is not made from `rights`: one says what is meant, the other what is granted.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

import kompensate.orchestrator.topics as admin_topics
import kompensate.participants.kafka as participant_kafka
from kompensate.compose.local.stack import Stack
from kompensate.orchestrator.cli import main
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.client_errors import ClientError
from kompensate.orchestrator.errors import NoAnswer
from kompensate.orchestrator.main import Worker
from kompensate.orchestrator.rights import Grant
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.topics import TopicAdmin
from kompensate.outbox.client import OutboxClient
from kompensate.outbox.main import RelayService, RelaySettings
from kompensate.participants import Participant
from kompensate.participants.kafka import KafkaSource, Unreachable
from kompensate.participants.main import Service
from kompensate.schemas.messages import CHILD_ENDED, Request
from tests.fixtures import guarded_app
from tests.fixtures.fix_stack import _reset_if_we_die
from tests.fixtures.guarded import NOBODY, Ground, guarded_kafka
from tests.fixtures.guarded_app import DECLARED, EVENTS_TOPIC, HOOK_TOPIC, INTAKE_TOPIC, app
from tests.fixtures.roles import Guarded, guarded_database
from tests.fixtures.secured import ADMIN, SecuredKafka
from tests.fixtures.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.stack]

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 90.0
ENOUGH_SECONDS = 3.0
"""A refused log-in is tried again until a call's time is over: here that need not be long."""
P = "m."
"""The matrix's application: what is written to its topics is no record of ours, and nobody works on them."""

WRITES = {
    "shop.requests": "letters orchestrator client operator intake relay:orders",
    "shop.control": "letters orchestrator operator",
    "shop.replies.inventory": "letters relay:inventory",
    "shop.replies.payments": "letters relay:payments",
    "shop.state": "orchestrator",
    "shop.history": "orchestrator",
    "shop.quarantine": "letters orchestrator intake",
    "inventory.commands": "letters orchestrator",
    "payments.commands": "letters orchestrator",
    "inventory.dead": "letters service:inventory relay:inventory",
    "payments.dead": "letters service:payments relay:payments",
    "orders.dead": "relay:orders",
}
READS = {
    "shop.requests": "orchestrator operator admin",
    "shop.control": "orchestrator operator admin",
    "shop.replies.inventory": "orchestrator operator admin",
    "shop.replies.payments": "orchestrator operator admin",
    "shop.state": "orchestrator client operator hook",
    "shop.history": "client operator",
    "shop.quarantine": "letters client operator hook",
    "inventory.commands": "service:inventory",
    "payments.commands": "service:payments",
    "inventory.dead": "letters operator",
    "payments.dead": "letters operator",
}
COMMITS = {
    "shop": "orchestrator admin",
    "shop~intake": "intake",
    "shop~hook.x": "hook",
    "inventory": "service:inventory",
    "payments": "service:payments",
}
IS = {"shop.x": "orchestrator", "shop~intake.x": "intake", "shop~hook.x": "hook"}
CONFIGURES = {name: "admin" for name in WRITES if name != "orders.dead"}
MEANT = {
    (role, verb, P + name)
    for verb, table in (
        ("writes", WRITES),
        ("reads", READS),
        ("commits for", COMMITS),
        ("is", IS),
        ("configures", CONFIGURES),
    )
    for name, roles in table.items()
    for role in roles.split()
} | {
    ("intake", "reads", INTAKE_TOPIC),
    ("hook", "writes", HOOK_TOPIC),
    ("relay:payments", "writes", EVENTS_TOPIC),
    ("letters", "writes", EVENTS_TOPIC),
    ("admin", "configures", EVENTS_TOPIC),
    ("service:inventory", "reads", EVENTS_TOPIC),
    *(("letters", "is", f"kompensate-dlq-{P}{box}") for box in ("shop.quarantine", "inventory.dead", "payments.dead")),
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SecuredKafka, Stack]]:
    folder = tmp_path_factory.mktemp("guarded")
    with _reset_if_we_die(folder):
        kafka, stack = guarded_kafka(folder)
        yield kafka, stack
        stack.reset()


@pytest.fixture(scope="module")
def tried(broker: tuple[SecuredKafka, Stack]) -> Ground:
    """The application that everybody tries everything on."""
    ground = Ground(*broker, P)
    ground.open()
    return ground


def roles_of(ground: Ground) -> list[str]:
    return [*ground.users, NOBODY]


def test_everybody_may_do_what_they_need_and_nothing_else(stack: Stack, tried: Ground) -> None:
    """Every role tries every topic, group and transactional id: no service answers for another, and nobody but the
    orchestrator writes state, history and commands."""
    found = tried.matrix(roles_of(tried))

    assert sorted(found - MEANT) == [], "allowed, and not meant"
    assert sorted(MEANT - found) == [], "meant, and refused"
    assert {role: done for role in roles_of(tried) if (done := tried.administers(role))} == {
        "admin": {"makes its topic"}
    }


@pytest.mark.parametrize(
    ("grant", "consequence"),
    [
        (
            Grant("", f"User:{P}payments-relay", "topic", f"{P}shop.replies.inventory", ("Write",)),
            {("relay:payments", "writes", f"{P}shop.replies.inventory")},
        ),
        (
            Grant("", f"User:{P}shop-client", "topic", f"{P}shop.control", ("Write",)),
            {("client", "writes", f"{P}shop.control")},
        ),
        (
            Grant("", f"User:{P}inventory", "topic", f"{P}payments.", ("Read",), "prefixed"),
            {
                ("service:inventory", "reads", f"{P}payments.commands"),
                ("service:inventory", "reads", f"{P}payments.dead"),
            },
        ),
        (
            Grant("", f"User:{P}shop-client", "transactional-id", f"{P}shop.", ("Write",), "prefixed"),
            {("client", "is", f"{P}shop.x")},
        ),
    ],
    ids=["another's replies", "orders", "a prefix", "a worker's transactions"],
)
def test_an_acl_too_wide_is_found(
    stack: Stack, tried: Ground, grant: Grant, consequence: set[tuple[str, str, str]]
) -> None:
    """One ACL more than is rendered, and the matrix has what it allows, and `topics acl --check` names it."""
    tried.allow(grant)

    try:
        found = tried.matrix({role for role, _, _ in consequence})
        further = tried.acls.check(tried.grants).further
    finally:
        tried.deny(grant)

    meant = {each for each in MEANT if each[0] in {role for role, _, _ in consequence}}
    assert found - meant == consequence
    assert len(further) == 1
    assert further[0].startswith(grant.principal)
    assert tried.acls.check(tried.grants).further == ()


class Shop:
    """The application at work, everybody with rights of their own alone, in Kafka and in databases.

    `tokens`: who has those instead of a password.
    """

    def __init__(self, ground: Ground, directory: Path, ends: ExitStack, tokens: Container[str] = ()) -> None:
        self.ground, self._directory, self._ends, self._tokens = ground, directory, ends, tokens

    def serve(self, participant: Participant, database: Guarded) -> None:
        name = participant.name
        bootstrap, options = self.login(f"service:{name}")
        self._ends.enter_context(Service(participant, database.app, bootstrap, kafka=options))
        self.relay(name, database)

    def relay(self, name: str, database: Guarded) -> None:
        bootstrap, options = self.login(f"relay:{name}")
        settings = RelaySettings(database.relay, bootstrap, service=name, kafka=options)
        self._ends.enter_context(RelayService(settings))

    def login(self, role: str) -> tuple[str, dict[str, str]]:
        """Where and how a role connects."""
        ground = self.ground
        if role not in self._tokens:
            return ground.bootstrap, ground.options(role)
        return ground.kafka.address(ground.stack, "kafka_tokens"), ground.kafka.tokens(ground.users[role])

    def work(self) -> None:
        bootstrap, options = self.login("orchestrator")
        settings = Settings(bootstrap=bootstrap, kafka=options, slot="one", slot_directory=self._directory)
        worker = Worker(app, settings)
        worker.start()
        self._ends.callback(worker.stop)

    def command(self, role: str, *words: str) -> list[str]:
        return [*words, "--bootstrap", self.ground.bootstrap, *_as_options(self.ground.options(role))]

    def run_aside(self, role: str, *words: str) -> None:
        argv = self.command(role, *words, "--slot", role, "--slot-directory", str(self._directory))
        log = (self._directory / f"{role}.log").open("wb")
        self._ends.callback(log.close)
        child = subprocess.Popen(
            [sys.executable, "-m", "kompensate.orchestrator.cli", *argv],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
        self._ends.callback(child.wait, 30)
        self._ends.callback(child.terminate)

    def run(self, role: str, *words: str) -> Result:
        return CliRunner().invoke(main, self.command(role, *words, "--app-name", "shop"))

    def quarantined(self, saga_id: str) -> list[str]:
        """Why records of that saga were put aside."""
        found = [dict(record.headers() or ()) for record in self.ground.records("shop.quarantine")]
        mine = [headers for headers in found if headers.get("ce_correlationid") == saga_id.encode()]
        reasons = [headers["q_reason"] for headers in mine if "q_reason" in headers]
        return [reason.decode() if isinstance(reason, bytes) else str(reason) for reason in reasons]

    def ended(self, client: Client, saga_id: str) -> str:
        return client.result(saga_id, timeout=DEADLINE_SECONDS).status


def _as_options(kafka: dict[str, str]) -> list[str]:
    return [word for name, value in kafka.items() for word in ("-X", f"{name}={value}")]


@pytest.fixture
def databases(stack: Stack, fresh_database: Callable[[], str]) -> Iterator[dict[str, Guarded]]:
    with ExitStack() as ends:
        yield {
            name: ends.enter_context(guarded_database(fresh_database(), f"{name}_owner", name, f"{name}_relay"))
            for name in ("inventory", "payments", "orders")
        }


def test_sagas_run_to_their_end_with_the_least_rights(
    broker: tuple[SecuredKafka, Stack], databases: dict[str, Guarded], tmp_path: Path
) -> None:
    """Started by a client, by an outbox row and by a record of another topic, looked at by an operator, told by a hook:
    each with its own principal and, in databases, its own role; some by tokens that last for seconds. One who forges
    another's reply is put aside."""
    ground = Ground(*broker, "")
    ground.open()
    with ExitStack() as ends:
        shop = Shop(ground, tmp_path, ends, tokens={"orchestrator", "client", "service:payments", "relay:payments"})
        shop.serve(guarded_app.inventory, databases["inventory"])
        shop.serve(guarded_app.payments, databases["payments"])
        shop.relay("orders", databases["orders"])
        shop.work()
        place = ("--app", "tests.fixtures.guarded_app:app", "--app-dir", str(ROOT))
        shop.run_aside("intake", "intake", *place, "--begin", "earliest")
        shop.run_aside("hook", "hook", "--app-name", "shop", "--topic", HOOK_TOPIC, "--begin", "earliest")
        bootstrap, options = shop.login("client")
        client = ends.enter_context(Client(bootstrap, "shop", kafka=options))

        client.start("checkout", {"order_id": "by-client"}, saga_id="by-client", wait=True)
        with psycopg.connect(databases["orders"].app) as connection:
            OutboxClient(app).start(connection, "checkout", {"order_id": "by-row"}, saga_id="by-row")
        producer = Producer({"bootstrap.servers": ground.bootstrap, **ground.kafka.options(ADMIN)})
        producer.produce(INTAKE_TOPIC, json.dumps({"order_id": "by-record"}))
        assert producer.flush(DEADLINE_SECONDS) == 0
        # What no saga takes, for the hook to tell.
        client.start("nothing", {}, saga_id="stray")

        for saga_id in ("by-client", "by-row"):
            assert shop.ended(client, saga_id) == "completed"
        wait_until("by-record is there", lambda: client.lookup.find("by-record"), DEADLINE_SECONDS)
        assert shop.ended(client, "by-record") == "completed"
        # The matrix leaves records of its own there.
        wait_until(
            "the hook tells",
            lambda: any(b'"stray"' in (record.value() or b"") for record in ground.records(HOOK_TOPIC)),
            DEADLINE_SECONDS,
        )

        explained = shop.run("operator", "explain", "by-client")
        assert explained.exit_code == 0, explained.output
        assert TopicAdmin(app, ground.settings("operator"), DECLARED).check() == []

        retry, discard = (["dlq", verb, "--where", "saga=stray", "--reason", "a test"] for verb in ("retry", "discard"))
        forbidden = shop.run("operator", *retry)
        assert forbidden.exit_code == 1
        assert "TRANSACTIONAL_ID_AUTHORIZATION_FAILED" in forbidden.output
        again = shop.run("letters", *retry)
        assert (again.exit_code, "1 retried" in again.output) == (0, True), again.output
        wait_until("it is put aside again", lambda: len(shop.quarantined("stray")) == 2, DEADLINE_SECONDS)
        discarded = shop.run("letters", *discard)
        assert discarded.exit_code == 0, discarded.output

        # A client may show a certificate instead of a password: the same principal.
        mtls = ground.kafka.address(ground.stack, "kafka_mtls")
        with Client(mtls, "shop", kafka=ground.kafka.certified("shop-client")) as other:
            assert shop.ended(other, "by-client") == "completed"

        with psycopg.connect(databases["payments"].app) as connection:
            connection.execute(
                "INSERT INTO outbox (id, aggregatetype, aggregateid, type, partition, ce_causationid) "
                "VALUES (gen_random_uuid(), 'shop.replies.inventory', 'by-client', 'inventory.Done', 0, 'forged')"
            )
        wait_until("the forged reply is put aside", lambda: ground.records("payments.dead"), DEADLINE_SECONDS)
        (letter,) = ground.records("payments.dead")
        assert b"TOPIC_AUTHORIZATION_FAILED" in (dict(letter.headers() or ())["q_reason"] or b"")
        replies = [dict(record.headers() or ()) for record in ground.records("shop.replies.inventory")]
        assert replies
        assert all(headers["ce_causationid"] != b"forged" for headers in replies)


def test_orders_are_for_operators(
    broker: tuple[SecuredKafka, Stack], databases: dict[str, Guarded], tmp_path: Path
) -> None:
    """A client's order is refused by the broker, and on the requests, where it may write, by the worker. An operator's
    is taken; and with a role for the databases he breaks locks, and says what became of an outside call."""
    ground = Ground(*broker, "")
    ground.open()
    with ExitStack() as ends:
        shop = Shop(ground, tmp_path, ends)
        shop.serve(guarded_app.inventory, databases["inventory"])
        shop.serve(guarded_app.payments, databases["payments"])
        shop.work()
        client = ends.enter_context(Client(ground.bootstrap, "shop", kafka=ground.options("client")))
        later = datetime.now(UTC) + timedelta(days=1)
        client.start("checkout", {"order_id": "later"}, saga_id="later", start_at=later, wait=True)

        with pytest.raises(ClientError, match=r"shop\.control: .*TOPIC_AUTHORIZATION_FAILED"):
            client.pause("later")
        close = client.requests.order("close", "later", who="ann", reason="forged")
        end = Request("e", CHILD_ENDED, "later", "s", command_id="c", outcome="done")
        forger = Producer({"bootstrap.servers": ground.bootstrap, **ground.options("client")})
        for forged in (close, end):
            place = client.sender.partition("later")
            headers: list[tuple[str, str | bytes | None]] = [*forged.headers()]
            forger.produce("shop.requests", forged.payload, "later", place, headers=headers)
        assert forger.flush(DEADLINE_SECONDS) == 0
        wait_until("both are put aside", lambda: len(shop.quarantined("later")) == 2, DEADLINE_SECONDS)
        for reason in shop.quarantined("later"):
            assert "on shop.control, got it on shop.requests" in reason
        assert client.lookup.view("later").status == "pending"
        paused = shop.run("operator", "pause", "later", "--wait")
        assert paused.exit_code == 0, paused.output
        assert client.lookup.view("later").hold == "paused"

        client.start("checkout", {"order_id": "unheard"}, saga_id="unheard")
        calls = ["outside", "list", "--unknown", "-o", "json", "--dsn", databases["payments"].operator]

        def unknown() -> list[str]:
            return [one["command"] for one in json.loads(CliRunner().invoke(main, calls).stdout)]

        wait_until("nobody knows of the charge", unknown, DEADLINE_SECONDS)
        (id_,) = unknown()
        words = ["--outcome", "done", "--result", '"ch-7"', "--dsn"]
        relay = CliRunner().invoke(main, ["outside", "answer", id_, *words, databases["payments"].relay])
        assert (relay.exit_code, "permission denied" in relay.output) == (1, True), relay.output
        told = CliRunner().invoke(main, ["outside", "answer", id_, *words, databases["payments"].operator])
        assert told.exit_code == 0, told.output
        assert shop.ended(client, "unheard") == "completed"

        held = ["locks", "--dsn", databases["inventory"].operator, "-o", "ids"]
        assert CliRunner().invoke(main, held).stdout.split() == ["order:unheard"]
        breaks = ["locks", "break", "order:unheard", "--reason", "a test", "--dsn"]
        for dsn, code in ((databases["inventory"].relay, 1), (databases["inventory"].operator, 0)):
            broken = CliRunner().invoke(main, [*breaks, dsn])
            assert broken.exit_code == code, broken.output


def refused(broker: tuple[SecuredKafka, Stack], case: str) -> tuple[str, dict[str, str]]:
    """Where and how one connects who must not be let in, or must not trust the broker."""
    kafka, stack = broker
    good, port = kafka.options(ADMIN), stack.bootstrap.rpartition(":")[2]
    bare = {"security.protocol": "SSL", "ssl.ca.location": good["ssl.ca.location"]}
    return {
        "wrong authority": (stack.bootstrap, {**good, "ssl.ca.location": str(kafka.stranger.path)}),
        "wrong name": (f"localhost:{port}", {**good, "broker.address.family": "v4"}),
        "expired": (kafka.address(stack, "kafka_expired"), bare),
        "wrong password": (stack.bootstrap, {**good, "sasl.password": "guessed"}),
        "no certificate": (kafka.address(stack, "kafka_mtls"), bare),
    }[case]


CERTIFICATE = "does not name this address, or has expired"
REFUSALS = {
    "wrong authority": CERTIFICATE,
    "wrong name": CERTIFICATE,
    "expired": CERTIFICATE,
    "wrong password": "Authentication failed during authentication due to invalid credentials",
    "no certificate": "certificate required",
}


@pytest.mark.parametrize("case", REFUSALS)
def test_who_must_not_connect_is_told_why(
    stack: Stack, broker: tuple[SecuredKafka, Stack], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody talks to a broker whose certificate is another's, names another host or is too old, and the error says so
    instead of that nobody answered: worker and `topics`, clients, participants."""
    bootstrap, options = refused(broker, case)
    monkeypatch.setattr(admin_topics, "CALL_SECONDS", ENOUGH_SECONDS)
    monkeypatch.setattr(participant_kafka, "CONNECT_SECONDS_MAX", ENOUGH_SECONDS)

    with pytest.raises(NoAnswer, match=REFUSALS[case]):
        TopicAdmin(app, Settings(bootstrap=bootstrap, kafka=options)).check()
    with (
        Client(bootstrap, "shop", kafka=options, timeout=ENOUGH_SECONDS) as client,
        pytest.raises(ClientError, match=REFUSALS[case]),
    ):
        client.start("checkout", {"order_id": "x"}, saga_id="x")
    with (
        Client(bootstrap, "shop", kafka=options, timeout=ENOUGH_SECONDS) as client,
        pytest.raises(ClientError, match=REFUSALS[case]),
    ):
        client.lookup.find("x")
    source = KafkaSource(bootstrap, "inventory.commands", "inventory", options)
    with pytest.raises(Unreachable, match=REFUSALS[case]):
        source.check("inventory.dead")
    source.close()
