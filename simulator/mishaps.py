"""What befalls processes, killed, thrown out, paused in the middle of something, and their surroundings."""

from typing import TYPE_CHECKING

from kompensate.schemas.faults import InjectedFault
from kompensate.simulator.chaos import Killed, Occasions
from kompensate.simulator.processes import Process, WorkerProcess

if TYPE_CHECKING:
    from kompensate.simulator.run import Run

DEPTH_MAX = 3
"""Processes that stand still at once, each in the middle of something."""
UNPAUSED = (
    *("participant.after_claim", "participant.after_handler", "participant.before_db_commit"),
    *("outside.before_result_commit", "outside.before_call"),
)
"""Where nobody is paused: inside a database transaction, for SQLite knows no row locks; and in the last moment before a
call: who stands still there calls late, which nothing of ours can prevent."""
TO_PROCESSES = ("expire", "kill", "scale")
COMMAND_PARTITIONS_MAX = 5


class Mishaps:
    """Those of one run, turn by turn and at its processes' fault points."""

    def __init__(self, run: "Run") -> None:
        self._run, self._chaos = run, run.chaos
        self._each_turn = Occasions(run.chaos, (*TO_PROCESSES, "compaction", "grow", "slot"))
        self._at_points, self._pauses = Occasions(run.chaos, ("kill", "raise")), Occasions(run.chaos, ("pause",))

    def happen(self) -> None:
        """A turn begins."""
        random, services = self._chaos.random, self._run.world.application.services
        for kind in self._each_turn.hits():
            if kind == "compaction":
                self._compact()
            elif kind in TO_PROCESSES and self._run.running:  # none where all steps are local, and the workers are dead
                self._befall(kind, self._run.running[random.choice(list(self._run.running))])
            elif kind == "grow" and services:  # none where all steps are local
                self._grow(random.choice(services))
            elif kind == "slot" and services:
                database = self._run.world.databases[random.choice(services)]
                database.slot = database.reader = None
                self._run.stir()

    def _befall(self, kind: str, process: Process) -> None:
        if kind == "expire":
            self.expire(process)
        elif process in self._run.stack:
            return
        elif kind == "kill":
            self._kill(process)
        else:
            process.stop()
            self._run.dead(process)

    def _kill(self, process: Process) -> None:
        self._run.dead(process)
        if isinstance(process, WorkerProcess) and self._chaos.hit("offsets"):
            number = self._chaos.random.randrange(self._run.world.partitions)
            place = (self._run.world.topics.requests, number)
            if self._run.ledger.offsets.get(place, 0) > 0:
                self._run.moved.add(number)
                self._run.world.broker.set_committed(self._run.world.group, *place, self._run.ledger.offsets[place] - 1)

    def expire(self, process: Process) -> None:
        """Its group takes it for dead."""
        member = process.member()
        if member is not None:
            self._run.world.broker.expire_member(*member)
            self._run.stir()

    def _grow(self, service: str) -> None:
        """Somebody adds a partition to a service's command topic: keys move, and commands overtake each other."""
        topic = self._run.world.topics.commands(service)
        if self._run.world.broker.partitions(topic) < COMMAND_PARTITIONS_MAX:
            self._run.world.broker.add_partition(topic)
            for name in self._run.consumers[topic]:
                if name in self._run.running:
                    self.expire(self._run.running[name])

    def _compact(self) -> None:
        """Tombstones go only while nobody restores: that may not take as long as they are kept."""
        workers = [process for process in self._run.running.values() if isinstance(process, WorkerProcess)]
        keep = any(process.loop.status.restoring for process in workers) or self._chaos.random.random() < 0.5
        number = self._chaos.random.randrange(self._run.world.partitions)
        self._run.world.broker.compact(self._run.world.topics.state, number, keep_tombstones=keep)

    def at_point(self, name: str) -> None:
        """A process passes a fault point."""
        if self._chaos.calm or not self._run.stack:
            return
        hits = self._at_points.hits()
        if "kill" in hits:
            raise Killed
        if hits:
            raise InjectedFault(name)
        if name not in UNPAUSED and len(self._run.stack) < DEPTH_MAX and self._pauses.hits():
            self._pause(self._run.stack[-1])

    def _pause(self, process: Process) -> None:
        """It stands still while the others go on; then it goes on itself, whatever has become of its place."""
        random = self._chaos.random
        turns, expires = random.choice((10, 60, 400)), random.random() < 0.7
        for turn in range(turns):
            if self._run.turns >= self._run.plan.steps:
                break
            if turn == turns // 4 and expires:
                self.expire(process)
            if turn == turns // 2 and isinstance(process, WorkerProcess) and self._chaos.hit("timeout"):
                process.time_out()
            self._run.turn()
