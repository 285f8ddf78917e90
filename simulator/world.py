"""An application in one process: its topics in memory, a database a service, and the means to start processes.

Nothing happens by itself: whoever holds the world steps its processes and moves its clock. No fault is made here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TypeAlias

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.intake.loop import IntakeLoop
from kompensate.orchestrator.intake.translate import Translator
from kompensate.orchestrator.ports import Clock, Sagas, Steps
from kompensate.orchestrator.sagas.journal import watermark_writer
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.sagas.rooms import Rooms
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing import InlineSteps, MemoryBroker, MemoryLog
from kompensate.orchestrator.testing.log import MemoryProducer
from kompensate.orchestrator.testing.sources import MemorySources
from kompensate.orchestrator.worker.loop import Loop
from kompensate.orchestrator.worker.transactions import Producer
from kompensate.participants.outside.desk import Desk
from kompensate.participants.outside.tries import Ended, Hands, Inline
from kompensate.participants.participant import Participant
from kompensate.participants.runner import Runner
from kompensate.participants.settings import Settings as ParticipantSettings
from kompensate.participants.unit import Unit
from kompensate.schemas.messages import Request
from kompensate.schemas.requests import topic_of
from kompensate.schemas.topics import Topics, partition_of
from kompensate.simulator.commands import MemoryGrave, MemorySource
from kompensate.simulator.database import Database, MemorySink, Session
from kompensate.simulator.outside import SlowHands
from kompensate.simulator.processes import IntakeProcess, ParticipantProcess, RelayProcess, WorkerProcess

MakeHands: TypeAlias = Callable[[Callable[[Ended], None], Callable[[], float]], Hands]
MakeProducer: TypeAlias = Callable[[MemoryBroker, str, str], Producer]

PARTITIONS = 2
"""Of command topics, and of topics of which nobody said how many they have."""
UNHURRIED = ParticipantSettings(
    rest_seconds_min=0.001, poll_seconds=60.0, commit_interval_seconds=0.0, chore_seconds=1e12
)
"""Every wait of a participant is one on its source, which moves the clock; nothing is looked after."""


@dataclass
class World:
    """`application` with `participants` by service, those of its own services first. `random` is their jitter."""

    application: Application
    participants: Mapping[str, Participant]
    settings: Settings
    random: Random
    clock: Clock
    steps: Steps = field(default_factory=InlineSteps)
    hands: MakeHands = Inline
    """What carries out outside calls: by default at once, in the thread of all loops."""

    def __post_init__(self) -> None:
        self.partitions = self.application.partitions
        self.broker = MemoryBroker(self.clock)
        self.topics = Topics(self.application.name, self.settings.prefix)
        self.group = f"{self.settings.prefix}{self.application.name}"
        self.databases = {service: Database(service) for service in self.participants}
        services = self.application.services
        self.inputs = self.topics.inputs(services)
        for topic in (*self.inputs, self.topics.history):
            self.broker.create_topic(topic, self.partitions)
        for topic in (self.topics.state, self.topics.quarantine):
            self.broker.create_topic(topic, self.partitions, record_bytes_max=self.settings.record_bytes_max)
        for service in self.participants:
            self.broker.create_topic(self.topics.commands(service), PARTITIONS)
            self.broker.create_topic(self.topics.dead(service), 1)
        for name, count in self._event_topics().items():
            self.broker.create_topic(name, count)

    def _event_topics(self) -> dict[str, int]:
        """Whatever is told or heard, beside commands and answers: with how many partitions."""
        told = {topic.name: topic.partitions for one in self.participants.values() for topic in one.publishes}
        return dict.fromkeys(self.heard(), PARTITIONS) | told

    def heard(self) -> list[str]:
        """The topics of events that somebody listens to, sorted."""
        subscribed = {topic for one in self.participants.values() for topic in one.subscribes}
        return sorted(subscribed | {mapping.topic for mapping in self.application.intake})

    def lags(self, group: str, topic: str) -> bool:
        """Has this group something of the topic left to read, or is something of it undecided?"""
        for number in range(self.broker.partitions(topic)):
            ends = self.broker.ends(topic, number)
            at = (self.broker.committed(group, [topic], number) or {}).get(topic, ends.low)
            if ends.stable < ends.high or self.broker.read(topic, number, at):
                return True
        return False

    def worker(
        self,
        slot: str,
        sagas: Callable[[int, Rooms], Sagas] | None = None,
        producer: MakeProducer = MemoryProducer,
    ) -> WorkerProcess:
        """A worker in this slot. `sagas` makes those of one partition, by default the real ones."""

        def make(connected: Callable[[MemoryLog], None]) -> Loop:
            rooms = Rooms(self.application.limits)

            def connect() -> MemoryLog:
                log = MemoryLog(
                    self.broker,
                    self.settings,
                    group=self.group,
                    slot=slot,
                    inputs=self.inputs,
                    state=self.topics.state,
                    writer_of=watermark_writer,
                    clock=self.clock,
                    producer=producer,
                )
                connected(log)
                return log

            def of_partition(number: int) -> Sagas:
                return (sagas or self.sagas)(number, rooms)

            return Loop(connect, of_partition, self.settings, self.clock, self.steps)

        return WorkerProcess(f"worker-{slot}", self.group, make)

    def intake(self, slot: str, producer: MakeProducer = MemoryProducer) -> IntakeProcess:
        """An intake in this slot, for an application that has mappings."""
        translator, group = Translator(self.application, self.topics), self.topics.intake_group

        def make(joined: Callable[[MemorySources], None]) -> IntakeLoop:
            def connect() -> MemorySources:
                sources = MemorySources(
                    self.broker,
                    self.settings,
                    group=group,
                    slot=slot,
                    topics=translator.sources,
                    clock=self.clock,
                    producer=producer,
                )
                joined(sources)
                return sources

            return IntakeLoop(connect, translator, self.settings, self.clock)

        return IntakeProcess(f"intake-{slot}", group, make)

    def sagas(self, number: int, rooms: Rooms) -> Partition:
        """The sagas of one partition, empty."""
        return Partition(number, self.application, self.settings, rooms)

    def participant(self, service: str, number: int, settings: ParticipantSettings = UNHURRIED) -> ParticipantProcess:
        """One more participant of this service."""
        database, played = self.databases[service], self.participants[service]
        commands = self.topics.commands(service)
        source = MemorySource(self.broker, commands, service, self.clock, played.subscribes)
        grave = MemoryGrave(self.broker, self.topics.dead(service))
        hands: list[Hands] = []
        desk = self._desk(database, grave, hands) if played.calls_outside else None
        unit = Unit(played, database.engine, lambda: self.clock.now() / 1000, desk)
        runner = Runner(
            source,
            grave,
            unit.handle,
            settings,
            events={handler.contract: handler.topic for handler in played.handlers if handler.topic},
            outside=desk,
            clock=self.clock.monotonic,
            uniform=self.random.uniform,
        )
        deliver = partial(_deliver, hands) if desk is not None else None
        return ParticipantProcess(f"{service}-{number}", service, source, runner, database, deliver)

    def _desk(self, database: Database, grave: MemoryGrave, made: list[Hands]) -> Desk:
        """A participant's outside calls. `made` gets the hands that carry them out."""

        def make(ended: Callable[[Ended], None], monotonic: Callable[[], float]) -> Hands:
            made.append(self.hands(ended, monotonic))
            return made[0]

        def sleep(seconds: float) -> None:
            self.clock.sleep(seconds)
            _deliver(made)

        return Desk(
            self.participants[database.service],
            database.engine,
            grave.bury,
            clock=lambda _connection: self.clock.now() / 1000,
            monotonic=self.clock.monotonic,
            hands=make,
            sleep=sleep,
        )

    def relay(
        self,
        service: str,
        on_confirm: Callable[[int], None] = lambda _lsn: None,
        sink: Callable[[], MemorySink] | None = None,
    ) -> RelayProcess:
        """This service's relay."""

        def connect(resync: bool) -> Session:
            made = MemorySink(self.broker) if sink is None else sink()
            database, dead = self.databases[service], self.topics.dead(service)
            return Session(database, made, dead, self.clock.monotonic, on_confirm, resync)

        return RelayProcess(f"relay-{service}", connect)

    def close(self) -> None:
        """Everything in it is gone: databases, and all records at once, for a world is full of cycles."""
        for database in self.databases.values():
            database.close()
        self.broker.close()

    def ask(self, request: Request) -> None:
        """What a client or an operator writes."""
        partition = partition_of(request.saga_id, self.partitions)
        topic = topic_of(request, self.topics)
        self.broker.produce(topic, partition, request.saga_id.encode(), request.payload, request.headers())


def _deliver(made: list[Hands]) -> None:
    """Have the calls end whose time has come."""
    for hands in made:
        if isinstance(hands, SlowHands):
            hands.deliver()
