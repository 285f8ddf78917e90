"""What runs in the world: workers, intakes, participants and relays, stepped by hand, stopped in order or killed."""

from collections.abc import Callable
from typing import Protocol

from kompensate.orchestrator.intake.loop import IntakeLoop
from kompensate.orchestrator.testing import MemoryLog
from kompensate.orchestrator.testing.sources import MemorySources
from kompensate.orchestrator.worker.loop import Loop
from kompensate.outbox.errors import Disconnected, Gap
from kompensate.participants.outside.desk import RUNNING_SECONDS
from kompensate.participants.runner import Runner
from kompensate.simulator.commands import MemorySource
from kompensate.simulator.database import Database, Session


class Process(Protocol):
    """One process. After `kill`, or an error out of `step`, it is of no use."""

    name: str

    def step(self) -> None:
        """One turn of its loop."""

    def stop(self) -> None:
        """As by SIGTERM: finish, leave the group."""

    def idle(self) -> bool:
        """Has it seen to all there is? Then a step does nothing, until something changes."""

    def member(self) -> tuple[str, str] | None:
        """The (group, member id) that it has there, which outlives it until it expires."""


class WorkerProcess:
    """A worker."""

    def __init__(self, name: str, group: str, make: Callable[[Callable[[MemoryLog], None]], Loop]) -> None:
        """`make` is given what is to be told of each log that the loop connects to."""
        self.name = name
        self._group = group
        self._log: MemoryLog | None = None
        self.loop = make(self._connected)

    def _connected(self, log: MemoryLog) -> None:
        self._log = log

    def step(self) -> None:
        self.loop.step()

    def stop(self) -> None:
        self.loop.close()

    def idle(self) -> bool:
        """But for its timers."""
        status = self.loop.status
        return status.joined and not status.restoring and self._log is not None and not self._log.unread

    def time_out(self) -> None:
        """The broker ends what it has open: that took too long."""
        if self._log is not None:
            self._log.time_out()

    def member(self) -> tuple[str, str] | None:
        return None if self._log is None else (self._group, self._log.member)


class IntakeProcess:
    """An intake. Its group takes what it last joined as for its member."""

    def __init__(self, name: str, group: str, make: Callable[[Callable[[MemorySources], None]], IntakeLoop]) -> None:
        """`make` is given what is to be told of each time that the loop joins."""
        self.name = name
        self._group = group
        self._sources: MemorySources | None = None
        self.loop = make(self._joined)

    def _joined(self, sources: MemorySources) -> None:
        self._sources = sources

    def step(self) -> None:
        self.loop.step()

    def stop(self) -> None:
        self.loop.close()

    def idle(self) -> bool:
        return self.loop.joined and self._sources is not None and not self._sources.unread

    def member(self) -> tuple[str, str] | None:
        return None if self._sources is None else (self._group, self._sources.member)


class ParticipantProcess:
    """A service's participant."""

    def __init__(
        self,
        name: str,
        group: str,
        source: MemorySource,
        runner: Runner,
        database: Database,
        deliver: Callable[[], None] | None = None,
    ) -> None:
        """`deliver` brings the ends of its outside calls, where they take time."""
        self.name, self.service = name, database.service
        self._deliver = deliver
        self.source = source
        self.runner = runner
        self._group, self._database = group, database
        runner.open()

    def step(self) -> None:
        try:
            if self._deliver is not None:
                self._deliver()
            self.runner.turn()
        finally:
            self._database.collect()

    def stop(self) -> None:
        self.runner.close()

    def idle(self) -> bool:
        return not self.source.unread and self.runner.idle_seconds() > 0

    def due(self) -> bool:
        """Has its time come, or that of a call which may have ended?"""
        return self.runner.idle_seconds() <= (0 if self._deliver is None else RUNNING_SECONDS)

    def member(self) -> tuple[str, str] | None:
        return self._group, self.source.member


class RelayProcess:
    """A service's relay. A broken connection is made again; a Gap is answered as an operator would, by a resync."""

    def __init__(self, name: str, connect: Callable[[bool], Session]) -> None:
        self.name = name
        self._connect = connect
        self._session: Session | None = None
        self._resync = False
        self.resyncs = 0

    def step(self) -> None:
        try:
            if self._session is None:
                self._session = self._connect(self._resync)
            self._session.step()
            self._resync = self._session.resync
        except Disconnected:
            self._session = None
        except Gap:
            self._session, self._resync = None, True
            self.resyncs += 1

    def stop(self) -> None:
        self._session = None

    def idle(self) -> bool:
        """It does not know: the broker's answers may still be under way."""
        return False

    def member(self) -> tuple[str, str] | None:
        return None
