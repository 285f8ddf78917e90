"""The whole shop at work: three databases, topics, three services, one relay and two workers, as processes.

What it makes carries a random name, so that several shops can use one stack, and is removed at the end.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

import psycopg
from confluent_kafka.admin import AdminClient

from examples.checkout import databases
from examples.checkout.children import Child, run
from examples.checkout.databases import Databases
from examples.checkout.sagas import app
from kompensate.compose.local.errors import StackError
from kompensate.compose.local.stack import Stack
from kompensate.schemas.topics import Topics

SERVICES = ("inventory", "payments", "shipping")
WORKERS = ("worker-1", "worker-2")
REMOVE_SECONDS = 15.0
# A process that was killed is given up by its consumer group after this.
SESSION_MS = 6_000


@contextmanager
def open_shop(
    directory: Path, *, own: bool, keep: bool = False, say: Callable[[str], None] = lambda _: None
) -> Iterator["Shop"]:
    """A shop at work on the stack of `directory`, and nothing of it left afterwards, unless `keep`. Raises StackError.

    `own`: the stack is this shop's, made anew and taken away with it; else it is there, and stays.
    """
    with ExitStack() as cleanup:
        stack = Stack(directory, say=say)
        if own:
            cleanup.enter_context(_alone_in(directory))
            stack.reset()
            if not keep:
                cleanup.callback(stack.reset)
        stack.up()
        shop = Shop(stack, directory / "logs")
        if not own and not keep:
            cleanup.callback(shop.remove)
        cleanup.callback(shop.close)
        say("three services with a database each, one relay, two workers")
        shop.open()
        yield shop


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


class Shop:
    """`open()` brings it up, `close()` stops its processes, `remove()` takes away its databases and topics."""

    def __init__(self, stack: Stack, logs: Path, *, session_ms: int = SESSION_MS, kind: str = "demo") -> None:
        """`session_ms`: after that a dead process's work is another's; `kind` begins all its names."""
        self._stack = stack
        self._session_ms = session_ms
        self._name = f"{kind}{secrets.token_hex(3)}"
        self.bootstrap = stack.bootstrap
        self.topics = Topics(app.name, f"{self._name}.")
        self.databases = Databases(*(stack.postgres_dsn(f"{self._name}_{service}") for service in SERVICES))
        self.environment = {
            "KOMPENSATE_BOOTSTRAP": self.bootstrap,
            "KOMPENSATE_PREFIX": self.topics.prefix,
            "KOMPENSATE_APP": "examples.checkout.sagas:app",
        }
        self.children = {name: Child(name, what, logs, self.environment) for name, what in self._commands().items()}

    def _commands(self) -> dict[str, list[str]]:
        """Arguments of `kompensate` for each process."""
        commands = {}
        for service, dsn in self.databases.all().items():
            # A named member that comes back takes its old place at once, instead of waiting for its own ghost to die.
            options = {
                "group.instance.id": f"{service}-1",
                "session.timeout.ms": self._session_ms,
                "heartbeat.interval.ms": self._session_ms // 3,
            }
            static = [part for name, value in options.items() for part in ("-X", f"{name}={value}")]
            commands[service] = ["participant", f"examples.checkout.{service}:{service}", "--dsn", dsn, *static]
        outboxes = [f"{service}={dsn}" for service, dsn in self.databases.all().items()]
        commands["relay"] = ["relay", *(part for outbox in outboxes for part in ("--dsn", outbox))]
        for worker in WORKERS:
            commands[worker] = ["worker", "--slot", worker, "--session-timeout", f"{self._session_ms / 1000:g}"]
        return commands

    def open(self) -> None:
        """Make databases and topics and start every process. Raises ChildEnded."""
        with psycopg.connect(self._stack.postgres_dsn(), autocommit=True) as connection:
            for service in SERVICES:
                connection.execute(f"CREATE DATABASE {self._name}_{service}")
        databases.create(self.databases)
        run(["topics", "apply"], self.environment)
        for child in self.children.values():
            child.start()

    def check(self) -> None:
        """Raise ChildEnded where a process ended by itself."""
        for child in self.children.values():
            child.check()

    def close(self) -> list[str]:
        """Stop every process; return the names of those that did not end when asked."""
        for child in self.children.values():
            child.ask_to_stop()
        return [name for name, child in self.children.items() if not child.stop()]

    def remove(self) -> None:
        """Take databases and topics away. For stacks that live on."""
        with psycopg.connect(self._stack.postgres_dsn(), autocommit=True) as connection:
            for service in SERVICES:
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
