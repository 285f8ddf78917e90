"""Dead letters and quarantined records on real topics: listed, shown, handed in again once, discarded."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from confluent_kafka import KafkaException, Producer

from kompensate.orchestrator import Application, Context, saga
from kompensate.orchestrator.asking.settling import Settler
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.client_errors import NotTaken, Superseded
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.letters import Disposal, Letter, letters_of
from kompensate.orchestrator.reading.reader import Reader
from kompensate.participants.database import connect
from kompensate.participants.main import Service
from kompensate.participants.settings import Settings
from kompensate.schemas import letters as q
from tests.fixtures.fix_shell import Background, Shell
from tests.fixtures.participants import World, compensation, forward, stock
from tests.fixtures.stage import CHECKOUT, Order, Stage
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until

WHY = ["--reason", "mended in 1.4.2", "--by", "ann"]
QUICK = Settings(retry_seconds_first=0.01)


@dataclass
class Company:
    """A service whose commands die, and what lies in its topics."""

    topics: ServiceTopics
    world: World
    dsn: str

    def serve(self, replies: int, letters: int) -> None:
        """Until so many answers were given and so many letters put aside in all, and everything is read."""
        with Service(stock, self.dsn, self.topics.bootstrap, prefix=self.topics.prefix, settings=QUICK):
            wait_until("the replies", lambda: len(self.world.replies()) == replies)
            wait_until("the letters", lambda: len(self.records(self.topics.dead, 1)) == letters)
            wait_until("offsets", self._all_read)

    def _all_read(self) -> bool:
        # Not by the partitions' ends: transactions leave markers there, which nobody reads.
        ends = {record.partition: record.offset + 1 for record in self.records(self.topics.commands)}
        committed = self.topics.committed()
        return all(committed[partition] >= end for partition, end in ends.items())

    def records(self, topic: str, partitions: int = 4) -> list[Record]:
        with Reader(self.topics.bootstrap) as reader:
            return list(reader.scan(topic, dict.fromkeys(range(partitions), 0)))

    def commands(self, count: int) -> list[Record]:
        """So many, and no more: a transaction shows a moment after its commit."""
        wait_until("the commands", lambda: len(self.records(self.topics.commands)) >= count)
        found = self.records(self.topics.commands)
        assert len(found) == count
        return found

    def letters(self) -> list[Letter]:
        return letters_of(self.records(self.topics.dead, 1))

    def disposal(self) -> Disposal:
        """The one about the one letter there is, once it shows."""
        wait_until("the disposal", lambda: self.letters()[0].disposal)
        [known] = self.letters()
        assert known.disposal is not None
        return known.disposal

    def send(self, value: bytes, partition: int, headers: list[tuple[str, bytes | None]]) -> None:
        producer = Producer({"bootstrap.servers": self.topics.bootstrap})
        producer.produce(self.topics.commands, value, b"k-9", partition=partition, headers=[*headers])
        assert producer.flush(30) == 0


@pytest.fixture
def company(kafka: str, topic_prefix: str, postgres: str) -> Iterator[Company]:
    topics = ServiceTopics(kafka, topic_prefix)
    topics.make()
    world = World(connect(postgres, "stock"))
    yield Company(topics, world, postgres)
    world.engine.dispose()


@pytest.fixture
def desk(company: Company) -> Shell:
    """A shell for the service's people, who know no application."""
    shell = Shell.__new__(Shell)
    shell.environment = {"KOMPENSATE_BOOTSTRAP": company.topics.bootstrap, "KOMPENSATE_PREFIX": company.topics.prefix}
    return shell


def spoilt(command_id: str) -> list[tuple[str, bytes | None]]:
    """Headers of a command that name nobody to answer."""
    return [header for header in forward(command_id).headers() if header[0] != "ce_replyto"]


def test_a_dead_letter_is_looked_at(company: Company, desk: Shell) -> None:
    """Answered and not: where from, why, with which stack; the bytes are those that came."""
    company.topics.send([forward("f", "raise", "sf")])
    company.send(b"\x00junk", 2, spoilt("u"))
    company.serve(replies=1, letters=2)

    found = {letter["saga_id"]: letter for letter in desk.json("dlq", "list", "--service", "stock")}
    assert {saga: letter["answered"] for saga, letter in found.items()} == {"sf": "failed", "saga-1": None}
    assert found["saga-1"]["origin"] == {
        "topic": company.topics.commands,
        "partition": 2,
        "record": f"{company.topics.commands}/2@0",
    }
    assert desk.ok("dlq", "list", "--service", "stock", "--where", "answered=no", "-o", "ids").split() == [
        found["saga-1"]["letter"]
    ]
    full = desk.json("dlq", "show", found["sf"]["letter"])
    assert full["reason"] == "handler of stock.Take: ValueError: what is this?"
    assert full["stack"].endswith("ValueError")
    assert "in take" in full["stack"]
    assert (full["key"], full["value"], full["headers"]["ce_id"]) == ("sf", {"how": "raise"}, "f")
    assert not [name for name in full["headers"] if name.startswith("q_")]
    text = desk.ok("dlq", "show", found["saga-1"]["letter"])
    assert "expected" in text
    assert "\\u0000junk" in text


def test_an_answered_letter_is_not_handed_in_again(company: Company, desk: Shell) -> None:
    """By name: exit code 4 and what to do instead; by a filter it is left alone and counted."""
    company.topics.send([forward("f", "raise", "sf")])
    company.serve(replies=1, letters=1)
    [letter] = company.letters()

    named = desk.run("dlq", "retry", letter.name, *WHY)
    filtered = desk.run("dlq", "retry", "--service", "stock", "--where", "saga=sf", *WHY)

    assert named.exit_code == 4
    assert "answered failed, and an answer is final: trying again is a new attempt by the saga" in named.stderr
    assert "`kompensate retry sf --step take`" in named.stderr
    assert filtered.exit_code == 0
    assert filtered.stderr == "1 letters match, 0 retried, 1 left alone (1 answered)\n"
    assert sum(company.topics.ends().values()) == 1


def test_an_unanswered_letter_goes_back_where_it_lay(company: Company, desk: Shell) -> None:
    """Bytes, key, headers and partition are the first record's, and nobody hands it in twice."""
    company.send(b'{"how": "done"}', 3, spoilt("u"))
    company.serve(replies=0, letters=1)
    dry = desk.run("dlq", "retry", "--service", "stock", "--where", "answered=no", "--dry-run", *WHY)
    assert dry.stderr == "1 letters match, 1 would be retried, 0 left alone\n"
    assert sum(company.topics.ends().values()) == 1
    [letter] = company.letters()

    desk.ok("dlq", "retry", letter.name, *WHY)
    again = desk.run("dlq", "retry", letter.name, *WHY)

    first, second = company.commands(2)
    assert (second.partition, second.key, second.value) == (3, b"k-9", b'{"how": "done"}')
    assert (first.key, first.value, first.headers) == (second.key, second.value, second.headers)
    assert again.exit_code == 4
    assert "retried by ann: mended in 1.4.2" in again.stderr
    wait_until("the disposal", lambda: desk.json("dlq", "list", "--service", "stock") == [])
    [disposed] = desk.json("dlq", "list", "--service", "stock", "--done")
    assert (disposed["disposal"]["what"], disposed["disposal"]["by"]) == ("retried", "ann")
    # It still names nobody to answer: put aside once more it is a letter again.
    company.serve(replies=0, letters=3)
    assert [each["origin"]["record"][-2:] for each in desk.json("dlq", "list", "--service", "stock")] == ["@1"]


@pytest.mark.parametrize("before", ["resent", "compensated", "nothing"])
def test_the_inbox_knows_what_happened_meanwhile(company: Company, desk: Shell, before: str) -> None:
    """Nothing waits for a letter that nobody was answered about: handed in later it does no harm.

    Its saga sent the command again (which was done), gave it up (and its compensation was here), or does still wait.
    """
    command = forward("u")
    company.send(command.payload or b"", 1, spoilt("u"))
    company.serve(replies=0, letters=1)
    sent = {"resent": [command], "compensated": [compensation("u")], "nothing": []}[before]
    company.topics.send(sent)
    company.serve(replies=len(sent), letters=1)
    # What it lacked is there in today's code: the letter is handed in with what the command said.
    [letter] = company.letters()
    producer = Producer({"bootstrap.servers": company.topics.bootstrap})
    whole = [*command.headers(), *[header for header in letter.record.headers or () if header[0].startswith("q_")]]
    producer.produce(company.topics.dead, letter.record.value, letter.record.key, headers=[*whole])
    assert producer.flush(30) == 0

    desk.ok("dlq", "retry", "--service", "stock", "--where", "answered=no", *WHY)
    company.serve(replies=len(sent) + 1, letters=3)

    outcomes = sorted((command_id, outcome) for command_id, outcome, _ in company.world.replies())
    expected = {
        "resent": [("u", "done"), ("u", "done")],
        "compensated": [("u", "refused"), ("undo-u", "done")],
        "nothing": [("u", "done")],
    }
    assert outcomes == expected[before]
    assert sum(company.world.effects().values()) == (0 if before == "compensated" else 1)


def test_a_crash_before_the_end_leaves_nothing(company: Company, desk: Shell) -> None:
    """Bytes and disposal are one transaction: what was produced and not committed is handed in by who comes next."""
    company.send(b"x", 0, spoilt("u"))
    company.serve(replies=0, letters=1)
    [letter] = company.letters()
    crashed = Settler(company.topics.bootstrap, company.topics.dead, {})
    crashed._producer.begin_transaction()
    crashed._write(company.topics.commands, 0, b"k-9", b"x", letter.original_headers)
    crashed._producer.flush(10)

    desk.ok("dlq", "retry", letter.name, *WHY)

    assert [record.value for record in company.commands(2)] == [b"x", b"x"]
    with pytest.raises(KafkaException, match="fenced"):
        crashed._producer.commit_transaction(10)
    assert [record.value for record in company.commands(2)] == [b"x", b"x"]


def test_of_two_operators_the_later_goes_on(company: Company) -> None:
    """Both have read the same letters: it is handed in once, and the first is told."""
    company.send(b"x", 0, spoilt("u"))
    company.serve(replies=0, letters=1)
    [letter] = company.letters()
    first = Settler(company.topics.bootstrap, company.topics.dead, {})
    second = Settler(company.topics.bootstrap, company.topics.dead, {})

    second.settle(letter, q.RETRIED, who="ann", why="mended")
    with pytest.raises(Superseded, match="expected nobody else to dispose of its letters"):
        first.settle(letter, q.RETRIED, who="bob", why="mended")

    assert len(company.commands(2)) == 2
    assert company.disposal().who == "ann"


def test_a_letter_whose_topic_is_gone_harms_no_other(company: Company) -> None:
    """It stays a letter, with the reason; the same producer goes on with the next."""
    company.send(b"x", 0, spoilt("u"))
    company.serve(replies=0, letters=1)
    [letter] = company.letters()
    lost = Letter(letter.record, {**letter.headers, q.TOPIC: f"{company.topics.prefix}gone"})
    settler = Settler(company.topics.bootstrap, company.topics.dead, {})

    with pytest.raises(NotTaken, match=f"{letter.name}: expected .*gone/0 to take it, got"):
        settler.settle(lost, q.RETRIED, who="ann", why="mended")
    settler.settle(letter, q.DISCARDED, who="ann", why="nobody waits")

    assert company.disposal().verb == "discarded"
    assert len(company.commands(1)) == 1


def test_many_are_discarded_at_a_rate(company: Company, desk: Shell) -> None:
    """Those that match; the others stay. The same again finds none."""
    for n in range(6):
        company.send(b"x", n % 4, spoilt(f"u{n}"))
    company.topics.send([forward("f", "raise", "sf")])
    company.serve(replies=1, letters=7)
    words = ["dlq", "discard", "--service", "stock", "--where", "answered=no", "--rate", "1000", *WHY]

    first, second = desk.run(*words, "-o", "jsonl"), desk.run(*words)

    assert len([json.loads(line) for line in first.stdout.splitlines()]) == 6
    assert first.stderr == "6 letters match, 6 discarded, 0 left alone\n"
    assert second.stderr == "0 letters match, 0 discarded, 0 left alone\n"
    assert [letter["saga_id"] for letter in desk.json("dlq", "list", "--service", "stock")] == ["sf"]


@saga("late")
async def late(ctx: Context, order: Order) -> str:  # it waits for nothing
    """Deployed when its first start was in the quarantine already."""
    return order.order_id


def test_a_quarantined_start_is_handed_in_again(stage: Stage, shell: Shell) -> None:
    """Too early it is put aside again, as a new letter; once its definition is there its saga begins, once."""
    with Client(stage.bootstrap, "shop", prefix=stage.prefix) as client:
        asked = client.start("late", {"order_id": "1"}, saga_id="o-1")
        client.cancel("o-2")
        stage.play()
        [start] = shell.json("dlq", "list", "--where", "type=kompensate.start")
        assert "got 'late'" in start["reason"]
        full = shell.json("dlq", "show", start["letter"])
        assert (full["saga_id"], full["value"], full["answered"]) == ("o-1", {"order_id": "1"}, None)
        shell.ok("dlq", "discard", "--where", "saga=o-2", *WHY)

        shell.ok("dlq", "retry", start["letter"], *WHY)
        wait_until("it is asked for again", stage.play)
        wait_until("the disposals", lambda: len(shell.json("dlq", "list")) == 1)
        [again] = shell.json("dlq", "list")
        assert again["origin"]["partition"] == asked.partition
        assert again["letter"] != start["letter"]
        # Disposals are no rejections.
        assert client.outcome(asked).kind == "rejected"
        assert "was rejected: saga 'o-1'" in shell.run("show", "o-1").stderr

        stage.application = Application("shop", [CHECKOUT, late], partitions=2)
        stage.replace_workers()
        shell.ok("dlq", "retry", "--where", "type=kompensate.start", *WHY)
        wait_until("it is asked for again", stage.play)
        assert [(each["saga_id"], each["status"]) for each in shell.json("list")] == [("o-1", "completed")]
        assert shell.json("dlq", "list") == []


@pytest.mark.slow
def test_killed_while_it_hands_in(company: Company, desk: Shell, background: Background) -> None:
    """kill -9 in the middle, then the same again: each letter went back once."""
    for n in range(40):
        company.send(b"%d" % n, n % 4, spoilt(f"u{n}"))
    company.serve(replies=0, letters=40)
    words = ["dlq", "retry", "--service", "stock", "--where", "answered=no", *WHY]

    killed = background(desk, *words, "--rate", "30")
    wait_until("the first are back", lambda: len(company.records(company.topics.commands)) > 45)
    killed.kill()
    killed.wait()
    told = desk.run(*words, "--rate", "1000", "-o", "ids")

    found = Counter(record.value for record in company.commands(80))
    assert found == {b"%d" % n: 2 for n in range(40)}
    assert 0 < len(told.stdout.split()) < 35
    assert told.exit_code == 0


def test_orders_and_wrong_usage(stage: Stage, shell: Shell) -> None:
    """An order is not handed in again; letters that are not there, and arguments that make no sense, are told."""
    with Client(stage.bootstrap, "shop", prefix=stage.prefix) as client:
        client.order("close", "nobody", who="ann", reason="r")
        stage.play()
    [letter] = shell.json("dlq", "list")

    order = shell.run("dlq", "retry", letter["letter"], *WHY)
    assert (order.exit_code, "give it anew, as by `kompensate close`" in order.stderr) == (4, True)
    nowhere = shell.run("dlq", "discard", letter["letter"].replace("@", "@99"), *WHY)
    assert (nowhere.exit_code, "expected a dead letter or quarantined record there" in nowhere.stderr) == (3, True)
    for words, told in (
        (["retry", *WHY], "expected letters or --where, got neither"),
        (["retry", letter["letter"], "--where", "saga=x", *WHY], "got both"),
        (["retry", letter["letter"]], "Missing option '--reason'"),
        (["show", "o-1"], "expected TOPIC/PARTITION@OFFSET"),
        (["list", "--where", "status=running"], "NAME one of in, from"),
    ):
        result = shell.run("dlq", *words)
        assert (result.exit_code, told in result.stderr) == (2, True), result.stderr


def test_a_relays_letter_goes_where_its_row_was_to_go(company: Company, desk: Shell) -> None:
    """A row that its topic refused names topic and partition, and the log position in the place of an offset."""
    headers: list[tuple[str, bytes | None]] = [
        ("ce_id", b"r-1"),
        (q.REASON, b"too large"),
        (q.TOPIC, company.topics.commands.encode()),
        (q.PARTITION, b"2"),
        (q.LSN, b"0/16B3748"),
        (q.INDEX, b"4"),
    ]
    producer = Producer({"bootstrap.servers": company.topics.bootstrap})
    producer.produce(company.topics.dead, b"row", b"k", headers=[*headers])
    assert producer.flush(30) == 0

    [letter] = desk.json("dlq", "list", "--service", "stock")
    assert letter["origin"]["record"].endswith("/2@0/16B3748/4")
    desk.ok("dlq", "retry", letter["letter"], *WHY)

    [record] = company.commands(1)
    assert (record.partition, record.key, record.value, record.headers) == (2, b"k", b"row", [("ce_id", b"r-1")])
