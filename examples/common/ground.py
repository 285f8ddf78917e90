"""An example at work on a local stack: its databases, topics and processes, under names that nobody else has.

An example says what it is made of: its application, the participants with their tables, and the module of its HTTP
front if it has one. `open()` brings all of that up, `close()` stops the processes, `remove()` takes databases and
topics away, so that several examples, and several runs of one, can use the same stack.
"""

import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import TypeVar

import psycopg
from confluent_kafka.admin import AdminClient
from sqlalchemy import Connection, create_engine

from examples.common.children import Child, run
from kompensate.compose.local.errors import StackError
from kompensate.compose.local.stack import Stack
from kompensate.orchestrator import Application
from kompensate.orchestrator.client import Client
from kompensate.outbox.tables import create_tables
from kompensate.schemas.topics import Topics

REMOVE_SECONDS = 15.0
POLL_SECONDS = 0.05
# A process that was killed is given up by its consumer group after this.
SESSION_MS = 6_000
Tables = Callable[[Connection], None]
"""Makes a service's own tables and fills them; the caller commits."""
Program = Callable[[str], Sequence[str]]
"""The words that start a participant that is no Python, on the database of that URI."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What an example is made of. Places are written `module:object`, as on the command line."""

    application: Application
    place: str
    participants: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Tables] = field(default_factory=dict)
    front: str = ""
    """A module that serves HTTP on 127.0.0.1:$PORT when it is run."""
    others: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Modules that run beside, with arguments, by name; they and the front find a database in $DSN_<SERVICE>."""
    workers: Sequence[str] = ("worker-1",)
    environment: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, Program] = field(default_factory=dict)
    """What runs a service instead of `kompensate participant`, by service; its tables are made as ever."""


class Ground:
    """One run of an example. `children` are its processes: a participant each, `relay`, the workers, `intake`, `front`.

    The intake is there where the application has mappings; and those others that the example names.
    """

    def __init__(
        self, parts: Parts, stack: Stack, logs: Path, *, session_ms: int = SESSION_MS, kind: str = "demo"
    ) -> None:
        """`session_ms`: after that a dead process's work is another's; `kind` begins all its names."""
        self.parts = parts
        self.bootstrap = stack.bootstrap
        self._stack = stack
        self._session_ms = session_ms
        self._name = f"{kind}{secrets.token_hex(3)}"
        self.topics = Topics(parts.application.name, f"{self._name}.")
        self.dsns = {service: stack.postgres_dsn(f"{self._name}_{service}") for service in parts.participants}
        """Connection URI by service."""
        self.port = free_port() if parts.front else 0
        self.environment = {
            "KOMPENSATE_BOOTSTRAP": self.bootstrap,
            "KOMPENSATE_PREFIX": self.topics.prefix,
            "KOMPENSATE_APP": parts.place,
            **parts.environment,
        }
        self.children = {
            name: Child(name, arguments, logs, self.environment) for name, arguments in self._commands().items()
        }
        for service, words in parts.programs.items():
            options = " ".join(f"{name}={value}" for name, value in self._membership(service).items())
            member = {**self.environment, "KOMPENSATE_KAFKA": options}
            self.children[service] = Child(service, (), logs, member, program=words(self.dsns[service]))
        own = {f"DSN_{service.upper()}": dsn for service, dsn in self.dsns.items()}
        own |= {**self.environment, "PORT": str(self.port)}
        others = {**parts.others, "front": [parts.front]} if parts.front else parts.others
        for name, module in others.items():
            self.children[name] = Child(name, (), logs, own, program=(sys.executable, "-m", *module))

    def _commands(self) -> dict[str, list[str]]:
        """Arguments of `kompensate` for each process."""
        commands = {}
        for service, place in self.parts.participants.items():
            if service in self.parts.programs:
                continue
            static = [part for name, value in self._membership(service).items() for part in ("-X", f"{name}={value}")]
            commands[service] = ["participant", place, "--dsn", self.dsns[service], *static]
        if self.dsns:
            outboxes = [f"{service}={dsn}" for service, dsn in self.dsns.items()]
            commands["relay"] = ["relay", *(part for outbox in outboxes for part in ("--dsn", outbox))]
        session = ["--session-timeout", f"{self._session_ms / 1000:g}"]
        for worker in self.parts.workers:
            commands[worker] = ["worker", "--slot", worker, *session]
        if self.parts.application.intake:
            commands["intake"] = ["intake", "--slot", "intake", "--begin", "earliest", *session]
        return commands

    def _membership(self, service: str) -> dict[str, object]:
        """A named member that comes back takes its old place at once, instead of waiting for its own ghost to die."""
        return {
            "group.instance.id": f"{service}-1",
            "session.timeout.ms": self._session_ms,
            "heartbeat.interval.ms": self._session_ms // 3,
        }

    def client(self) -> Client:
        """A client of the application."""
        return Client(self.bootstrap, self.parts.application.name, prefix=self.topics.prefix)

    def open(self) -> None:
        """Make databases and topics and start every process. Raises ChildEnded."""
        with psycopg.connect(self._stack.postgres_dsn(), autocommit=True) as connection:
            for service in self.dsns:
                connection.execute(f"CREATE DATABASE {self._name}_{service}")
        make_tables(self.dsns, self.parts.tables)
        services = [f"--participant={place}" for place in self.parts.participants.values()]
        run(["topics", "apply", *services], self.environment)
        for child in self.children.values():
            child.start()

    def check(self) -> None:
        """Raise ChildEnded where a process ended by itself."""
        for child in self.children.values():
            child.check()

    def wait_until(self, what: str, condition: Callable[[], object], seconds: float) -> None:
        """Wait until `condition` holds. Raises TimeoutError that names `what`, ChildEnded."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"expected {what} within {seconds:g} s, got none")
            time.sleep(POLL_SECONDS)

    def close(self) -> list[str]:
        """Stop every process; return the names of those that did not end when asked."""
        for child in self.children.values():
            child.ask_to_stop()
        return [name for name, child in self.children.items() if not child.stop()]

    def remove(self) -> None:
        """Take databases and topics away. For stacks that live on."""
        with psycopg.connect(self._stack.postgres_dsn(), autocommit=True) as connection:
            for service in self.dsns:
                database = f"{self._name}_{service}"
                slots = connection.execute(
                    "SELECT slot_name FROM pg_replication_slots WHERE database = %s", [database]
                ).fetchall()
                for (slot,) in slots:
                    connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
                connection.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        known = admin.list_topics(timeout=REMOVE_SECONDS).topics
        ours = [name for name in known if name.startswith(self.topics.prefix)]
        for deleted in admin.delete_topics(ours).values() if ours else ():
            deleted.result(REMOVE_SECONDS)


def make_tables(dsns: Mapping[str, str], tables: Mapping[str, Tables]) -> None:
    """Outbox, inbox and each service's own tables."""
    for service, dsn in dsns.items():
        engine = create_engine(dsn)
        with engine.begin() as connection:
            create_tables(connection)
            tables[service](connection)
        engine.dispose()


AnyGround = TypeVar("AnyGround", bound=Ground)


@contextmanager
def at_work(
    directory: Path,
    make: Callable[[Stack, Path], AnyGround],
    *,
    own: bool,
    keep: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[AnyGround]:
    """What `make` makes, at work on the stack of `directory`; nothing of it is left afterwards, unless `keep`.

    `own`: the stack is this run's, made anew and taken away with it; else it is there, and stays. Raises StackError.
    """
    with ExitStack() as cleanup:
        stack = Stack(directory, say=say)
        if own:
            cleanup.enter_context(_alone_in(directory))
            stack.reset()
            if not keep:
                cleanup.callback(stack.reset)
        stack.up()
        ground = make(stack, directory / "logs")
        if not own and not keep:
            cleanup.callback(ground.remove)
        cleanup.callback(ground.close)
        say(", ".join(ground.children))
        ground.open()
        yield ground


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Nobody else may make a stack in `directory` meanwhile. Raises StackError."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise StackError(f"{directory}: expected to be alone here, got another run that is under way") from error
        yield


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
