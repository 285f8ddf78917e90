"""The client on a real broker: what is acknowledged is there, and what became of it is read from the topics."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but not re-exported for checkers
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from kompensate.compose.local.stack import Stack
from kompensate.orchestrator.client import Client, Start
from kompensate.orchestrator.client_errors import (
    ClientError,
    MissingTopic,
    NotAcknowledged,
    NotFound,
    TimedOut,
    Unreachable,
)
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.reader import Reader
from kompensate.orchestrator.reading.stored import Stored
from kompensate.schemas.messages import Request
from kompensate.schemas.payloads import PAYLOAD_BYTES_MAX, BadPayload
from kompensate.schemas.topics import partition_of
from tests.fixtures.stage import Order, Stage, refusing, silent_at
from tests.fixtures.waiting import wait_until


@pytest.fixture
def stage(kafka: str, topic_prefix: str) -> Iterator[Stage]:
    """An application on real topics, with nobody at work but the test."""
    made = Stage(kafka, topic_prefix)
    yield made
    made.close()


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    with Client(stage.bootstrap, "shop", prefix=stage.prefix) as made:
        yield made


def requests(stage: Stage) -> list[tuple[int, Request]]:
    """(partition, request) of all there are, orders among them."""
    topics = (stage.topics.requests, stage.topics.control)
    records = [record for topic in topics for record in stage.reader.scan(topic, {0: 0, 1: 0})]
    return [(record.partition, Request.parse(record.headers, record.value)) for record in records]


def test_what_is_acknowledged_is_on_the_sagas_partition(stage: Stage, client: Client) -> None:
    """Every verb's request is on the saga's own partition, with its time: of the requests, or of the orders."""
    asked = [
        client.start("checkout", Order("1"), saga_id="o-1"),
        client.signal("o-2", "approved", {"by": "ann"}, signal_id="s-1"),
        client.cancel("o-3", "too late"),
        client.pause("o-4"),
        client.resume("o-5", "mended"),
    ]

    there = sorted(requests(stage), key=lambda found: found[1].saga_id)

    assert [(r.type, r.subject, r.payload) for _, r in there] == [
        ("kompensate.start", None, b'{"order_id":"1","cents":1250}'),
        ("kompensate.signal", "approved", b'{"by":"ann"}'),
        ("kompensate.cancel", "too late", None),
        ("kompensate.pause", None, None),
        ("kompensate.resume", "mended", None),
    ]
    assert [partition for partition, _ in there] == [partition_of(f"o-{n}", 2) for n in range(1, 6)]
    assert [sent.partition for sent in asked] == [partition for partition, _ in there]
    assert all(r.time is not None and abs(r.time - s.time) < 60_000 for (_, r), s in zip(there, asked, strict=True))
    assert there[1][1].id == "s-1"
    assert [sent.topic for sent in asked] == [stage.topics.requests] * 3 + [stage.topics.control] * 2


def test_a_request_is_interrupted_while_reports_come_in(client: Client) -> None:
    """Ctrl-C in the middle of a delivery report is KeyboardInterrupt, not confluent-kafka's SystemError."""

    def report(_error: object, _message: object) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert client.sender.offer(client.requests.cancel("o-1"), report)
        with pytest.raises(KeyboardInterrupt):
            wait_until("the report", lambda: client.sender.serve(0.1))
    finally:
        signal.signal(signal.SIGINT, before)


def test_outcomes_are_told_apart(stage: Stage, client: Client) -> None:
    """Started, duplicate, conflict, rejected and handled are each read from the topics, ended or not."""
    first = client.start("checkout", {"order_id": "1"}, saga_id="o-1")
    again = client.start("checkout", {"order_id": "1"}, saga_id="o-1")
    other = client.start("checkout", {"order_id": "2"}, saga_id="o-1")
    unknown = client.start("nothing", {}, saga_id="o-2")
    wrong = client.start("checkout", {"order": 7}, saga_id="o-3")
    nobody = client.cancel("o-4")
    paused = client.pause("o-1")

    for answer in (silent_at("ship"), silent_at("ship")):
        stage.play(answer)
        kinds = [client.outcome(sent).kind for sent in (first, again, other, unknown, wrong, nobody, paused)]
        assert kinds == ["started", "duplicate", "conflict", "rejected", "rejected", "rejected", "handled"]

    assert "of this application (approval, checkout), got 'nothing'" in client.outcome(unknown).reason
    assert "order_id" in client.outcome(wrong).reason
    client.resume("o-1")
    client.cancel("o-1")
    stage.play()
    after = client.start("checkout", {"order_id": "1"}, saga_id="o-1")
    stage.play()

    assert client.outcome(first).kind == "started"
    assert client.outcome(after).kind == "duplicate"
    assert client.outcome(replace(after, payload=b"{}")).kind == "conflict"


def test_without_a_worker_an_outcome_times_out(stage: Stage, client: Client) -> None:
    """Nobody handles it: the client says so, and that the request stands; it is handled later."""
    with pytest.raises(TimedOut, match="is a worker running") as raised:
        client.start("checkout", {"order_id": "1"}, saga_id="o-1", wait=True, timeout=0.3)
    with pytest.raises(TimedOut, match="got: it has not started"):
        client.result("o-1", timeout=0.3)

    assert f"{stage.topics.requests}/{partition_of('o-1', 2)}@0" in str(raised.value)
    stage.play()
    assert client.result("o-1", timeout=5).status == "completed"


def test_a_result_is_waited_for(stage: Stage, client: Client) -> None:
    """A result is the view of the ended saga; one that is under way times out, saying how far it is."""
    client.start("checkout", {"order_id": "1"}, saga_id="o-1")
    client.start("checkout", {"order_id": "2"}, saga_id="o-2")
    stage.play(silent_at("ship"))
    with pytest.raises(TimedOut, match="got: running"):
        client.result("o-1", timeout=0.3)
    client.start("checkout", {"order_id": "3"}, saga_id="o-3")
    stage.play(refusing("charge"))

    refused = client.result("o-3", timeout=5)

    assert (refused.status, refused.reason) == ("compensated", "charge: card declined")


def test_many_are_started_at_once(stage: Stage, client: Client) -> None:
    """Thousands of starts are acknowledged together, in their order, each on its partition."""
    starts = [Start("checkout", f"m-{n}", {"order_id": str(n)}) for n in range(3_000)]

    sent = client.start_many(starts)

    assert [s.saga_id for s in sent] == [start.saga_id for start in starts]
    for partition in (0, 1):
        offsets = [s.offset for s in sent if s.partition == partition]
        assert offsets == list(range(len(offsets)))


def test_bad_arguments_send_nothing(stage: Stage, client: Client) -> None:
    """Bad ids and names and oversize inputs raise before anything is sent, one byte below the limit is taken."""
    fits = b'"' + b"x" * (PAYLOAD_BYTES_MAX - 2) + b'"'
    good = Start("checkout", "o-1", {"order_id": "1"})
    for bad in (
        Start("checkout", "o/1"),
        Start("checkout", ""),
        Start("", "o-2"),
        Start("check out", "o-2"),
        Start("checkout", "o-2", fits + b" "),
        Start("checkout", "o-2", {1, object()}),
    ):
        with pytest.raises(ValueError, match="expected"):
            client.start_many([good, bad])
    with pytest.raises(BadPayload, match=f"expected at most {PAYLOAD_BYTES_MAX} bytes, got {PAYLOAD_BYTES_MAX + 1}"):
        client.start("checkout", fits + b" ", saga_id="o-3")
    with pytest.raises(ValueError, match="expected the name of a signal"):
        client.signal("o-3", "")

    assert requests(stage) == []
    client.start("checkout", fits, saga_id="o-4")
    assert [len(r.payload or b"") for _, r in requests(stage)] == [PAYLOAD_BYTES_MAX]


def test_a_dead_broker_is_named(topic_prefix: str) -> None:
    """Without Kafka every question ends with an error that names the address, within the time-out."""
    with Client("127.0.0.1:1", "shop", prefix=topic_prefix, timeout=0.5) as client:
        with pytest.raises(Unreachable, match=r"Kafka at 127\.0\.0\.1:1: expected an answer"):
            client.start("checkout", {}, saga_id="o-1")
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
            client.result("o-1", timeout=1)


def test_a_missing_application_is_named(kafka: str, topic_prefix: str, stage: Stage) -> None:
    """A wrong application or prefix is told, with those that are there."""
    with (
        Client(kafka, "nothing", prefix=topic_prefix) as client,
        pytest.raises(MissingTopic, match=f"expected topic {topic_prefix}nothing.requests, got only .*shop.requests"),
    ):
        client.start("checkout", {}, saga_id="o-1")


def test_a_topic_that_takes_less_is_told(stage: Stage, client: Client) -> None:
    """What the broker refuses for good is no matter of trying again: the error is the broker's."""
    entry = ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)
    admin = AdminClient({"bootstrap.servers": stage.bootstrap})
    resource = ConfigResource(ResourceType.TOPIC, stage.topics.requests, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)

    with pytest.raises(ClientError, match="MSG_SIZE_TOO_LARGE"):
        client.start("checkout", {"order_id": "x" * 3_000}, saga_id="o-1")


def test_a_snapshot_ends_where_a_transaction_ends(stage: Stage, client: Client) -> None:
    """Readers see what is committed: an open transaction, and an aborted one, show nothing of theirs."""
    client.start("checkout", {"order_id": "1"}, saga_id="o-1")
    stage.play(silent_at("charge"))
    p = partition_of("o-1", 2)
    before = stage.state(p)
    producer = stage.producer
    producer.begin_transaction()
    producer.produce(stage.topics.state, b"not committed", b"o-1", partition=p)
    producer.flush(10)

    while_open = stage.state(p)
    producer.abort_transaction(10)

    assert while_open == before
    assert stage.state(p) == before


def test_a_forgotten_saga_is_found_in_the_history(stage: Stage, client: Client) -> None:
    """Past the dedup window state says nothing any more, the history still does; an unknown id is NotFound."""
    client.start("checkout", {"order_id": "1"}, saga_id="o-1")
    stage.play()
    ended = client.lookup.view("o-1")
    stage.fire(ended.updated_at + 25 * 3600 * 1000)

    assert client.lookup.find("o-1") is None
    assert replace(client.lookup.view("o-1"), partition=ended.partition) == ended
    with pytest.raises(NotFound, match="saga 'o-2': expected it on partition"):
        client.lookup.view("o-2")


def test_following_tells_every_saga_that_moves(stage: Stage, client: Client) -> None:
    """What is there comes first, then each saga that changed, ended ones with their summary."""
    client.start("checkout", {"order_id": "1"}, saga_id="o-1")
    stage.play(silent_at("ship"))
    with Reader(stage.bootstrap) as reader:
        changes = Lookup(reader, stage.topics).follow(wait=0.05)
        assert [found.saga_id for found in next(changes)] == ["o-1"]

        client.start("checkout", {"order_id": "2"}, saga_id="o-2")
        stage.play(refusing("charge"))
        ended: dict[str, Stored] = {}
        while not ended:
            ended = {found.saga_id: found for found in next(changes) if found.ended}

    assert ended["o-2"].header.status == "compensated"


@pytest.mark.stack
@pytest.mark.slow
def test_an_acknowledgement_that_does_not_come_is_told(stack_directory: Path) -> None:
    """A broker that stands still: NotAcknowledged within the time-out; sent again, the start counts once."""
    own = Stack(stack_directory)
    own.up(["kafka"])
    stage = Stage(own.bootstrap, "own.")
    with Client(own.bootstrap, "shop", prefix="own.", timeout=2.0) as client:
        client.start("checkout", {"order_id": "1"}, saga_id="o-1")
        os.kill(own.pid("kafka"), signal.SIGSTOP)
        try:
            with pytest.raises(NotAcknowledged, match="expected 1 requests to be acknowledged within 2 s"):
                client.start("checkout", {"order_id": "2"}, saga_id="o-2")
        finally:
            os.kill(own.pid("kafka"), signal.SIGCONT)
        with Client(own.bootstrap, "shop", prefix="own.") as patient:
            again = patient.start("checkout", {"order_id": "2"}, saga_id="o-2")
            stage.play()
            assert patient.outcome(again).accepted
            assert [found.header.status for found in patient.lookup.all()] == ["completed", "completed"]
    stage.close()
