"""Where the bench runs: a stack of its own, topics, child processes; all gone at the end."""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka.admin import AdminClient

from bench.sagas import APPLICATION
from kompensate.compose.local.stack import Stack
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.topics import TopicAdmin
from kompensate.schemas.topics import Topics

ROOT = Path(__file__).parent.parent
BROKER_SECONDS = 30.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
QUIET = {"log_level": "2"}
"""Clients that outlive the broker need not tell of it."""


class BenchError(Exception):
    """A figure could not be taken; the text says what was expected and got."""


class Child:
    """A process of ours. `lines` are the JSON lines it has printed; the rest of its output is in its log."""

    def __init__(self, name: str, argv: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self._output = folder / f"{name}-{secrets.token_hex(3)}.out"
        self.log = self._output.with_suffix(".log")
        with self._output.open("wb") as out, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env={**os.environ, **environment}
            )

    def lines(self) -> list[dict[str, Any]]:
        """The whole JSON lines printed so far."""
        text = self._output.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n") and line[0] == "{"]

    def result(self, seconds: float) -> dict[str, Any]:
        """Wait for its end; its last line. Raises BenchError with the end of its log where it fails or takes longer."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{self.name}: expected it to end within {seconds:g} s\n{self._tail()}") from error
        lines = self.lines()
        if code or not lines:
            raise BenchError(f"{self.name}: expected a line of JSON and exit code 0, got {code}\n{self._tail()}")
        return lines[-1]

    def until(self, true: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for something while this process lives. Raises BenchError."""
        deadline = time.monotonic() + seconds
        while not true():
            if self.process.poll() is not None:
                raise BenchError(f"{self.name} ended while waiting for {what}\n{self._tail()}")
            if time.monotonic() > deadline:
                raise BenchError(f"expected {what} within {seconds:g} s\n{self._tail()}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ask it to end, as an operator would, and wait; then insist."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def _tail(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return f"the end of {self.log}:\n" + "\n".join(text.splitlines()[-12:])


class Ground:
    """The stack, started when it is first asked for, and what figures share.

    `say` tells a person how it goes. `quick` makes every figure shorter, for trying the bench itself.
    """

    def __init__(self, say: Callable[[str], None], *, quick: bool) -> None:
        self.say = say
        self.quick = quick
        self._undo = ExitStack()
        self.folder = Path(self._undo.enter_context(tempfile.TemporaryDirectory(prefix="kompensate-bench-")))

    def __enter__(self) -> "Ground":
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def sized(self, count: int) -> int:
        """`count`, or a tenth of it for a quick run."""
        return count // 10 if self.quick else count

    @cached_property
    def stack(self) -> Stack:
        """Kafka and PostgreSQL on free ports."""
        self.say("starting Kafka and PostgreSQL")
        stack = Stack(self.folder)
        self._undo.callback(stack.reset)
        stack.up()
        return stack

    def defer(self, act: Callable[[], object]) -> None:
        """Do something at the end."""
        self._undo.callback(act)

    @contextmanager
    def child(self, name: str, *argv: str, environment: Mapping[str, str] | None = None) -> Iterator[Child]:
        """`python -m NAME ARGV…`, stopped at the end."""
        child = Child(name, [sys.executable, "-m", name, *argv], self.folder, environment or {})
        try:
            yield child
        finally:
            child.stop()

    @contextmanager
    def topics(self) -> Iterator[Topics]:
        """Topics as `kompensate topics apply` makes them, below a prefix of their own; deleted afterwards."""
        prefix = f"b{secrets.token_hex(3)}."
        admin = TopicAdmin(APPLICATION, Settings(bootstrap=self.stack.bootstrap, prefix=prefix, kafka=QUIET))
        admin.apply()
        try:
            yield Topics(APPLICATION.name, prefix)
        finally:
            names = [topic.name for topic in admin.plan()]
            deleting = AdminClient({"bootstrap.servers": self.stack.bootstrap, **QUIET})
            for deleted in deleting.delete_topics(names).values():
                deleted.result(BROKER_SECONDS)

    @contextmanager
    def database(self, stack: Stack | None = None) -> Iterator[str]:
        """Connection URI of a new database, of the bench's stack or another, dropped with its replication slots."""
        stack = stack or self.stack
        name = f"b{secrets.token_hex(4)}"
        with psycopg.connect(stack.postgres_dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
            try:
                yield stack.postgres_dsn(name)
            finally:
                of_it = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s"
                connection.execute(of_it, [name])
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
