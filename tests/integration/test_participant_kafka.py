"""A participant on real Kafka and PostgreSQL: in order, in bad weather, and in company."""

import random
from collections import Counter
from contextlib import ExitStack

import psycopg
import pytest
from confluent_kafka import Producer

from kompensate.participants.database import connect
from kompensate.participants.kafka import CannotStart, KafkaGrave, KafkaSource, configuration
from kompensate.participants.main import Service
from kompensate.participants.ports import DeadLetter, Place, Record, Unburied
from kompensate.participants.settings import Settings
from tests.fixtures.participants import World, compensation, forward, stock
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

QUICK = Settings(retry_seconds_first=0.01)


def service(topics: ServiceTopics, dsn: str, **kafka: object) -> Service:
    return Service(stock, dsn, topics.bootstrap, prefix=topics.prefix, settings=QUICK, kafka=kafka)


def replied(world: World) -> Counter[tuple[str, str]]:
    return Counter((command, outcome) for command, outcome, _ in world.replies())


def test_commands_of_every_kind(topics: ServiceTopics, world: World, postgres: str) -> None:
    """Good, refused, failing, doubled, compensated, unknown and unreadable records: each gets what it is due."""
    good = [forward(f"g{n}", saga_id=f"saga-{n}") for n in range(50)]
    topics.send([*good, forward("r", "refuse", "sr"), forward("f", "raise", "sf"), *good[:10]])
    topics.send([compensation("g1", saga_id="saga-1"), compensation("none", saga_id="saga-x")])
    topics.send_junk(b"\x00junk", partition=2)

    with service(topics, postgres):
        wait_until("64 replies", lambda: sum(replied(world).values()) == 64)
        letters = topics.dead_letters(2)
        wait_until("all offsets committed", lambda: topics.committed() == topics.ends())

    counts = replied(world)
    assert counts == Counter(
        {(command.id, "done"): 1 + (n < 10) for n, command in enumerate(good)}
        | {("r", "refused"): 1, ("f", "failed"): 1, ("undo-g1", "done"): 1, ("undo-none", "done"): 1}
    )
    assert world.effects() == {(command.id, "take"): 1 for command in good} | {("undo-g1", "give_back"): 1}
    junk, failed = sorted(letters, key=lambda letter: letter.key() or b"")
    headers = dict(junk.headers() or [])
    assert (junk.value(), headers["q_topic"], headers["q_partition"]) == (b"\x00junk", topics.commands.encode(), b"2")
    assert {"q_reason", "q_offset", "q_time"} <= headers.keys()
    kept = dict(failed.headers() or [])
    assert failed.value() == forward("f", "raise").payload
    assert kept["ce_id"] == b"f"
    assert kept["q_reason"] == b"handler of stock.Take: ValueError: what is this?"


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_second_member_takes_over_a_part(topics: ServiceTopics, world: World, postgres: str, protocol: str) -> None:
    """While commands flow one more member joins and the first one leaves: all is done, each effect once."""
    commands = [forward(f"c{n}", saga_id=f"saga-{n}") for n in range(600)]
    options = {"group.protocol": protocol}
    first, second = service(topics, postgres, **options), service(topics, postgres, **options)
    first.start()
    topics.send(commands[:200])
    wait_until("the first 200", lambda: len(world.effects()) == 200)
    with second:
        topics.send(commands[200:400])
        wait_until("the second 200", lambda: len(world.effects()) == 400)
        first.stop()
        topics.send(commands[400:])
        wait_until("the last 200", lambda: len(world.effects()) == 600)
        wait_until("all offsets committed", lambda: topics.committed() == topics.ends())

    assert set(world.effects().values()) == {1}
    assert set(replied(world)) == {(command.id, "done") for command in commands}


# A KIP-848 group says nothing to a member for which no partition is left.
@pytest.mark.parametrize(("protocol", "spare"), [("classic", 1), ("consumer", 0)])
def test_it_is_ready_when_it_knows_its_partitions(
    topics: ServiceTopics, world: World, postgres: str, protocol: str, spare: int
) -> None:
    """Also one for which none is left; and no longer when it has stopped."""
    members = [service(topics, postgres, **{"group.protocol": protocol}) for _ in range(topics.partitions + spare)]
    assert not any(member.ready for member in members)
    with ExitStack() as running:
        for member in members:
            running.enter_context(member)
        wait_until("all ready", lambda: all(member.ready for member in members))
    assert not any(member.ready for member in members)


def test_one_that_waits_for_its_partitions_is_alive_and_not_ready(
    topics: ServiceTopics, world: World, postgres: str
) -> None:
    """Another holds them and does not answer the group, as after kill -9; ready when that one is gone."""
    other = KafkaSource(topics.bootstrap, topics.commands, f"{topics.prefix}stock", {})
    other.open(lambda _places, _commit: None)
    wait_until(
        "all partitions are another's", lambda: not other.poll(1, 0.1) and len(other.held or ()) == topics.partitions
    )
    with service(topics, postgres) as waiting:
        wait_until("it has asked to join", lambda: topics.members() == 2)
        assert (waiting.alive, waiting.ready) == (True, False)

        other.close()
        wait_until("ready", lambda: waiting.ready)


def test_a_database_in_bad_weather(topics: ServiceTopics, world: World, postgres: str) -> None:
    """Connections cut again and again, then no new ones for a while: nothing is lost or done twice."""
    commands = [forward(f"c{n}", saga_id=f"saga-{n % 40}") for n in range(800)]
    random.Random(7).shuffle(commands)
    name = world.engine.url.database
    whom = "FROM pg_stat_activity WHERE application_name = 'kompensate stock-live'"
    engine = connect(postgres, "stock-live")
    live = Service(stock, engine, topics.bootstrap, prefix=topics.prefix, settings=QUICK)
    live.start()
    admin = postgres.rsplit("/", 1)[0] + "/postgres"
    with psycopg.connect(admin, autocommit=True) as connection:
        for part in range(8):
            topics.send(commands[part * 100 : part * 100 + 100])
            connection.execute(f"SELECT pg_terminate_backend(pid) {whom}")
            if part == 4:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
                connection.execute(f"SELECT pg_terminate_backend(pid) {whom}")
            if part == 6:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    wait_until("all effects", lambda: len(world.effects()) == 800)
    wait_until("all offsets committed", lambda: topics.committed() == topics.ends())
    live.stop()
    engine.dispose()

    assert set(world.effects().values()) == {1}
    assert set(replied(world)) == {(command.id, "done") for command in commands}


def test_a_stopped_service_leaves_nothing_undone(topics: ServiceTopics, world: World, postgres: str) -> None:
    """Stopping in mid-flow finishes the group in hand and commits what it did: its next start repeats nothing."""
    commands = [forward(f"c{n}", saga_id=f"saga-{n}") for n in range(500)]
    topics.send(commands)
    first = service(topics, postgres)
    first.start()
    wait_until("some effects", lambda: len(world.effects()) > 50)
    first.stop()
    assert not first.alive
    assert len(world.effects()) == sum(topics.committed()[n] for n in range(4) if topics.committed()[n] > 0)

    with first:
        with pytest.raises(RuntimeError, match="participant stock: expected one that has stopped, got one at work"):
            first.start()
        wait_until("all effects", lambda: len(world.effects()) == 500)
    assert replied(world) == Counter({(command.id, "done"): 1 for command in commands})


def test_a_missing_topic_is_named(kafka: str, topic_prefix: str, world: World, postgres: str) -> None:
    """Without its topics a service does not start, and says which and how to make them."""
    missing = ServiceTopics(kafka, topic_prefix)
    with pytest.raises(CannotStart, match=r"got no .*stock\.commands and no .*stock\.dead: make them with"):
        service(missing, postgres).run()


def test_a_dead_broker_is_named(world: World, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a broker a service does not start, and names the address."""
    monkeypatch.setattr("kompensate.participants.kafka.CONNECT_SECONDS_MAX", 0.5)
    with pytest.raises(CannotStart, match=r"Kafka at 127.0.0.1:1: expected an answer within 0.5 s, got none"):
        Service(stock, postgres, "127.0.0.1:1").start()


def test_an_oversize_dead_letter_waits(topics: ServiceTopics, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead letter that its topic refuses is reported with its place, not passed over."""
    grave = KafkaGrave(topics.bootstrap, topics.dead, {})
    record = Record(Place(topics.commands, 1), 42, b"k", b"x" * 2_000_000, [("a", None), ("b", b"\xff")])
    with pytest.raises(Unburied, match=r"\[1\] offset 42: expected .*stock.dead to take it, got .*MSG_SIZE_TOO_LARGE"):
        grave.bury([DeadLetter(record, "why")])
    grave.bury([DeadLetter(Record(record.place, 43, None, None, record.headers), "why")])

    [letter] = topics.dead_letters(1)
    assert letter.value() is None
    assert list(letter.headers() or [])[:3] == [("a", None), ("b", b"\xff"), ("q_reason", b"why")]


def test_a_broker_that_is_away_keeps_its_letters(
    topics: ServiceTopics, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead letter that gets no answer is given up and told; once the broker is back the next try has it once."""
    monkeypatch.setattr("kompensate.participants.kafka.BURY_SECONDS_MAX", 0.3)
    letter = DeadLetter(Record(Place(topics.commands, 0), 5, b"k", b"v", None), "why")
    grave = KafkaGrave("127.0.0.1:1", topics.dead, {})
    for _ in range(2):
        with pytest.raises(Unburied, match=r"offset 5: expected .* got no answer in 0.3 s"):
            grave.bury([letter])
    monkeypatch.setattr("kompensate.participants.kafka.BURY_SECONDS_MAX", 30.0)
    KafkaGrave(kafka, topics.dead, {}).bury([letter])

    [found] = topics.dead_letters(1)
    assert found.value() == b"v"


def test_a_source_rests_and_polls(topics: ServiceTopics) -> None:
    """Resting takes nothing and loses nothing; a poll returns with the first record, not after its time."""
    source = KafkaSource(topics.bootstrap, topics.commands, f"{topics.prefix}stock", {})
    source.open(lambda places, commit: None)
    found: list[Record] = []

    def take(records_max: int, wanted: int) -> bool:
        found.extend(source.poll(records_max, 5.0))
        return len(found) == wanted

    topics.send([forward("a")])
    wait_until("the first record", lambda: take(10, 1))
    topics.send([forward("b"), forward("c")])
    source.rest(0.3)
    wait_until("the others", lambda: take(1, 3))
    source.close()

    assert [dict(record.headers or [])["ce_id"] for record in found] == [b"a", b"b", b"c"]


def test_a_command_of_an_aborted_transaction_was_never_sent(topics: ServiceTopics, world: World, postgres: str) -> None:
    """Commands are read committed: what an orchestrator aborted takes no effect."""
    producer = Producer({"bootstrap.servers": topics.bootstrap, "transactional.id": f"{topics.prefix}tx"})
    producer.init_transactions(30)
    for command, commits in ((forward("aborted"), False), (forward("sent"), True)):
        producer.begin_transaction()
        producer.produce(topics.commands, key="k", value=command.payload, headers=list(command.headers()))
        producer.flush(10)
        (producer.commit_transaction if commits else producer.abort_transaction)()

    with service(topics, postgres):
        wait_until("the command that was sent", lambda: ("sent", "done") in replied(world))
    assert world.effects() == {("sent", "take"): 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [("isolation.level", "read_uncommitted"), ("enable.auto.commit", "true"), ("group.id", "another")],
)
def test_what_the_promises_rest_on_is_not_an_option(name: str, value: str) -> None:
    """Options that would break a promise are refused by name; all others pass through."""
    ours = {"isolation.level": "read_committed", "enable.auto.commit": False, "group.id": "stock"}
    with pytest.raises(ValueError, match=f"Kafka option {name}: expected {ours[name]}"):
        configuration("b:1", {name: value}, ours)

    passed = configuration("b:1", {"security.protocol": "ssl", "enable.auto.commit": "False"}, ours)
    assert passed == {"bootstrap.servers": "b:1", "security.protocol": "ssl", **ours}
