"""Real sagas under the worker's loop on the log in memory, while everything around them goes wrong at random."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import pytest

from kompensate.orchestrator.errors import Aborted, Corrupted, Fenced
from kompensate.orchestrator.ports import OutRecord
from kompensate.orchestrator.sagas.journal import STATE_HEADER, read_watermark, watermark_writer
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing import InlineSteps, MemoryBroker, MemoryLog, VirtualClock
from kompensate.orchestrator.worker.loop import Loop
from kompensate.schemas.messages import START, Command, Reply, Request
from kompensate.schemas.topics import Topics, partition_of
from tests.fixtures.echo_app import COMMANDS, LOCAL_RUNS, PARTITIONS, app

SAGAS, TURNS, STEPS_MAX = 30, 300, 20_000
SLOTS = ("a", "b", "c")


class Killed(BaseException):
    """kill -9 in the middle of a commit."""


class Weather:
    """A broker in memory, workers on it, participants that answer at once, and a hand that breaks things."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = VirtualClock()
        self.broker = MemoryBroker(self.clock)
        self.settings = Settings(batch_records_max=7, page_bytes_max=300, live_sagas_max=5)
        self.topics = Topics(app.name)
        self.inputs = self.topics.inputs(["echo"])
        for name in (*self.inputs, self.topics.state, self.topics.history, self.topics.quarantine):
            self.broker.create_topic(name, PARTITIONS, record_bytes_max=self.settings.record_bytes_max)
        self.broker.create_topic(self.topics.commands("echo"), PARTITIONS)
        self.trouble = 0.0
        self.workers: dict[str, Loop] = {}
        self.logs: dict[str, MemoryLog] = {}
        self._answered = dict.fromkeys(range(PARTITIONS), 0)
        self.started: dict[str, str] = {}
        self._paused: set[str] = set()

    def work(self, slot: str) -> None:
        """Start a worker in this slot."""

        def connect() -> MemoryLog:
            log = MemoryLog(
                self.broker,
                self.settings,
                group=app.name,
                slot=slot,
                inputs=self.inputs,
                state=self.topics.state,
                writer_of=watermark_writer,
                clock=self.clock,
            )
            self.logs[slot] = log
            self._break(slot, log)
            return log

        self.workers[slot] = Loop(
            connect, lambda n: Partition(n, app, self.settings), self.settings, self.clock, InlineSteps()
        )

    def _break(self, slot: str, log: MemoryLog) -> None:
        commit = log.commit

        def broken(records: Sequence[OutRecord], offsets: Mapping[tuple[str, int], int]) -> None:
            kinds = ("abort", "unknown", "fenced", "pause", "kill")
            kind = self.random.choice(kinds) if self.random.random() < self.trouble else ""
            if kind in ("unknown", "fenced") and self.random.random() < 0.5:
                commit(records, offsets)
            if kind == "abort":
                raise Aborted("weather")
            if kind == "unknown":
                raise Corrupted("weather", retry=True)
            if kind == "fenced":
                raise Fenced("weather")
            if kind == "kill":
                self._leave_open(log, records, offsets)
                raise Killed(slot)
            if kind == "pause":
                # Longer than its session: the others take its partitions and go on, then it commits what it had.
                self.broker.expire_member(app.name, log.member)
                self._paused.add(slot)
                for _ in range(5):
                    self._step(*(self.workers.keys() - self._paused))
                    self.answer()
                self._paused.discard(slot)
            commit(records, offsets)

        log.commit = broken  # type: ignore[method-assign]  # the point of it

    def _leave_open(self, log: MemoryLog, records: Sequence[OutRecord], offsets: Mapping[tuple[str, int], int]) -> None:
        """What a worker leaves behind that dies between produce and commit, with its offsets sent or not."""
        writer = log.writer
        epoch = self.broker.init_producer(writer)
        self.broker.begin(writer, epoch)
        for record in records:
            self.broker.produce_in(writer, epoch, *record)
        if self.random.random() < 0.5:
            member = (self.broker.group(app.name).generation, log.member)
            self.broker.send_offsets(writer, epoch, app.name, member, offsets)

    def start(self) -> None:
        saga_id, definition = f"saga-{len(self.started)}", self.random.choice(list(COMMANDS))
        self.started[saga_id] = definition
        id_ = str(UUID(int=self.random.getrandbits(128)))
        request = Request(id_, START, saga_id, "test", saga_type=definition, payload=b'{"n": 1}')
        for _ in range(self.random.choice((1, 1, 2))):
            self.broker.produce(
                self.topics.requests,
                partition_of(saga_id, PARTITIONS),
                saga_id.encode(),
                request.payload,
                request.headers(),
            )

    def answer(self) -> None:
        """Answer committed commands, now and then twice."""
        for partition, position in self._answered.items():
            for record in self.broker.read(self.topics.commands("echo"), partition, position):
                self._answered[partition] = record.offset + 1
                command = Command.parse(record.headers, record.value)
                id_ = str(UUID(int=self.random.getrandbits(128)))
                reply = Reply(id_, command.id, command.saga_id, "echo.Done", "echo", "done", b"{}")
                for _ in range(self.random.choice((1, 1, 2))):
                    key, headers = command.saga_id.encode(), reply.headers()
                    self.broker.produce(command.reply_to, command.reply_partition, key, b"{}", headers)

    def disturb(self) -> None:
        """One misfortune: a worker dies, falls silent, leaves or comes; the cleaner runs; time passes."""

        def die(slot: str) -> None:
            # Its process is gone; the group hears of it by its silence; what it had open stays open.
            self.broker.expire_member(app.name, self.logs[slot].member)
            del self.workers[slot]

        def fall_silent(slot: str) -> None:
            self.broker.expire_member(app.name, self.logs[slot].member)

        def leave(slot: str) -> None:
            self.workers.pop(slot).close()

        what: Callable[[str], None] = self.random.choice((die, fall_silent, leave))
        if self.logs.keys() & self.workers.keys() and self.random.random() < 0.3:
            what(self.random.choice(sorted(self.logs.keys() & self.workers.keys())))
        free = sorted(set(SLOTS) - self.workers.keys())
        if free and self.random.random() < 0.4:
            self.work(self.random.choice(free))
        self.broker.compact(self.topics.state, self.random.randrange(PARTITIONS))
        self.clock.advance(self.random.random())

    def turn(self) -> None:
        self._step(*self.workers)
        self.answer()

    def _step(self, *slots: str) -> None:
        for slot in self.random.sample(sorted(slots), len(slots)):
            try:
                if slot in self.workers:  # it may have died meanwhile, while another was paused
                    self.workers[slot].step()
            except Killed:
                del self.workers[slot]
                self.broker.expire_member(app.name, self.logs[slot].member)

    def expected(self) -> dict[str, str]:
        """Every saga with its definition: those that were started, and their children."""
        children = {f"{saga_id}.2": "four" for saga_id, definition in self.started.items() if definition == "crew"}
        return {**self.started, **children}

    def ended(self) -> dict[str, str]:
        found = {}
        for partition in range(PARTITIONS):
            for record in self.broker.read(self.topics.state, partition):
                header = dict(record.headers or ()).get(STATE_HEADER)
                if header and b"/" not in (record.key or b""):
                    found[(record.key or b"").decode()] = header.split()[3].decode()
        return {saga_id: status for saga_id, status in found.items() if status == "completed"}


@pytest.mark.parametrize("round_", range(12))
def test_sagas_in_bad_weather(round_: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever aborts, dies, falls silent, moves or is compacted: every saga completes, each command stands once.

    Sagas with local steps and children among them: every child was started once, every local step ran.
    """
    monkeypatch.chdir(tmp_path)  # local steps note there that they ran
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    weather = Weather(seed)
    weather.work("a")
    weather.trouble = 0.1
    for turn in range(TURNS):
        if turn % (TURNS // 2 // SAGAS) == 0 and len(weather.started) < SAGAS:
            weather.start()
        if weather.random.random() < 0.2:
            weather.disturb()
        # Joining and being fenced over and over is counted: let minutes pass between.
        weather.clock.advance(20 if weather.random.random() < 0.05 else 0)
        weather.turn()

    weather.trouble = 0.0
    weather.clock.advance(120)
    if not weather.workers:
        weather.work("a")
    for _ in range(STEPS_MAX):
        if weather.ended().keys() == weather.expected().keys():
            break
        weather.turn()

    commands: Counter[str] = Counter()
    for partition in range(PARTITIONS):
        for record in weather.broker.read(weather.topics.commands("echo"), partition):
            commands[Command.parse(record.headers, record.value).id] += 1
    assert weather.ended().keys() == weather.expected().keys()
    assert {id_: count for id_, count in commands.items() if count > 1} == {}
    assert len(commands) == sum(COMMANDS[definition] for definition in weather.expected().values())
    runs = set((tmp_path / LOCAL_RUNS).read_text().split()) if (tmp_path / LOCAL_RUNS).exists() else set()
    assert len(runs) == 2 * list(weather.started.values()).count("crew"), "one key a local step"
    assert all(not loop.status.stopped for loop in weather.workers.values())
    for partition in range(PARTITIONS):
        marks = [r for r in weather.broker.read(weather.topics.state, partition) if r.key == b"__wm/%d" % partition]
        committed = weather.broker.committed(app.name, weather.inputs, partition)
        assert not marks or read_watermark(marks[-1].value or b"").offsets == committed
