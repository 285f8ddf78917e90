"""Relay and participant on a line to Kafka that fails: nothing is lost, and each effect is once."""

from collections.abc import Callable, Iterator

import pytest

from kompensate.compose.local.stack import Stack
from kompensate.compose.local.state import load
from kompensate.outbox.main import RelayService
from kompensate.outbox.relay import Limits
from kompensate.participants.database import connect
from kompensate.participants.main import Service
from kompensate.participants.settings import Settings
from tests.fixtures.distant import DistantKafka
from tests.fixtures.network import Line
from tests.fixtures.outboxes import RealOutbox, write_numbers
from tests.fixtures.participants import World, forward, stock
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.stack]

FAULTS: dict[str, Callable[[Line], object]] = {
    "silent": lambda line: line.fall_silent(),
    "silent from the broker": lambda line: line.fall_silent(["down"]),
    "cut in mid-message": lambda line: line.cut_after(100),
}
IMPATIENT = {"socket.timeout.ms": 2_000, "request.timeout.ms": 1_500, "reconnect.backoff.max.ms": 500}
"""librdkafka gives up a broker that does not answer after a minute, of itself."""


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    """The way to the broker; it is there before the broker is."""
    with Line("127.0.0.1", 0) as made:
        yield made


@pytest.fixture(scope="module")
def near(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The broker's address without the line."""
    stack = Stack(tmp_path_factory.mktemp("distant"), servers=[DistantKafka(line.port)])
    try:
        stack.up(["kafka"])
        state = load(stack.folder)
        assert state is not None
        line.lead_to("127.0.0.1", state.ports["kafka_distant"])
        yield stack.bootstrap
    finally:
        stack.reset()


def test_a_relay_whose_line_to_kafka_fails(near: str, line: Line, postgres: str) -> None:
    """Every row arrives, in order, and none twice: the producer is idempotent, and sends again itself."""
    outbox = RealOutbox(postgres, near, "relay.")
    written: list[bytes | None] = []
    far = f"127.0.0.1:{line.port}"
    with RelayService(outbox.settings(bootstrap=far, kafka=IMPATIENT)) as service:
        wait_until("the relay reads its slot", lambda: service.state == "streaming")
        for fault, act in FAULTS.items():
            written += write_numbers(outbox, len(written), 50)
            outbox.arrived(written)
            act(line)
            written += write_numbers(outbox, len(written), 50)
            line.mend()
            outbox.arrived(written, 60)
            assert service.failure is None, fault
        outbox.settle()
    assert sorted(outbox.payloads(), key=lambda value: int(value or b"")) == written
    outbox.in_order()
    outbox.close()


def done(world: World, count: int) -> None:
    wait_until(f"{count} effects", lambda: len(world.effects()) == count, 60)


def test_a_participant_whose_line_to_kafka_fails(near: str, line: Line, postgres: str) -> None:
    """Put out of its group or not: every command is done once, and the offsets follow."""
    topics = ServiceTopics(near, "service.")
    topics.make()
    world = World(connect(postgres, "stock"))
    far, sent = f"127.0.0.1:{line.port}", 0
    # A request to join its group is waited for as long as a member may be away between polls, five minutes of itself.
    quick = {**IMPATIENT, "session.timeout.ms": 2_000, "heartbeat.interval.ms": 500, "max.poll.interval.ms": 6_000}
    del quick["request.timeout.ms"]  # a producer's
    with Service(stock, postgres, far, prefix="service.", settings=Settings(), kafka=quick) as service:
        for act in FAULTS.values():
            wait_until("it has its partitions", lambda: service.ready, 60)
            topics.send([forward(f"c{n}", saga_id=f"saga-{n % 40}") for n in range(sent, sent + 100)])
            sent += 100
            act(line)
            line.mend()
            done(world, sent)
        wait_until("all offsets committed", lambda: topics.committed() == topics.ends(), 60)
    assert set(world.effects().values()) == {1}
    assert {command for command, _, _ in world.replies()} == {f"c{n}" for n in range(sent)}
    world.engine.dispose()


def test_who_cannot_reach_kafka_can_be_stopped(near: str, line: Line, postgres: str) -> None:
    """While the line is silent, both end when they are told to, and the next ones do what was left."""
    outbox, topics = RealOutbox(postgres, near, "ending."), ServiceTopics(near, "ending.")
    topics.make()
    world = World(connect(postgres, "stock"))
    far = f"127.0.0.1:{line.port}"
    relay = RelayService(outbox.settings(bootstrap=far, kafka=IMPATIENT, limits=Limits(drain=1)))
    service = Service(stock, postgres, far, prefix="ending.", kafka={"socket.timeout.ms": 2_000})
    with relay, service:
        wait_until("both are at work", lambda: relay.state == "streaming" and service.ready)
        topics.send([forward("a")])
        wait_until("its effect", lambda: world.effects() == {("a", "take"): 1})
        line.fall_silent()
        written = write_numbers(outbox, 0, 50)
        topics.send([forward("b")])
    line.mend()
    with RelayService(outbox.settings(bootstrap=far)), Service(stock, postgres, far, prefix="ending."):
        outbox.arrived(written, 60)
        wait_until("its effect", lambda: world.effects() == {("a", "take"): 1, ("b", "take"): 1}, 60)
    outbox.close()
    world.engine.dispose()
