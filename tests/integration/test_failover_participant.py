"""A participant whose PostgreSQL fails over: what its inbox lost is handled again, and nothing else is."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import replace

import pytest

from kompensate.outbox.main import RelayService
from kompensate.participants import unit
from kompensate.participants.database import connect
from kompensate.participants.main import Service
from kompensate.participants.orders import Order
from kompensate.participants.unit import Unit, Unreachable
from kompensate.schemas.messages import Command
from tests.fixtures.outboxes import RealOutbox, headers_of
from tests.fixtures.pair import Pair, pair
from tests.fixtures.participants import World, forward, stock
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def two() -> Iterator[Pair]:
    with pair() as made:
        yield made


@pytest.fixture
def world(two: Pair) -> Iterator[World]:
    """The participant's tables on whichever of the two takes writes."""
    made = World(connect(two.dsn, "stock"))
    yield made
    made.close()


def test_what_a_failover_took_is_handled_again(two: Pair, world: World, kafka: str, topic_prefix: str) -> None:
    """Replies are in Kafka whose transactions the standby never had. Sent again, those commands are handled again."""
    topics = ServiceTopics(kafka, topic_prefix)
    topics.make()
    with closing(RealOutbox(two.dsn, kafka, topic_prefix)) as shop:

        def commands(name: str) -> list[Command]:
            made = [forward(f"{name}-{n}", saga_id=f"{name}-{n}") for n in range(20)]
            return [replace(command, reply_to=shop.replies, reply_partition=n % 3) for n, command in enumerate(made)]

        def answered(sent: list[Command], often: int) -> None:
            def enough() -> bool:
                shop.payloads()
                found = Counter(dict(headers_of(message))["ce_causationid"] for message in shop.seen)
                return all(found[command.id.encode()] >= often for command in sent)

            wait_until(f"answers, {often} of each", enough, 60)

        kept, lost = commands("kept"), commands("lost")
        with Service(stock, two.dsn, kafka, prefix=topic_prefix), RelayService(shop.settings()):
            topics.send(kept)
            answered(kept, 1)
            two.synchronised(shop.slot)
            two.caught_up()
            two.cut_off()
            topics.send(lost)
            answered(lost, 1)
            two.fail_over()
            world.engine.dispose()  # its idle connections were the primary's
            assert world.inbox().keys() == {command.id for command in kept}
            topics.send([*kept, *lost])
            answered([*kept, *lost], 2)

    assert world.effects() == {(command.id, "take"): 1 for command in [*kept, *lost]}


def test_a_server_that_takes_no_writes_is_waited_for(two: Pair, world: World) -> None:
    """A standby behind a moving address: the command is not given up, and is handled when the standby is promoted."""
    two.caught_up()
    engine = connect(two.standby.dsn(), "stock")
    with closing(Unit(stock, engine)) as handler:
        order = Order(forward("a"), "saga-1", last=True)
        with pytest.raises(Unreachable, match="read-only transaction"):
            handler.handle([order], lambda dead: None)
        two.fail_over()
        world.engine.dispose()
        handler.handle([order], lambda dead: None)
    engine.dispose()
    assert world.effects() == {("a", "take"): 1}


def cancelled(two: Pair, world: World) -> "list[object]":
    """What handling says when the wait for the standby is cancelled; its transaction is on the primary alone then."""
    two.primary.set("synchronous_standby_names", "*")
    two.cut_off()
    said: list[object] = []

    def handle() -> None:
        try:
            said.extend(world.handle(forward("a")))
        except Unreachable as error:
            said.append(error)

    handling = threading.Thread(target=handle)
    handling.start()
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'"
    wait_until("the commit waits for the standby", lambda: two.primary.sql(waiting))
    two.primary.sql(f"SELECT pg_cancel_backend(pid) FROM ({waiting}) s")
    handling.join(30)
    assert two.primary.sql("SELECT command_id FROM inbox") == [("a",)]
    two.fail_over()
    world.engine.dispose()
    return said


def test_a_commit_whose_standby_was_not_waited_for_is_not_believed(two: Pair, world: World) -> None:
    """The server answers COMMIT with a warning. Handled again behind a failover it takes effect."""
    [said] = cancelled(two, world)
    assert isinstance(said, Unreachable)
    assert "canceling wait for synchronous replication" in str(said)

    assert world.effects() == {}
    assert world.outcomes(forward("a")) == ["done"]
    assert world.effects() == {("a", "take"): 1}


def test_believed_it_would_be_lost(two: Pair, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence off: the command counts as handled, its offset moves on, and its effect is nowhere."""
    monkeypatch.setattr(unit, "_kept_for_good", lambda connection: nullcontext())
    [said] = cancelled(two, world)
    assert not isinstance(said, Unreachable)
    assert world.effects() == {}
