"""Limits under the worker's loop: they hold for all its partitions together, and bad input stops nobody."""

from collections.abc import Iterator

import pytest

from kompensate.orchestrator import Application, Context, Limit, Service, saga
from kompensate.orchestrator.reading.lookup import CLOSED
from kompensate.orchestrator.sagas.journal import STATE_HEADER, watermark_writer
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.sagas.rooms import Rooms
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing import InlineSteps, MemoryBroker, MemoryLog, VirtualClock
from kompensate.orchestrator.worker.loop import Loop
from kompensate.schemas.messages import START, Command, Reply, Request
from kompensate.schemas.payloads import to_json
from kompensate.schemas.topics import Topics, partition_of
from tests.fixtures.driving import Reserve

PARTITIONS = 4


@saga("one")
async def one(ctx: Context, text: str) -> None:
    await ctx.call("inventory", Reserve(text), limit="narrow")


APPLICATION = Application(
    "shop", [one], services=[Service("inventory")], partitions=PARTITIONS, limits={"narrow": Limit(concurrent=3)}
)
TOPICS = Topics("shop")
COMMANDS = TOPICS.commands("inventory")


class Work:
    """A worker on a broker in memory, whose command topic takes records of up to 2,000 bytes."""

    def __init__(self) -> None:
        self.clock, self.settings = VirtualClock(), Settings(restores_max=1)
        self.broker = MemoryBroker(self.clock)
        self.inputs = TOPICS.inputs(["inventory"])
        for name in (*self.inputs, TOPICS.state, TOPICS.history, TOPICS.quarantine):
            self.broker.create_topic(name, PARTITIONS, record_bytes_max=self.settings.record_bytes_max)
        self.broker.create_topic(COMMANDS, PARTITIONS, record_bytes_max=2_000)
        self.answered: set[str] = set()
        self.begin()

    def begin(self) -> None:
        """A worker starts; one before it is gone."""
        self.rooms = Rooms(APPLICATION.limits)
        self.loop = Loop(self._connect, self._sagas, self.settings, self.clock, InlineSteps())

    def kill(self) -> None:
        self.broker.expire_member("shop", self.log.member)
        self.begin()

    def start(self, saga_id: str, text: str = "x") -> None:
        request = Request(f"start-{saga_id}", START, saga_id, "test", saga_type="one", payload=to_json(text))
        partition = partition_of(saga_id, PARTITIONS)
        self.broker.produce(TOPICS.requests, partition, saga_id.encode(), request.payload, request.headers())

    def step(self, count: int = 30) -> None:
        for _ in range(count):
            self.loop.step()
            self.clock.advance(0.1)

    def commands(self) -> list[Command]:
        """Each once, however often it was sent again."""
        read = self.broker.read
        sent = [Command.parse(r.headers, r.value) for n in range(PARTITIONS) for r in read(COMMANDS, n)]
        return list({command.id: command for command in sent}.values())

    def answer(self, count: int) -> None:
        for command in [each for each in self.commands() if each.id not in self.answered][:count]:
            self.answered.add(command.id)
            reply = Reply(f"row-{command.id}", command.id, command.saga_id, "inventory.Done", "inventory", "done", b"1")
            to, headers = command.reply_partition, reply.headers()
            self.broker.produce(command.reply_to, to, command.saga_id.encode(), b"1", headers)

    def statuses(self) -> dict[str, tuple[str, str]]:
        """Status and hold of each saga."""
        return {
            (record.key or b"").decode().partition("/")[0]: (words[3], words[4])
            for number in range(PARTITIONS)
            for record in self.broker.read(TOPICS.state, number)
            for words in _header(record.headers)
            if words[3] != CLOSED
        }

    def _connect(self) -> MemoryLog:
        self.log = MemoryLog(
            self.broker,
            self.settings,
            group="shop",
            slot="a",
            inputs=self.inputs,
            state=TOPICS.state,
            writer_of=watermark_writer,
            clock=self.clock,
        )
        return self.log

    def _sagas(self, number: int) -> Partition:
        return Partition(number, APPLICATION, self.settings, self.rooms)


def _header(headers: object) -> Iterator[list[str]]:
    found = dict(headers or ()).get(STATE_HEADER)  # type: ignore[call-overload]  # pairs
    if found:
        yield found.decode().split()


def test_a_limit_holds_for_all_partitions_of_a_worker() -> None:
    """Also for the next worker: those that were out before it came are counted before it lets anybody out."""
    work = Work()
    work.step()
    for number in sorted(range(20), key=lambda n: partition_of(f"s-{n}", PARTITIONS), reverse=True):
        work.clock.advance(0.001)
        work.start(f"s-{number}")  # so that those that are out are not on the partition that is read first
    work.step()
    assert len({partition_of(f"s-{n}", PARTITIONS) for n in range(20)}) == PARTITIONS
    assert len(work.commands()) == 3
    assert work.rooms.counts() == {"narrow": (3, 17)}

    work.kill()
    work.step()
    assert len(work.commands()) == 3
    for answered in range(1, 21):
        work.answer(1)
        work.step()
        assert len(work.commands()) == min(20, 3 + answered)

    assert set(work.statuses().values()) == {("completed", "-")}
    assert work.rooms.counts() == {"narrow": (0, 0)}


def test_a_queued_command_that_cannot_be_written_holds_its_saga(caplog: pytest.LogCaptureFixture) -> None:
    """It is larger than its topic takes: nobody else is held up, and nothing stops."""
    work = Work()
    for number in range(8):
        work.start(f"s-{number}", "y" * 5_000 if number == 4 else "x")
    for _ in range(8):
        work.step()
        work.answer(10)
    work.step()

    assert work.loop.status.stopped == ()
    statuses = work.statuses()
    assert statuses.pop("s-4") == ("running", "quarantined")
    assert set(statuses.values()) == {("completed", "-")}
    assert "step 'Reserve': expected a command that can be written, got: " in caplog.text
    assert work.rooms.counts() == {"narrow": (0, 0)}
