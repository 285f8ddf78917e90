"""An application with its services in one process and in real time: `kompensate dev --light`.

A worker, an intake where there are mappings, a participant and a relay a service, stepped in turn by whoever holds the
`Light`, in his thread: so that a debugger stops all of them together. Databases are SQLite's, in memory. Local steps
run as in a worker, outside calls in place.
"""

import sys
from collections.abc import Callable, Sequence
from random import Random
from typing import Any
from uuid import uuid4

from sqlalchemy import BigInteger, Connection, MetaData, Table
from sqlalchemy.ext.compiler import compiles

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.local.steps import Steps
from kompensate.orchestrator.ports import Clock, Record
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.settings import Settings
from kompensate.participants.participant import Handler, Participant
from kompensate.schemas.formats import payloads_of
from kompensate.schemas.requests import make_request
from kompensate.schemas.topics import partition_of
from kompensate.simulator.application import Simulated
from kompensate.simulator.processes import Process
from kompensate.simulator.reading import MemoryReader
from kompensate.simulator.samples import sample
from kompensate.simulator.telling import headers
from kompensate.simulator.world import World

NAP_SECONDS_MAX = 0.001
"""A process that waits lets the others have their turn."""
SOURCE = "kompensate:light"

Prepare = Callable[[str, Connection], object]
"""Puts into a service's database what it needs: called with its name and a connection, in a transaction."""


class ShortNaps:
    """`clock`, on which nobody sleeps long."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.now, self.monotonic = clock.now, clock.monotonic

    def sleep(self, seconds: float) -> None:
        self._clock.sleep(min(seconds, NAP_SECONDS_MAX))


class StandIn(Participant):
    """A service that nobody wrote: every command is done, with null, or a value of the type that its step declares."""

    def __init__(self, name: str, application: Application) -> None:
        super().__init__(name, payloads=application.payloads)
        self._returns = Simulated(application).returns()

    def handler(self, contract: str) -> Handler | None:
        kind = self._returns.get(contract)
        return Handler(contract, lambda _: None if kind is None else sample(kind, Random(contract)), Any, (), None)


class Light:
    """`application` at work with `participants`; services without one get a stand-in, see `stand_ins`.

    `tell` hears of what nobody else says: what was quarantined, and dead letters.
    """

    def __init__(
        self,
        application: Application,
        participants: Sequence[Participant],
        clock: Clock,
        tell: Callable[[str], None],
        prepare: Sequence[Prepare] = (),
    ) -> None:
        settings = Settings()
        written = {found.name: found for found in participants}
        self.application = application
        self.stand_ins = tuple(name for name in application.services if name not in written)
        others = {name: one for name, one in written.items() if name not in application.services}
        self.idle = tuple(sorted(name for name, one in others.items() if not (one.subscribes or one.publishes)))
        played = {name: written.get(name) or StandIn(name, application) for name in application.services}
        played |= {name: one for name, one in others.items() if name not in self.idle}
        steps = Steps(application.limits, settings.step_threads)
        self.world = World(application, played, settings, Random(), ShortNaps(clock), steps)
        self._clock = clock
        self._tell = tell
        self._moved = False
        self._payloads = payloads_of(application.payloads, application.name)
        self.rejected: set[str] = set()
        """Sagas of whom a request lies in the quarantine."""
        broker = self.world.broker
        broker.on_append = lambda record: self._note([record])
        broker.on_commit = lambda records, _offsets: self._note(records)
        self.lookup = Lookup(MemoryReader(broker, self.world.topics), self.world.topics, self._payloads)
        for name, found in played.items():
            self._make_tables(found)
            for each in prepare:
                with self.world.databases[name].engine.begin() as connection:
                    each(name, connection)
        self.processes: list[Process] = [self.world.worker("light")]
        if application.intake:
            self.processes.append(self.world.intake("light"))
        for name in played:
            self.processes += [self.world.participant(name, 1), self.world.relay(name)]

    def step(self) -> bool:
        """One turn of each process; whether any of them wrote something."""
        self._moved = False
        for process in self.processes:
            process.step()
        return self._moved

    def ask(self, type_: str, saga_id: str, **what: Any) -> None:
        """What clients ask; `what` as in make_request. Raises ValueError, BadPayload."""
        request = make_request(type_, saga_id, source=SOURCE, time=self._clock.now(), payloads=self._payloads, **what)
        self.world.ask(request)

    def tell_event(self, topic: str, type_: str, key: str, payload: bytes | None) -> None:
        """What another program tells on a topic that somebody here listens to. Raises ValueError."""
        topics = self.world.heard()
        if topic not in topics:
            raise ValueError(
                f"expected a topic that is heard here ({', '.join(topics) or 'there is none'}), got {topic!r}"
            )
        partition = partition_of(key, self.world.broker.partitions(topic))
        found = headers(type_, key, str(uuid4()), SOURCE, self._clock.now())
        self.world.broker.produce(topic, partition, key.encode(), payload, found)

    def behind(self) -> bool:
        """Is there an event that has not been seen to?"""
        world = self.world
        groups: dict[str, Sequence[str]] = {name: one.subscribes for name, one in world.participants.items()}
        groups[world.topics.intake_group] = [mapping.topic for mapping in self.application.intake]
        return any(world.lags(group, topic) for group, topics in groups.items() for topic in topics)

    def close(self) -> None:
        """Stop the processes; everything is gone."""
        for process in self.processes:
            process.stop()
        self.world.close()

    def _make_tables(self, participant: Participant) -> None:
        """The tables that its handlers' modules know."""
        with self.world.databases[participant.name].engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE effect")  # the simulator's; a service may have one of its own
            for metadata in _tables_of(participant):
                metadata.create_all(connection)

    def _note(self, records: Sequence[Record]) -> None:
        topics = self.world.topics
        dead = {topics.dead(service) for service in self.world.participants}
        for record in records:
            self._moved = True
            if record.topic != topics.quarantine and record.topic not in dead:
                continue
            found = {name: (value or b"").decode(errors="replace") for name, value in record.headers or ()}
            if record.topic == topics.quarantine:
                self.rejected.add((record.key or b"").decode(errors="replace"))
                self._tell(f"rejected: {found.get('q_reason', '')}")
            else:
                self._tell(f"dead letter in {record.topic}: {found.get('q_reason', '')}")


def _tables_of(participant: Participant) -> list[MetaData]:
    found: dict[MetaData, None] = {}
    for handler in participant.handlers:
        for value in list(vars(sys.modules[handler.function.__module__]).values()):
            metadata = getattr(value, "metadata", None) if isinstance(value, type | Table) else value
            if isinstance(metadata, MetaData):
                found[metadata] = None
    return list(found)


@compiles(BigInteger, "sqlite")
def _integer(_type: Any, _compiler: Any, **_: Any) -> str:
    """SQLite numbers rows by itself only where their key is INTEGER; what is one in PostgreSQL is to be one here."""
    return "INTEGER"
