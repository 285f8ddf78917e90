"""Debezium on Kafka Connect, registered and looked at: what is wrong comes out as Findings, as the relay's doctor has.

    register(DebeziumSettings("postgresql://db/inventory", "http://connect:8083", service="inventory"))

What Connect and the connector say is passed on without the database's password.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kompensate.outbox.connect import Connect, ConnectAway, ConnectRefused
from kompensate.outbox.database import Database, reacting
from kompensate.outbox.debezium import connector
from kompensate.outbox.doctor import BEHIND_BYTES, megabytes
from kompensate.outbox.errors import Disconnected, Misconfigured
from kompensate.outbox.naming import Names, database_of
from kompensate.outbox.setup import Ask, Finding, Level, finding, needed
from kompensate.outbox.tables import OUTBOX, PUBLICATION

START_SECONDS = 60.0
POLL_SECONDS = 0.2
FAILED_SECONDS = 3.0
"""A task that says so for longer has failed."""
RESTART_SECONDS = 30.0
"""One that had failed says so until Connect has come round to restarting it, which a busy one does late."""
# Where they differ from what is rendered, that may be meant: Connect's way to the database, and how often it looks.
_ITS_OWN = frozenset(
    {"database.hostname", "database.port", "database.user", "database.password", "database.sslmode", "poll.interval.ms"}
)
_REGISTER = "kompensate relay debezium register"
_AGAIN = (
    "rows may have been passed over: `kompensate relay --resync` publishes all that are in the table once more; then "
    "stop it and drop its slot"
)


@dataclass(frozen=True, slots=True)
class DebeziumSettings:
    """One outbox, and the Kafka Connect that is to carry it. Names are as for `debezium.connector`."""

    dsn: str
    connect: str
    service: str | None = None
    slot: str | None = None
    publication: str = PUBLICATION
    table: str = OUTBOX

    @property
    def name(self) -> str:
        """The connector's. Raises ValueError where `dsn` is none."""
        return self.service or database_of(self.dsn)["dbname"]

    @property
    def configuration(self) -> dict[str, str]:
        """Raises ValueError."""
        return connector(self.dsn, name=self.service, slot=self.slot, publication=self.publication, table=self.table)

    def shown(self, text: str) -> str:
        """What somebody else said, without the password."""
        password = self.configuration["database.password"]
        return " ".join((text.replace(password, "***") if password else text).split())


def register(settings: DebeziumSettings, clock: Callable[[], float] = time.monotonic) -> list[Finding]:
    """Make the connector, or give it its configuration again, and wait until it reads. What `check` finds then.

    Where something is wrong that would keep it from working, nothing is registered. Raises ValueError.
    """
    connect, configuration = Connect(settings.connect), settings.configuration
    found = [*_plugin(connect, configuration), *_database(settings, lambda ask: _needed(ask, settings))]
    if not _wrong(found):
        found += _validated(connect, settings)
    if _wrong(found):
        return found
    had_failed = "FAILED" in _states(connect.status(settings.name)).values()
    connect.put(settings.name, configuration)
    if had_failed:
        connect.restart_failed(settings.name)
    patience = RESTART_SECONDS if had_failed else FAILED_SECONDS
    deadline, failed_since = clock() + START_SECONDS, clock()
    while True:
        states = _states(connect.status(settings.name))
        if "FAILED" not in states.values():
            failed_since, patience = clock(), FAILED_SECONDS
        slot = _database(settings, lambda ask: _slot(ask, settings, started=True, published=False))
        # A task that runs has made its slot, and reads it a moment later.
        running = len(states) > 1 and set(states.values()) == {"RUNNING"} and not _wrong(slot)
        if running or clock() - failed_since > patience or clock() > deadline:
            return check(settings)
        time.sleep(POLL_SECONDS)


def check(settings: DebeziumSettings) -> list[Finding]:
    """Look at Connect, the connector, its tasks and position, the database and the slot. Nothing is changed.

    Raises ValueError.
    """
    connect, configuration = Connect(settings.connect), settings.configuration
    found = list(_plugin(connect, configuration))
    running, positions = False, 0
    if not _wrong(found):
        found += _registered(connect, settings)
        states = _states(connect.status(settings.name))
        running = "RUNNING" in [state for name, state in states.items() if name != "connector"]
        offsets = connect.offsets(settings.name)
        positions = len(offsets)
        if states:
            got = f"LSN {offsets[0]['lsn']}" if offsets and "lsn" in offsets[0] else f"{positions} of them"
            subject = f"connector {settings.name}"
            found.append(
                finding(
                    "ok" if positions else "advice",
                    "connector.offsets",
                    subject,
                    "a stored position",
                    got if positions else "none: it has published nothing yet",
                    "commit an outbox row, and look again",
                )
            )
    found += _database(
        settings,
        lambda ask: [
            *_needed(ask, settings),
            *_slot(ask, settings, started=running, published=positions > 0),
        ],
    )
    return found


def _needed(ask: Ask, settings: DebeziumSettings) -> Iterator[Finding]:
    return needed(ask, _names(settings), database_of(settings.dsn)["dbname"])


def _wrong(found: list[Finding]) -> bool:
    return any(one.level == "wrong" for one in found)


def _names(settings: DebeziumSettings) -> Names:
    return Names(settings.table, settings.publication, settings.configuration["slot.name"])


def _plugin(connect: Connect, configuration: Mapping[str, str]) -> Iterator[Finding]:
    subject, wanted = f"Kafka Connect at {connect.address}", configuration["connector.class"]
    try:
        version, plugins = connect.version(), connect.plugins()
    except (ConnectAway, ConnectRefused) as error:
        remedy = "start it, or mend --connect"
        yield finding("wrong", "connect", subject, "an answer", str(error), remedy)
        return
    yield finding("ok", "connect", subject, "an answer", f"version {version}")
    yield finding(
        "ok" if wanted in plugins else "wrong",
        "connect.plugin",
        subject,
        wanted,
        None if wanted in plugins else "no such plugin",
        "unpack Debezium's PostgreSQL connector into its plugin.path and restart it",
    )


def _validated(connect: Connect, settings: DebeziumSettings) -> Iterator[Finding]:
    """What the connector itself says of its configuration."""
    for name, problem in connect.problems(settings.name, settings.configuration):
        got = settings.shown(problem)
        yield finding(
            "wrong", "connector.valid", f"connector {settings.name}, {name}", "what it takes", got, "mend the DSN"
        )


def _registered(connect: Connect, settings: DebeziumSettings) -> Iterator[Finding]:
    subject, wanted = f"connector {settings.name}", settings.configuration
    got = connect.configuration(settings.name)
    if got is None:
        yield finding("wrong", "connector", subject, "a connector of that name", "none", f"make it with `{_REGISTER}`")
        return
    differing = [name for name in wanted if got.get(name) != wanted[name]]
    if not differing:
        yield finding("ok", "connector", subject, "as rendered", None)
    for name in differing:
        secret = "password" in name
        yield finding(
            "advice" if name in _ITS_OWN else "wrong",
            "connector.configuration",
            f"{subject}, {name}",
            "the DSN's" if secret else repr(wanted[name]),
            "another" if secret else repr(got.get(name)),
            f"give it its configuration again with `{_REGISTER}`",
        )
    status = connect.status(settings.name)
    for what, state in _states(status).items():
        yield finding(
            "ok" if state == "RUNNING" else "wrong",
            "connector.state",
            f"{subject}, {what}",
            "RUNNING",
            None if state == "RUNNING" else settings.shown(f"{state}{_why(status, what)}"),
            f"mend it and `{_REGISTER}` again, which restarts it" if state == "FAILED" else "resume it, or wait",
        )
    if status is not None and not status["tasks"]:
        yield finding("wrong", "connector.state", subject, "a task", "none", "see Connect's log")


def _states(status: Mapping[str, Any] | None) -> dict[str, str]:
    """`connector` and `task 0` with their states."""
    if status is None:
        return {}
    return {
        "connector": str(status["connector"]["state"]),
        **{f"task {task['id']}": str(task["state"]) for task in status["tasks"]},
    }


def _why(status: Mapping[str, Any] | None, what: str) -> str:
    """The lines of a stack trace that say something: its causes, the last of them first."""
    parts = [status["connector"], *status["tasks"]] if status else []
    for part in parts:
        trace = part.get("trace")
        if trace and what == (f"task {part['id']}" if "id" in part else "connector"):
            lines = str(trace).splitlines()
            causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
            return f": {(causes or lines)[-1 if causes else 0].partition(': ')[2] or lines[0]}"
    return ""


def _database(settings: DebeziumSettings, look: Callable[[Ask], Any]) -> list[Finding]:
    """What `look` finds; an advice where the database does not answer here: Connect may reach it all the same."""
    try:
        database = Database(settings.dsn, _names(settings))
        with closing(database), reacting():
            return list(look(database.ask))
    except (Disconnected, Misconfigured) as error:
        got = settings.shown(str(error))
        remedy = "look at slot and publication from where it does"
        return [finding("advice", "server", f"database of {settings.name}", "an answer here", got, remedy)]


def _slot(ask: Ask, settings: DebeziumSettings, *, started: bool, published: bool) -> Iterator[Finding]:
    """Debezium's slot. `started`: its task runs; `published`: it has stored a position."""
    name, database = settings.configuration["slot.name"], database_of(settings.dsn)["dbname"]
    subject = f"slot {name}"
    rows = ask(
        "SELECT plugin, database, active, wal_status,"
        " coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint"
        " FROM pg_replication_slots WHERE slot_name = %s",
        [name],
    )
    if not rows:
        remedy = _AGAIN if published else f"`{_REGISTER}`"
        got = "none, though rows were published" if published else "none"
        yield finding("wrong" if published or started else "advice", "slot", subject, "a slot", got, remedy)
        return
    [(plugin, of, active, status, behind)] = rows
    if (plugin, of) != ("pgoutput", database):
        got = f"{plugin or 'a physical slot'} on {of or 'no database'}"
        remedy = "give it another by --slot"
        yield finding("wrong", "slot", subject, f"plugin pgoutput on database {database}", got, remedy)
        return
    if status == "lost":
        remedy = f"drop it, register again, and know that {_AGAIN}"
        yield finding("wrong", "slot.wal_status", subject, "its log kept", f"wal_status {status!r}", remedy)
        return
    got = f"{'read' if active else 'not read'}, {megabytes(behind)} behind"
    level: Level = "ok" if active and behind <= BEHIND_BYTES else "wrong" if started and not active else "advice"
    yield finding(
        level, "slot.lag", subject, "a reader close behind", got, "see the connector's state and Connect's log"
    )
