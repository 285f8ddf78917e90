"""Composition root of the relay: builds slot, sink and loop from a few names, and connects again.

run_relays([RelaySettings("postgresql://…/inventory", "localhost:9092")])   # blocks until SIGTERM or Ctrl-C
with RelayService(RelaySettings("postgresql://…/inventory", "localhost:9092")): ...   # inside another program

One relay is one thread with one slot on one database; several in a process share nothing but the process.
Relays of the same slot, in whichever processes, stand by for one another: the server admits one reader.
"""

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import TracebackType

from kompensate.outbox import doctor
from kompensate.outbox.checkpoint import SlotState, Start, check_slot, start_from
from kompensate.outbox.database import Database, reacting
from kompensate.outbox.errors import Disconnected, Halted, Misconfigured, SlotInUse
from kompensate.outbox.health import Observed, ProcessHealth, RelayHealth, State, metrics
from kompensate.outbox.kafka import KafkaSink, partitions
from kompensate.outbox.naming import Names, database_of, is_polled, slot_name
from kompensate.outbox.patience import begun
from kompensate.outbox.pgoutput import ProtocolError, lsn_text
from kompensate.outbox.polled import open_rows
from kompensate.outbox.polling import PollingSource
from kompensate.outbox.relay import Limits, Relay, Source
from kompensate.outbox.replication import Slot, let_fail_over, refusal_of, server_of
from kompensate.outbox.setup import Finding, finding, needed
from kompensate.outbox.tables import OUTBOX, PUBLICATION
from kompensate.schemas.health import HealthEndpoint
from kompensate.schemas.refusals import check_bootstrap
from kompensate.schemas.signals import when_told
from kompensate.schemas.topics import dead_topic

log = logging.getLogger(__name__)

STANDBY_SECONDS = 0.5
"""How often a waiting relay asks for the slot: what a takeover costs beyond the other's end."""
RETRY_SECONDS_MAX = 5.0
REMINDER_SECONDS = 60.0
"""How often a process that goes on with its other relays repeats why one has stopped."""
GC_THRESHOLDS = 500_000, 20, 100
"""Records under way are many, live for milliseconds and hold no cycles: looking for some cost half a relay's time."""
DEAD_TOPIC_TRIES = 5
KAFKA_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """One outbox and where it goes. `kafka` are librdkafka's options (TLS and SASL among them)."""

    dsn: str
    bootstrap: str
    service: str | None = None
    """Names the dead-letter topic, `<prefix><service>.dead`. Default: the database's name."""
    prefix: str = ""
    slot: str | None = None
    """Slot names are one space for a whole server. Default: `kompensate_outbox_<database>`."""
    publication: str = PUBLICATION
    table: str = OUTBOX
    polling: bool = False
    """Ask the table instead of reading PostgreSQL's log. MySQL, MariaDB and SQLite are polled anyway."""
    kafka: Mapping[str, object] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    @property
    def database(self) -> str:
        """The database's name. Raises ValueError where `dsn` is none."""
        return database_of(self.dsn)["dbname"]

    @property
    def polls(self) -> bool:
        return self.polling or is_polled(self.dsn)

    @property
    def names(self) -> Names:
        return Names(self.table, self.publication, self.slot or slot_name(self.database))

    @property
    def dead_topic(self) -> str:
        return dead_topic(self.service or self.database, self.prefix)


class RelayService:
    """One relay at work: `run()` in this thread, or `start()` and `stop()` in a thread of its own.

    With `resync` the table's rows are published once more before the slot is read: the way out of a Gap.
    """

    def __init__(self, settings: RelaySettings, *, resync: bool = False) -> None:
        """Raises ValueError for a `dsn` or a `bootstrap` that is none."""
        check_bootstrap(settings.bootstrap)
        self.settings = settings
        self.state: State = "connecting"
        self.failure: BaseException | None = None
        self._names = settings.names
        self._resync = resync
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._retries = 0
        self._relay: Relay | None = None
        self._rows = self._dead = 0

    def health(self) -> RelayHealth:
        """How it stands; may be asked from any thread."""
        relay, failure = self._relay, self.failure
        return RelayHealth.of(
            self.state,
            turned=0.0 if relay is None else time.monotonic() - relay.turned_at,
            rows=self._rows + (relay.rows if relay else 0),
            dead=self._dead + (relay.dead if relay else 0),
            failure=None if failure is None else str(failure),
            oldest=relay.oldest if relay else None,
        )

    def observed(self) -> Observed:
        """The same with its slot, which the database is asked for: what metrics are made of."""
        settings = self.settings
        try:
            with closing(Database(settings.dsn, self._names)) as database:
                slot = database.standing()
        except (Disconnected, Halted):
            slot = None
        return Observed(settings.database, self._names.slot, self.health(), slot)

    def run(self) -> None:
        """Carry rows until `stop()`; then wait for what is under way, confirm it and leave.

        Broken connections are made again for as long as it takes. Raises Halted: Misconfigured, Gap or
        Undeliverable, whose text says what to do.
        """
        standing_by = False
        try:
            while not self._stop.is_set():
                try:
                    self._session()
                    standing_by = False
                except SlotInUse:
                    if not standing_by:
                        log.info("slot %s is read by another relay: standing by", self._names.slot)
                    standing_by, self.state = True, "standby"
                    self._stop.wait(STANDBY_SECONDS)
                except (Disconnected, ProtocolError) as error:
                    self._await_retry(error)
        except Halted as error:
            self.state, self.failure = "halted", error
            log.error("relay of %s halted: %s", self.settings.database, error)
            raise
        self.state = "stopped"

    def start(self) -> None:
        """Work in a thread. What halts it is raised by `stop`, and stands in `failure` before."""
        self._thread = threading.Thread(target=self._run_noting_failure, name=f"relay {self.settings.database}")
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end, and wait for it. Raises what it was halted by."""
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if self.failure is not None:
                raise self.failure

    def ask_to_stop(self) -> None:
        """Ask it to end, without waiting: safe in a signal handler."""
        self._stop.set()

    @property
    def alive(self) -> bool:
        """Whether its thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def __enter__(self) -> "RelayService":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _run_noting_failure(self) -> None:
        try:
            self.run()
        except Halted:
            pass  # noted and logged
        except BaseException as error:
            log.exception("relay of %s ended by an error of its own", self.settings.database)
            self.state, self.failure = "halted", error

    def _await_retry(self, error: Exception) -> None:
        pause = min(RETRY_SECONDS_MAX, 0.1 * 2**self._retries)
        self._retries += 1
        self.state = "connecting"
        log.warning("relay of %s: %s; again in %.1f s", self.settings.database, error, pause)
        self._stop.wait(pause)

    def _session(self) -> None:
        """From connecting to a broken line, or to the request to stop."""
        settings = self.settings
        if settings.polls:
            self._poll()
            return
        database = Database(settings.dsn, self._names)
        try:
            database.check()
            self._make_slot(database)
            slot = Slot(settings.dsn, self._names, database)
            try:
                sink = KafkaSink(settings.bootstrap, settings.kafka)
                try:
                    self._carry(database, slot, sink)
                finally:
                    sink.close()
                    self._count()
            finally:
                slot.close()
        finally:
            database.close()

    def _poll(self) -> None:
        """A session without a slot."""
        settings = self.settings
        rows = open_rows(settings.dsn, settings.table, resync=self._resync)
        try:
            sink = KafkaSink(settings.bootstrap, settings.kafka)
            try:
                self._run_relay(
                    self._made(PollingSource(rows, settings.table), sink), f"polls its table {settings.table}"
                )
                self._resync = False
            finally:
                sink.close()
                self._count()
        finally:
            rows.close()

    def _made(self, source: Source, sink: KafkaSink, oid: int | None = None) -> Relay:
        settings = self.settings
        self._relay = Relay(
            source, sink, settings.dead_topic, self._stop.is_set, table=settings.table, oid=oid, limits=settings.limits
        )
        if self._missing(sink, source, settings.dead_topic):
            log.warning(
                "no topic %s: the relay will stop at the first row that its own topic refuses. Make it with "
                "`kompensate topics apply`",
                settings.dead_topic,
            )
        return self._relay

    def _run_relay(self, relay: Relay, how: str) -> None:
        self._retries = 0
        self.state = "streaming"
        log.info("relay of %s %s", self.settings.database, how)
        relay.run()

    def _make_slot(self, database: Database) -> None:
        """Have a slot to read from. Raises Gap, SlotInUse."""
        state = database.slot()
        if state is not None and state.active_pid is not None:
            raise SlotInUse(f"slot {self._names.slot} is read by process {state.active_pid} of the server")
        database.make_checkpoints()  # before the slot, whose making would wait for it
        dsn, names = self.settings.dsn, self._names
        if not self._resync:
            check_slot(database.checkpoint(), state, names.slot, lambda: server_of(dsn, names))
        if state is not None and state.lost:
            database.drop_slot()
            state = None
        if state is None:
            database.begin(server_of(dsn, names))
            database.create_slot()
        elif state.failover is False:
            let_fail_over(dsn, names)

    def _carry(self, database: Database, slot: Slot, sink: KafkaSink) -> None:
        # The slot's state first: the checkpoint is written before it, so what is read later is never behind.
        state = database.slot()
        if state is None:
            raise Disconnected(f"slot {self._names.slot} was dropped while it was being taken")
        slot.begin_at(state.lsn)
        checkpoint = database.checkpoint()
        start: Start = "publish" if self._resync else start_from(checkpoint, slot.holder.server, state)
        # Made before: a client that has no connection yet lets the first record wait for up to a second.
        relay = self._made(slot, sink, database.oid())
        if start == "publish":
            slot.forget()
        below = checkpoint.below if start == "publish the rest" and checkpoint is not None else None
        if start != "stream" and not self._publish(slot, state, relay, below):
            return
        self._run_relay(relay, f"reads slot {state.name} from {lsn_text(state.lsn)}")

    def _count(self) -> None:
        if self._relay is not None:
            self._rows, self._dead, self._relay = (
                self._rows + self._relay.rows,
                self._dead + self._relay.dead,
                None,
            )

    def _missing(self, sink: KafkaSink, source: Source, topic: str) -> bool:
        """Whether Kafka answers and has no such topic. While it is asked the slot is kept."""
        for _ in range(DEAD_TOPIC_TRIES):
            source.heartbeat()
            found = sink.missing(topic, 1.0)
            if found is not None or self._stop.is_set():
                return bool(found)
        return False

    def _publish(self, slot: Slot, state: SlotState, relay: Relay, below: int | None) -> bool:
        """Publish the table's rows, from transaction `below` on; False where it was stopped before they all were."""
        self.state = "publishing"
        # Held in a transaction of its own connection: notes would have to wait for the copy's end.
        reader = Database(self.settings.dsn, self._names)
        started = time.monotonic()
        try:
            mapping, rows = reader.rows(below)
            with closing(rows):
                done = relay.publish(mapping, begun(rows, slot.heartbeat))
        finally:
            reader.close()
        if not done:
            return False
        slot.note(state.lsn)
        self._resync = False
        if relay.rows:
            log.info("published %d rows of the outbox in %.1f s", relay.rows, time.monotonic() - started)
        return True


def diagnose(settings: RelaySettings) -> list[Finding]:
    """Look at everything that a relay rests on, without changing anything.

    Raises Misconfigured for Kafka options, and for a database that is polled.
    """
    if is_polled(settings.dsn):
        raise Misconfigured(
            f"relay doctor: expected a database of PostgreSQL, got {settings.dsn.partition(':')[0]}://, which is "
            "polled: `kompensate relay` itself names what is wrong there"
        )
    names, found = settings.names, partitions(settings.bootstrap, settings.kafka, KAFKA_SECONDS)
    try:
        database = Database(settings.dsn, names)
        with closing(database), reacting():
            findings = list(needed(database.ask, names, database.name))
            wanted = {}
            if not any(one.check in ("server.primary", "table") and one.level == "wrong" for one in findings):
                findings += _examine(settings, database)
                if any(one.check == "role.select" and one.level == "ok" for one in findings):
                    wanted = doctor.wanted_topics(database.ask, names)
    except (Disconnected, Misconfigured) as error:
        remedy = "start it, or mend the DSN"
        findings = [finding("wrong", "server", f"database {settings.database}", "an answer", str(error), remedy)]
        wanted = {}
    return [*findings, *doctor.topics(found, wanted, settings.dead_topic, settings.bootstrap)]


def _examine(settings: RelaySettings, database: Database) -> list[Finding]:
    ask, names = database.ask, settings.names
    return [
        *doctor.server(ask, names),
        *doctor.role(ask, names, refusal_of(settings.dsn, names)),
        *doctor.slot(ask, names, database.name, database.checkpoint),
        *doctor.failover(ask, names),
        *doctor.strays(ask, names),
        *doctor.table(ask, names),
    ]


def run_relays(settings: Sequence[RelaySettings], *, resync: bool = False, health_port: int | None = None) -> None:
    """Run one relay for each in a thread of its own, until SIGTERM or SIGINT; then drain and return.

    The process is taken to be the relays' own: its garbage collector is set to GC_THRESHOLDS. `health_port` serves
    /live, /ready and /metrics on 127.0.0.1 while they run; OSError where it is taken.

    One that halts does not stop the others: why it did is logged at once and each minute, and raised at
    the end. With one relay, or when all have halted, that is at once.
    """
    gc.set_threshold(*GC_THRESHOLDS)
    services = [RelayService(one, resync=resync) for one in settings]
    if len({one.dsn if one.polls else one.names.slot for one in settings}) < len(settings):
        databases = ", ".join(one.database for one in settings)
        raise ValueError(f"expected one relay a slot, or a database that is polled, got databases {databases}")
    stop = threading.Event()
    with when_told(stop.set), _served(services, health_port):
        _run_until(services, stop)


@contextmanager
def _served(services: Sequence[RelayService], port: int | None) -> Iterator[None]:
    if port is None:
        yield
        return
    server = HealthEndpoint(
        port,
        lambda: ProcessHealth.of({service.settings.database: service.health() for service in services}),
        lambda: metrics(service.observed() for service in services),
    )
    try:
        yield
    finally:
        server.close()


def _run_until(services: Sequence[RelayService], stop: threading.Event) -> None:
    for service in services:
        service.start()
    _watch(services, stop.wait)
    for service in services:
        service.ask_to_stop()
    failures = []
    for service in services:
        try:
            service.stop()
        except Exception as error:
            failures.append(error)
    if failures:
        raise failures[0]


def _watch(services: Sequence[RelayService], wait: Callable[[float], bool]) -> None:
    """Return when `wait` says so or no relay is left; keep saying why one is missing."""
    reminded = time.monotonic()
    while any(service.alive for service in services) and not wait(0.2):
        if time.monotonic() - reminded < REMINDER_SECONDS:
            continue
        reminded = time.monotonic()
        for service in services:
            if service.failure is not None:
                log.error("relay of %s is still halted: %s", service.settings.database, service.failure)
