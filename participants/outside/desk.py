"""Outside calls of one process: begins them after their intent is committed, has their ends written, looks what is due.

The participant's loop calls `turn` each round, in its own thread: so there is one connection, and nothing to lock. What
must survive is in the database; here are only the tries under way.
"""

import json
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from queue import Empty, SimpleQueue
from uuid import uuid4

from sqlalchemy import Connection, Engine, text

from kompensate.outbox.naming import MYSQL
from kompensate.participants.orders import named
from kompensate.participants.outcome import OutsideCall, call_of
from kompensate.participants.outside.book import Book
from kompensate.participants.outside.due import Due
from kompensate.participants.outside.intake import Begun, Intake, Room
from kompensate.participants.outside.results import Bury, Results
from kompensate.participants.outside.tries import Ended, Hands, Threads, Try
from kompensate.participants.participant import Participant
from kompensate.participants.ports import Record
from kompensate.participants.replies import said
from kompensate.schemas.faults import fault
from kompensate.schemas.messages import Command

log = logging.getLogger("kompensate.participants")

LOOK_SECONDS = 1.0
"""How often the database is asked for what is due, when nothing says that there is something."""
BEAT_SECONDS = 1.0
"""How often heartbeats are written, and running calls told that a compensation waits for them."""
RUNNING_SECONDS = 0.01
"""How long the loop may wait for records while calls are out: their ends are not written sooner."""
STUCK_MAX = 64
"""Threads of calls that were broken off and did not end. More: no plain function is called until some have ended."""
SETTLE_MAX = 64
"""Ends written in one transaction; one at a time after it failed."""
FAILED_SECONDS, FAILED_MAX = 1.0, 10
"""Until ends are written again that could not be, and how often a single one: then its lease passes."""
DRAIN_SECONDS = 10.0
"""How long a participant that ends waits for its calls; those still out are taken over when their lease has passed."""


def database_time(connection: Connection) -> float:
    """Seconds since the epoch, by the clock that all processes of the service share."""
    if connection.dialect.name == "sqlite":
        return time.time()
    if connection.dialect.name in MYSQL:
        since = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
        return int(connection.execute(text(since)).scalar_one()) / 1e6
    return float(connection.execute(text("SELECT clock_timestamp()")).scalar_one().timestamp())


class Desk:
    """The outside calls of `participant` in this process. `bury` writes dead letters; `clock` is the database's."""

    def __init__(
        self,
        participant: Participant,
        engine: Engine,
        bury: Bury,
        *,
        clock: Callable[[Connection], float] = database_time,
        monotonic: Callable[[], float] = time.monotonic,
        hands: Callable[[Callable[[Ended], None], Callable[[], float]], Hands] = Threads,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:12]}"
        self._participant = participant
        self._engine = engine
        self._bury = bury
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep
        self._handlers = {h.contract: h for h in participant.handlers if h.external is not None}
        self._queue: SimpleQueue[Ended] = SimpleQueue()
        self._hands = hands(self._queue.put, monotonic)
        self._running: dict[str, Try] = {}
        self._stuck: set[Try] = set()
        self._ended: list[Ended] = []
        self._taken: list[Record] = []
        self._look_due = self._beat_due = self._failed_until = 0.0
        self._settle_max, self._failures = SETTLE_MAX, 0
        self._short = False

    def intake(self, connection: Connection) -> Intake:
        """What a group does with outside commands, in its transaction."""
        since = self._monotonic()
        return Intake(connection, self._participant.name, self.owner, since, self._clock, self._rooms())

    def committed(self, intake: Intake) -> None:
        """That transaction stands: begin its calls."""
        if intake.begun:
            fault("outside.after_intent")
        self._begin(intake.begun, intake.since)
        self._short = self._short or any(room.short for room in intake.rooms.values())

    def turn(self) -> None:
        """Write what ended, keep what runs, look what is due. What fails is tried again in a later round."""
        now = self._monotonic()
        self._collect(now)
        if now < self._failed_until:
            return
        try:
            if self._ended:
                self._settle()
            if self._running and now >= self._beat_due:
                self._beat_due = now + BEAT_SECONDS
                self._beat(now)
            if now >= self._look_due:
                self._look(now)
        except Exception as error:
            log.error("outside calls: nothing is lost, trying again in %g s: %s", FAILED_SECONDS, said(error))
            self._failed_until = now + FAILED_SECONDS

    def taken(self, most: int) -> list[Record]:
        """Commands that had to wait and are this process's to handle now; at most `most`."""
        found, self._taken = self._taken[:most], self._taken[most:]
        return found

    def idle_seconds(self) -> float:
        """How long the loop may wait before the next turn."""
        now = self._monotonic()
        if self._taken:
            return 0.0
        if self._running:
            return RUNNING_SECONDS
        due = self._failed_until if now < self._failed_until else 0.0 if self._ended else self._look_due
        return max(0.0, due - now)

    def close(self) -> None:
        """Wait for the calls that are out, for a while, and write their ends."""
        until = self._monotonic() + DRAIN_SECONDS
        while (self._running or self._ended) and (now := self._monotonic()) < until:
            self._collect(now)
            try:
                if self._ended and now >= self._failed_until:
                    self._settle()
            except Exception as error:
                log.error("outside calls: their results are asked for again after their leases: %s", error)
                self._failed_until = now + FAILED_SECONDS
            if self._running or self._ended:
                self._sleep(RUNNING_SECONDS)
        if self._running:
            log.warning(
                "%d outside calls are still out: they are taken over when their leases have passed", len(self._running)
            )
        self._hands.close()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """READ COMMITTED, whatever the engine's level is: who waited for a row has to see what became of it."""
        with self._engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                yield connection

    def _rooms(self) -> dict[str, Room]:
        """How many more calls of each kind may begin."""
        out = Counter(attempt.command.type for attempt in self._running.values())
        rooms = {}
        for contract, handler in self._handlers.items():
            assert handler.external is not None
            full = len(self._stuck) >= STUCK_MAX and not handler.is_async
            rooms[contract] = Room(0 if full else handler.external.concurrent - out[contract])
        return rooms

    def _begin(self, begun: Sequence[Begun], since: float) -> None:
        """`since` is from before their intents: a pause of this process in between counts."""
        now = self._monotonic()
        for one in begun:
            options = one.handler.external
            assert options is not None
            begin_by, deadline = since + options.lease, now + options.timeout
            call = _call(one.command, options.timeout, one.progress)
            what = (one.kind, one.number, one.command, one.handler, options, one.payload, call)
            attempt = Try(*what, now, begin_by, deadline)
            self._running[one.command.id] = attempt
            self._hands.start(attempt)

    def _collect(self, now: float) -> None:
        """Take what ended, and break off what gave no sign of life in time."""
        while True:
            try:
                end = self._queue.get_nowait()
            except Empty:
                break
            self._stuck.discard(end.attempt)
            end.seconds = now - end.attempt.begun
            if self._running.get(end.attempt.command.id) is end.attempt:
                del self._running[end.attempt.command.id]
            elif not end.definite:
                continue  # it was broken off, and has nothing to add
            self._ended.append(end)
        for attempt in list(self._running.values()):
            if attempt.call.signs.beaten:
                attempt.call.signs.beaten, attempt.beaten = False, True
                attempt.deadline = now + attempt.options.timeout
            elif now >= attempt.deadline:
                self._break_off(attempt, now)

    def _break_off(self, attempt: Try, now: float) -> None:
        del self._running[attempt.command.id]
        if not attempt.is_async:
            self._stuck.add(attempt)
        self._hands.break_off(attempt)
        late = TimeoutError(f"expected an end or a heartbeat within {attempt.options.timeout:g} s, got none")
        self._ended.append(Ended(attempt, error=late, seconds=now - attempt.begun))
        if len(self._stuck) >= STUCK_MAX:
            log.error("%d broken off calls never ended: no more are begun until some do", len(self._stuck))

    def _settle(self) -> None:
        ended = self._ended[: self._settle_max]
        try:
            with self._transaction() as connection:
                now = self._clock(connection)
                results = Results(self._participant, self.owner, connection, now, self._bury)
                results.write(ended)
        except Exception:
            self._failures = self._failures + 1 if len(ended) == 1 else 0
            self._settle_max = 1
            if self._failures >= FAILED_MAX:
                self._failures = 0
                self._ended.pop(0)
            raise
        fault("outside.after_result_commit")
        del self._ended[: len(ended)]
        self._settle_max, self._failures = SETTLE_MAX, 0
        for end in ended:
            _tell(end, answered=end.attempt.command.id in results.settled)
        # Room was made, and what waited for these may go on.
        wait = 0.0 if self._short or results.settled else min(results.waits, default=LOOK_SECONDS)
        self._look_due = min(self._look_due, self._monotonic() + wait)

    def _beat(self, now: float) -> None:
        """Write the signs of life, and tell those that somebody waits for their end, or has taken them over."""
        old = {i: t for i, t in self._running.items() if t.beaten or now - t.begun >= BEAT_SECONDS}
        if not old:
            return
        with self._transaction() as connection:
            book = Book(connection, self._participant.name, self._clock(connection))
            for command_id, attempt in sorted(old.items()):
                signs = attempt.call.signs
                if attempt.beaten and not book.extend(command_id, self.owner, attempt.options.lease, signs.progress):
                    signs.cancelled = True
            for command_id in book.awaited(old.keys()):
                old[command_id].call.signs.cancelled = True
        for attempt in old.values():
            attempt.beaten = False

    def _look(self, now: float) -> None:
        self._short = False
        busy = self._running.keys() | {end.attempt.command.id for end in self._ended}
        with self._transaction() as connection:
            due = Due(self._participant, self.owner, connection, self._clock(connection), self._bury)
            due.take_up(self._handlers, self._rooms(), busy)
        self._begin(due.begun, now)
        self._taken += due.records
        self._short = due.full
        self._look_due = now + LOOK_SECONDS


def _call(command: Command, timeout: float, progress: str | None) -> OutsideCall:
    plain = call_of(command)
    common = {field.name: getattr(plain, field.name) for field in fields(plain)}
    return OutsideCall(**common, timeout=timeout, progress=None if progress is None else json.loads(progress))


def _tell(end: Ended, *, answered: bool) -> None:
    if answered or end.error is None:
        return
    command, attempt = end.attempt.command, end.attempt
    log.warning("%s: outside %s %d: %s", named(command), attempt.kind, attempt.number, said(end.error))
