"""Composition root of a participant: builds consumer, database and loop from a few names.

serve(inventory, "postgresql://…/inventory", "localhost:9092")      # blocks until SIGTERM or Ctrl-C
with Service(inventory, "postgresql://…/inventory", "localhost:9092"): ...   # inside another program
"""

import logging
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType

from sqlalchemy import Engine

from kompensate.outbox.keeping import Housekeeping
from kompensate.outbox.retention import Retention
from kompensate.outbox.tables import check_tables, create_tables
from kompensate.participants.database import adopt, connect
from kompensate.participants.kafka import KafkaGrave, KafkaSource
from kompensate.participants.outside.desk import Desk
from kompensate.participants.participant import Participant
from kompensate.participants.runner import Runner
from kompensate.participants.settings import Settings
from kompensate.participants.unit import Unit
from kompensate.schemas.refusals import check_bootstrap
from kompensate.schemas.signals import when_told
from kompensate.schemas.topics import commands_topic, dead_topic, participant_group

log = logging.getLogger("kompensate.participants")


class Service:
    """One participant at work: `run()` in this thread, or `start()` and `stop()` in a thread of its own.

    `database` is a URL, libpq's text or an Engine. `kafka` are librdkafka's options (TLS and SASL among them).
    `create` makes outbox and inbox where they are absent: for development, since it needs the rights.
    """

    def __init__(
        self,
        participant: Participant,
        database: str | Engine,
        bootstrap: str,
        *,
        prefix: str = "",
        kafka: Mapping[str, object] | None = None,
        settings: Settings | None = None,
        create: bool = False,
    ) -> None:
        self._participant = participant
        self._own_engine = isinstance(database, str)
        self._engine = connect(database, participant.name) if isinstance(database, str) else adopt(database)
        self._bootstrap = check_bootstrap(bootstrap)
        self._prefix = prefix
        self._kafka = dict(kafka or {})
        self._settings = settings or Settings()
        self._create = create
        retention = Retention(self._settings.outbox_days, self._settings.inbox_days)
        self._house = Housekeeping(self._engine, retention, outside=participant.calls_outside)
        self._runner: Runner | None = None
        self._source: KafkaSource | None = None
        self._unit: Unit | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Work until `stop()`; then finish the group in hand, commit offsets and leave.

        Raises MissingTables, CannotStart, KafkaStopped, and what the database says to a first connection.
        """
        self._prepare()
        self._work()

    def start(self) -> None:
        """Work in a thread. What stands in the way of starting is raised here, as by `run`; RuntimeError while at work.

        One that has stopped may be started again.
        """
        if self.alive:
            raise RuntimeError(f"participant {self._participant.name}: expected one that has stopped, got one at work")
        self._prepare()
        self._thread = threading.Thread(target=self._work_noting_failure, name=f"participant {self._participant.name}")
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end, and wait for it. Raises what the thread ended with, if it failed."""
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def ask_to_stop(self) -> None:
        """Ask it to end, without waiting: safe in a signal handler."""
        if self._runner is not None:
            self._runner.stop()

    @property
    def alive(self) -> bool:
        """Whether its thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def ready(self) -> bool:
        """Whether its consumer group has told it which partitions are its own: it takes their commands, if any.

        Not yet while it joins, which takes seconds after a member was killed; not any more when it has stopped.
        A `group.protocol=consumer` group says nothing to a member for which no partition is left: that is never ready.
        """
        return self._source is not None and self._source.held is not None

    def __enter__(self) -> "Service":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _prepare(self) -> None:
        """Connect to both sides and check them. Whatever fails leaves nothing open."""
        with ExitStack() as undo:
            undo.callback(self._let_go)
            self._runner = self._build(undo)
            undo.pop_all()

    def _build(self, undo: ExitStack) -> Runner:
        name = self._participant.name
        with self._engine.begin() as connection:
            if self._create:
                create_tables(connection)
            check_tables(connection, outside=self._participant.calls_outside)
        dead = dead_topic(name, self._prefix)
        commands = commands_topic(name, self._prefix) if self._participant.contracts else None
        events = {handler.contract: handler.topic for handler in self._participant.handlers if handler.topic}
        topics = sorted(set(events.values()))
        group = participant_group(name, self._prefix)
        source = KafkaSource(self._bootstrap, commands, group, self._kafka, events=topics)
        undo.callback(source.close)
        self._source = source
        source.check(dead, {topic.name: topic.partitions for topic in self._participant.publishes})
        grave = KafkaGrave(self._bootstrap, dead, self._kafka)
        desk = Desk(self._participant, self._engine, grave.bury) if self._participant.calls_outside else None
        self._unit = Unit(self._participant, self._engine, desk=desk, group_seconds=self._settings.group_seconds)
        taken = ", ".join((*self._participant.contracts, *events))
        log.info("participant %s joins to take %s from %s", name, taken, ", ".join(filter(None, (commands, *topics))))
        handle = self._unit.handle
        return Runner(source, grave, handle, self._settings, events=events, chore=self._house.keep, outside=desk)

    def _work(self) -> None:
        assert self._runner is not None
        try:
            self._runner.run()
        finally:
            self._let_go()

    def _work_noting_failure(self) -> None:
        try:
            self._work()
        except BaseException as error:
            log.exception("participant %s stopped", self._participant.name)
            self._failure = error

    def _let_go(self) -> None:
        if self._unit is not None:
            self._unit.close()
        if self._own_engine:
            self._engine.dispose()


def serve(
    participant: Participant,
    database: str | Engine,
    bootstrap: str,
    *,
    prefix: str = "",
    kafka: Mapping[str, object] | None = None,
    settings: Settings | None = None,
    create: bool = False,
) -> None:
    """Run a participant in the main thread until SIGTERM or SIGINT; then drain and return. As `Service.run`."""
    service = Service(participant, database, bootstrap, prefix=prefix, kafka=kafka, settings=settings, create=create)
    with when_told(service.ask_to_stop):
        service.run()
