"""One run of a plan: processes stepped in an order that the seed gives, faults among them, then healing.

Everything happens in one thread. A paused process stands on this thread's stack while the others go on; that is
how a zombie comes back in the middle of what it did. Time stands still while anything happens, and jumps to what
is due next when nothing does.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import Any

from kompensate.orchestrator.errors import Fatal
from kompensate.orchestrator.kernel.operation import Operation
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.status import Line
from kompensate.orchestrator.sagas.rooms import Rooms
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing import VirtualClock
from kompensate.orchestrator.testing.broker import Offsets
from kompensate.participants.outcome import Call
from kompensate.schemas.faults import InjectedFault, observe
from kompensate.simulator import limits, rest
from kompensate.simulator.application import Simulated
from kompensate.simulator.audience import Audience
from kompensate.simulator.chaos import Chaos, Killed
from kompensate.simulator.effects import Effects
from kompensate.simulator.expected import Expected
from kompensate.simulator.histories import told
from kompensate.simulator.lateness import Lateness
from kompensate.simulator.ledger import Ledger
from kompensate.simulator.load import Load
from kompensate.simulator.mishaps import DEPTH_MAX, Mishaps
from kompensate.simulator.outside import providers
from kompensate.simulator.plan import Plan
from kompensate.simulator.processes import ParticipantProcess, Process, WorkerProcess
from kompensate.simulator.quiet import seeded, silenced, uncollected
from kompensate.simulator.scripted import Odds, Scripted
from kompensate.simulator.violation import Violation, expect
from kompensate.simulator.watched import Watched
from kompensate.simulator.world import World

OVERSHOOT_SECONDS = 0.5
"""Time jumps up to so far beyond what is due: several things are due at once, as under load."""
MARKER_SECONDS = 0.2
"""How long a marker may be under way while nothing else happens."""
HEALING_JUMPS_MAX = 400
"""A healed system that has not come to rest after so many jumps of time never will."""
PROCESS_SETTINGS = Settings(
    idle_poll_seconds=0.0, batch_records_max=200, live_sagas_max=40, page_bytes_max=1024, restores_max=4
)
"""Small pages and few sagas awake, so that closing and waking happen all the time."""


@dataclass(slots=True)
class Outcome:
    """What came of a run. `violation` None: everything held."""

    plan: Plan
    events: int = 0
    sagas: int = 0
    turns: int = 0
    transactions: int = 0
    fired: list[tuple[int, str]] = field(default_factory=list)
    ends: dict[str, int] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    violation: Violation | None = None
    histories: dict[str, list[Line]] = field(default_factory=dict)
    """Of the sagas that the violation names."""


class SimulatedClock(VirtualClock):
    """Whoever sleeps lets others go on."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        self.meanwhile()


def simulate(plan: Plan, simulated: Simulated, odds: Odds | None = None, *, logs: bool = False) -> Outcome:
    """Run `plan`; what it found stands in the outcome. With `logs` the loops may say what they do."""
    with uncollected(), nullcontext() if logs else silenced():
        return _simulate(plan, simulated, odds or Odds())


def _simulate(plan: Plan, simulated: Simulated, odds: Odds) -> Outcome:
    run = Run(plan, simulated, odds)
    outcome = Outcome(plan)
    with observe(run.mishaps.at_point), seeded(plan.seed), closing(run):
        try:
            run.go()
        except Violation as violation:
            outcome.violation = violation
            outcome.histories = told(run, violation)
    ledger = run.ledger
    outcome.events, outcome.transactions, outcome.turns = ledger.events, ledger.transactions, run.turns
    outcome.sagas, outcome.fired, outcome.ends = len(run.load.started), run.chaos.fired, dict(run.ends)
    outcome.held = {s: shadow.state.hold_reason for s, shadow in ledger.live.items() if shadow.state.hold is not None}
    return outcome


class Run:
    """The processes of one plan, and who watches them."""

    def __init__(self, plan: Plan, simulated: Simulated, odds: Odds) -> None:
        application = simulated.application
        self.plan, self.turns, self._simulated = plan, 0, simulated
        self.expected = Expected()
        self.ends: dict[str, int] = {}
        self.random = Random(f"{plan.seed}/schedule")
        self.clock = SimulatedClock()
        self.clock.meanwhile = self._meanwhile
        self.scripted = {
            name: Scripted(name, plan.seed, odds, self.reply, application.payloads, known)
            for name, known in simulated.services.items()
        }
        jitter = Random(f"{plan.seed}/jitter")
        self.world = World(application, self.scripted, PROCESS_SETTINGS, jitter, self.clock)
        self.ledger = Ledger(application.name, self.world.topics, application.services)
        self.effects = Effects(self.ledger, self.world.databases, lambda service: self.wake(f"relay-{service}"))
        self.chaos = Chaos(plan, self.world.broker, self.stir)
        self.mishaps = Mishaps(self)
        self.load = Load(plan, simulated, self.world, self.ledger, self.expected)
        self.moved: set[int] = set()
        self.partitions: dict[int, Watched] = {}
        self._owners: dict[int, str] = {}
        self.running: dict[str, Process] = {}
        self._makers: dict[str, Callable[[], Process]] = {}
        self.stack: list[Process] = []
        self._later: list[tuple[int, Callable[[], None]]] = []
        self._late = {s: Lateness(scripted, self.clock) for s, scripted in self.scripted.items()}
        self._workers = [f"worker-{number}" for number in range(plan.workers)]
        self.consumers = {
            self.world.topics.commands(service): [f"{service}-{number}" for number in range(plan.participants)]
            for service in self.scripted
        }
        self._activity = self._acted = self._jumps = 0
        self._busy: list[str] = []
        self._replies = {self.world.topics.replies(service): service for service in application.services}
        self.world.broker.on_append = self._appended
        self.world.broker.on_commit = self._committed
        self.audience = Audience(self, simulated) if self.world.heard() else None
        if self.audience is not None:
            self._replies |= self.audience.published
            self._makers |= self.audience.intakes()
        self.outside = providers(self)
        self._make_processes()

    def _make_processes(self) -> None:
        world, services = self.world, self.scripted
        for number in range(self.plan.workers):
            self._makers[f"worker-{number}"] = lambda n=number: world.worker(str(n), self._sagas, self.chaos.producer)  # type: ignore[misc]
        for service in services:
            for number in range(self.plan.participants):
                self._makers[f"{service}-{number}"] = lambda s=service, n=number: self._participant(s, n)  # type: ignore[misc]
            self._makers[f"relay-{service}"] = lambda s=service: world.relay(  # type: ignore[misc]
                s, lambda lsn: self.effects.confirmed(s, lsn), self.chaos.sink
            )
        for name in self._makers:
            self._start(name)

    def _sagas(self, number: int, rooms: Rooms) -> Watched:
        return Watched(number, self.world.application, self.world.settings, rooms, self)

    # What Watched tells.

    def restored(self, partition: Watched, positions: Mapping[str, int]) -> None:
        """It was read from the log, and goes on from these offsets."""
        owned = self._owned(partition.number)
        self.ledger.restored(partition, positions, owned)
        if owned:
            self.partitions[partition.number] = partition
            self._owners[partition.number] = self.stack[-1].name

    def remembered(self, partition: Watched, changed: Sequence[str]) -> None:
        """A batch that changed these sagas stands."""
        self.ledger.remembered(partition, changed)

    def running_with(self, number: int) -> tuple[int, ...]:
        """The partitions that were given to the worker which runs this one, read or not."""
        name = self._owners.get(number)
        known = [process for process in (*self.running.values(), *self.stack) if process.name == name]
        found = [process.loop.status for process in known if isinstance(process, WorkerProcess)]
        return next((status.running + status.restoring for status in found if number in status.running), ())

    def asked(self, saga_id: str, operation: Operation) -> None:
        """A program waits for this."""
        self.expected.note(saga_id, operation)

    def reply(self, type_: str, payload: dict[str, Any], call: Call) -> object:
        """What a participant makes of a command that is done."""
        issued, expected = self.ledger.issued.get(call.id), None
        if issued is not None and call.phase == "forward":
            expected = self.expected.result(call.saga_id, issued.made.number)
        return self._simulated.reply(type_, payload, expected)

    def closed(self, partition: Watched) -> None:
        """Its worker has let go of it."""
        if self.partitions.get(partition.number) is partition:
            del self.partitions[partition.number], self._owners[partition.number]

    def _owned(self, number: int) -> bool:
        """Does the group take the worker whose step this is for this partition's owner?"""
        return bool(self.stack) and number in self._owned_by(self.stack[-1])

    def _owned_by(self, process: Process) -> Collection[int]:
        """The partitions that this process's group has given it."""
        known = process.member()
        member = self.world.broker.group(known[0]).members.get(known[1]) if known else None
        return () if member is None else member.owned

    def _participant(self, service: str, number: int) -> Process:
        process = self.world.participant(service, number)
        process.source.held = self._late[service].held
        return process

    def _start(self, name: str) -> None:
        self.running[name] = self._makers[name]()
        self.wake(name)

    def close(self) -> None:
        """Let go of everything."""
        self.world.close()

    # What is watched.

    def _appended(self, record: Record) -> None:
        if self.audience is None or not self.audience.appended(record):
            owner = self._owners.get(record.partition)
            self.wake(*([owner] if owner else self._workers))
        service = self._replies.get(record.topic)
        if service is not None:
            self.effects.published(service, record)
        self.ledger.appended(record)

    def _committed(self, records: list[Record], groups: list[Offsets]) -> None:
        if self.audience is not None and self.audience.committed(records, groups):
            return
        asked = (self.world.topics.requests, self.world.topics.control)
        for topic, partition in dict.fromkeys((record.topic, record.partition) for record in records):
            if topic in asked:
                self.wake_owner(partition)
            elif topic in self.consumers:
                self.wake(*self._readers(topic, partition))
        self.ledger.committed(records, groups)
        limits.check(self)
        for state in self.ledger.fresh:
            self.effects.ended(state)
            self.ends[str(state.status)] = self.ends.get(str(state.status), 0) + 1

    def _readers(self, topic: str, partition: int) -> Sequence[str]:
        """Who takes a service's commands from this partition; anybody who could where nobody does."""
        names = self.consumers[topic]
        for name in names:
            process = self.running.get(name)
            if isinstance(process, ParticipantProcess):
                number = process.source.events + partition
                if number in self._owned_by(process):
                    return (name,)
        return names

    def paused_or_dead(self) -> bool:
        """Is somebody missing?"""
        return len(self.running) < len(self._makers) or len(self.stack) > 0

    # The schedule.

    def go(self) -> None:
        """The whole run. Raises Violation."""
        plan = self.plan
        while self.turns < plan.steps and not (self.load.done and self._over()):
            self.turn()
        self._heal()
        rest.check(self)

    def _over(self) -> bool:
        """Is nobody left but those of whom nothing more is to be expected?"""
        return all(rest.settled(self, shadow.state) for shadow in self.ledger.live.values())

    def turn(self) -> None:
        """One step of one process, and whatever else happens at this moment."""
        self.turns += 1
        self.clock.advance(0.001)
        self._due()
        self.load.step()
        self.chaos.arrive()
        self.mishaps.happen()
        if self.outside is not None:
            self.outside.turn()
        busy = self._busy
        if self.stack:
            busy = [name for name in busy if self.running[name] not in self.stack]
        if busy:
            self._step(self.running[busy[int(self.random.random() * len(busy))]])
        else:
            self._jump()

    def _due(self) -> None:
        if self._later and self._later[0][0] <= self.turns:
            due = [action for turn, action in self._later if turn <= self.turns]
            self._later = [(turn, action) for turn, action in self._later if turn > self.turns]
            for action in due:
                action()

    def _in(self, turns: int, action: Callable[[], None]) -> None:
        self._later.append((self.turns + turns, action))
        self._later.sort(key=lambda item: item[0])

    def _step(self, process: Process) -> None:
        before = self._activity
        self.stack.append(process)
        try:
            process.step()
        except Killed:
            self.dead(process)
        except (Fatal, InjectedFault):
            self.dead(process)
        except Exception as error:
            raise Violation("crash", f"{process.name}: {type(error).__name__}: {error}") from error
        finally:
            self.stack.pop()
        if isinstance(process, WorkerProcess) and process.loop.status.stopped:
            self._stopped(process)
        self._note(process, before)

    def _note(self, process: Process, before: int) -> None:
        """Has it anything to do? If not, nobody needs to step it until something changes for it."""
        if process.name not in self._busy:
            return
        restoring = isinstance(process, WorkerProcess) and process.loop.status.restoring
        if (self._activity == before and not restoring) or (process.idle() and not self._is_due(process)):
            self._busy.remove(process.name)

    def _is_due(self, process: Process) -> bool:
        """Has a partition of this worker's something to do by now that came from no log?"""
        now = self.clock.now()
        dues = [p.next_due for number, p in self.partitions.items() if self._owners[number] == process.name]
        return any(due is not None and due <= now for due in dues)

    def wake(self, *names: str) -> None:
        """Something has changed for these."""
        self._activity += 1
        for name in names:
            if name not in self._busy and name in self.running:
                self._busy.append(name)

    def wake_owner(self, partition: int) -> None:
        """Something has come for the worker that owns this partition."""
        self.wake(self._owners.get(partition, ""))

    def stir(self) -> None:
        """Something has changed, who knows for whom."""
        self.wake(*self.running)

    def dead(self, process: Process) -> None:
        """It is gone; its membership is not, for a while. Another comes in its place."""
        self.running.pop(process.name, None)
        for number in [number for number, owner in self._owners.items() if owner == process.name]:
            del self.partitions[number], self._owners[number]  # what it remembers is nobody's any more
        if process.name in self._busy:
            self._busy.remove(process.name)
        random = self.random
        member = process.member()
        if member is not None:
            self._in(random.choice((1, 20, 100)), lambda: self.mishaps.expire(process))
        self._in(random.choice((1, 5, 50, 200)), lambda: self._start(process.name))

    def _stopped(self, process: WorkerProcess) -> None:
        """A partition was stopped. That is right where somebody moved the group's offsets: he sets them right again."""
        stopped = dict(process.loop.status.stopped)
        strange = {number: reason for number, reason in stopped.items() if number not in self.moved}
        expect(not strange, "stopped", f"{process.name}: {strange}")
        for number in stopped:
            self.moved.discard(number)
            for topic in self.world.inputs:
                offset = self.ledger.offsets.get((topic, number))
                self.world.broker.set_committed(self.world.group, topic, number, offset)
        process.stop()
        self.dead(process)

    def _jump(self) -> None:
        """Nobody has anything to do: to the next time that somebody may. Where that led to nothing, further."""
        self._jumps = self._jumps + 1 if self._activity == self._acted else 0
        now = self.clock.now()
        dues = [(due - now) / 1000 for p in self.partitions.values() for due in p.dues]
        participants = [p for p in self.running.values() if isinstance(p, ParticipantProcess)]
        dues += [process.runner.idle_seconds() for process in participants]
        dues += [wait for late in self._late.values() for wait in late.waits()]
        under_way = bool(self.world.broker.undelivered())
        dues += [MARKER_SECONDS] * under_way
        seconds = max(0.001 * 4 ** min(self._jumps, 8), min(dues, default=60.0))
        self.clock.advance(seconds + self.random.random() * OVERSHOOT_SECONDS)
        if under_way and seconds >= MARKER_SECONDS:
            self.chaos.deliver()
        self.wake(*self._due_now(participants))
        self._acted = self._activity

    def _due_now(self, participants: list[ParticipantProcess]) -> list[str]:
        """Whose time has come; all of them where none of these helps."""
        if self._jumps > 2:
            return list(self.running)
        now = self.clock.now()
        names = [self._owners[n] for n, p in self.partitions.items() if any(due <= now for due in p.dues)]
        released = [service for service, late in self._late.items() if late.release()]
        for process in participants:
            if process.due() or process.service in released:
                names.append(process.name)
        return names

    def _meanwhile(self) -> None:
        """Somebody sleeps."""
        self.chaos.arrive()
        if self.stack and len(self.stack) < DEPTH_MAX and self.random.random() < 0.2:
            for _ in range(self.random.randint(1, 20)):
                self.turn()

    # Healing.

    def _heal(self) -> None:
        """No more faults; everybody is there; let it come to rest. Raises Violation where it does not."""
        self.chaos.calm = self.load.calm = True
        for scripted in self.scripted.values():
            scripted.calm = True
        if self.outside is not None:
            self.outside.calm = True
        jumps = 0
        while not rest.reached(self):
            before = self.ledger.events
            for _ in range(10 * len(self._makers)):
                self.turn()
            if self.ledger.events == before:
                jumps += 1
                self.load.help()
                if self.outside is not None:
                    self.outside.answer_unknown()
            expect(jumps < HEALING_JUMPS_MAX, "I3", f"expected to come to rest, got: {rest.missing(self)}")
