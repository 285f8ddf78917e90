"""A service's database (SQLite in memory) with what PostgreSQL adds to it: a log of commits and a replication slot.

SQLite has no log to read, so after each of the participant's turns `collect` looks which rows were committed and
appends them to `transactions`, as one commit. A relay reads them through `MemorySlot`, whose confirmed position
outlives the relay, and produces through `MemorySink`; `Session` is a relay's life on one connection.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from kompensate.orchestrator.testing import MemoryBroker
from kompensate.outbox.checkpoint import Checkpoint, Server, SlotState, check_slot, start_from
from kompensate.outbox.errors import Disconnected, Gap
from kompensate.outbox.pgoutput import Begin, Column, Commit, Insert, Message, Relation
from kompensate.outbox.records import REQUIRED, Mapping, Record
from kompensate.outbox.relay import Delivered, Limits, Refusal, Relay
from kompensate.outbox.tables import create_tables
from kompensate.participants.database import connect

OID = 16_400
SYSTEM = "memory"
COLUMNS = tuple(Column(name, 25 if name == "id" else next(iter(types))) for name, types in REQUIRED.items())
_PARTITION = [column.name for column in COLUMNS].index("partition")
_SELECT = ", ".join(  # as bytes, as replication brings them
    f'CAST("{column.name}" AS BLOB)' if n != _PARTITION else '"partition"' for n, column in enumerate(COLUMNS)
)
_LSN_STEP = 10

LIMITS = Limits(confirm=0.05, confirm_idle=30.0, heartbeat=3.0, idle_wait=0.0, ack_wait=0.0)


class Database:
    """One service's database. `on_rows` is told of the outbox rows of each commit, by their position.

    `on_change`, where somebody wants to know, is told of each commit.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self.engine = connect("sqlite://", service)
        with self.engine.begin() as connection:
            create_tables(connection)
            connection.exec_driver_sql(
                "CREATE TABLE effect (id integer primary key, command_id text, phase text, compensates text, saga text)"
            )
            driver: Any = connection.connection.driver_connection
        self._driver = driver
        self._changes = 0
        self._seen = 0
        self._end = 100
        self.transactions: list[tuple[int, int, list[list[bytes | None]]]] = []
        self.slot: int | None = None
        self.checkpoint: Checkpoint | None = None
        self.reader: object | None = None
        self.on_rows: Callable[[int, list[list[bytes | None]]], None] = lambda lsn, rows: None
        self.on_change: Callable[[], None] | None = None

    def close(self) -> None:
        """Everything in it is gone."""
        self.engine.dispose()

    def query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows of a statement, past SQLAlchemy: only between transactions."""
        found: list[tuple[Any, ...]] = self._driver.execute(statement, parameters).fetchall()
        return found

    @property
    def in_transaction(self) -> bool:
        """Is one open?"""
        return bool(self._driver.in_transaction)

    def collect(self) -> bool:
        """Put what was committed since into the log; whether there was anything."""
        if self._driver.total_changes == self._changes:
            return False  # not even one that was taken back
        self._changes = self._driver.total_changes
        if self.on_change is not None:
            self.on_change()
        rows = self.query(f"SELECT rowid, {_SELECT} FROM outbox WHERE rowid > ? ORDER BY rowid", self._seen)  # noqa: S608 our own names
        if not rows:
            return False
        self._seen = rows[-1][0]
        values = [_values(row[1:]) for row in rows]
        self.transactions.append((self._end, self._end + 8, values))
        self.on_rows(self._end + 8, values)
        self._end += _LSN_STEP
        return True

    def rows(self) -> Iterator[list[bytes | None]]:
        """Every row of the outbox, in order of commit: for a resync."""
        for _lsn, _end, rows in list(self.transactions):
            yield from rows

    def create_slot(self) -> None:
        self.slot = self._end


def _values(row: Sequence[Any]) -> list[bytes | None]:
    values = list(row)
    values[_PARTITION] = struct.pack(">i", row[_PARTITION])
    return values


class MemorySlot:
    """A relay's Source. `on_confirm` is told before the position moves."""

    def __init__(self, database: Database, on_confirm: Callable[[int], None], batch: int = 200) -> None:
        self._database, self._on_confirm, self._batch = database, on_confirm, batch
        self._next: list[Message] = [Relation(OID, "public", "outbox", COLUMNS)]
        position = database.slot or 0
        transactions = database.transactions
        # Commits are made in steps of one size, so that a position tells the index.
        self._at = max(0, (position - (transactions[0][0] if transactions else position)) // _LSN_STEP)
        while self._at < len(transactions) and transactions[self._at][1] <= position:
            self._at += 1

    def read(self, timeout: float) -> Sequence[Message]:
        database = self._database
        if database.slot is None or database.reader is not self:
            raise Disconnected("the slot is gone, or another's")
        messages, self._next = self._next, []
        while self._at < len(database.transactions) and len(messages) < self._batch:
            commit_lsn, end_lsn, rows = database.transactions[self._at]
            messages.append(Begin(commit_lsn, 0, 1))
            messages += [Insert(OID, row) for row in rows]
            messages.append(Commit(commit_lsn, end_lsn, 0))
            self._at += 1
        return messages

    def confirm(self, lsn: int) -> None:
        database = self._database
        if database.slot is None or database.reader is not self:
            raise Disconnected("the slot is gone, or another's")
        self._on_confirm(lsn)
        database.checkpoint = Checkpoint(SYSTEM, lsn)
        database.slot = max(database.slot, lsn)

    def heartbeat(self) -> None:
        """Nobody watches."""


class MemorySink:
    """A relay's Sink: what was sent is written and answered when `poll` says so, in order.

    `lost` is asked per poll how many of those under way are written without their answer ever coming, after
    which the connection is broken; None: nothing is lost.
    """

    def __init__(self, broker: MemoryBroker, capacity: int = 1_000) -> None:
        self._broker, self._capacity = broker, capacity
        self._waiting: list[tuple[Record, Delivered]] = []
        self.lost: Callable[[int], int | None] = lambda waiting: None
        self.answered: Callable[[int], int] = lambda waiting: waiting

    def send(self, record: Record, delivered: Delivered) -> bool:
        if len(self._waiting) >= self._capacity:
            return False
        self._waiting.append((record, delivered))
        return True

    def refusal(self, error: object, record: Record) -> Refusal | None:
        """None is refused."""
        raise AssertionError(f"expected every record to be taken, got {error} for one of topic {record.topic}")

    def poll(self, timeout: float) -> bool:
        if not self._waiting:
            return True
        lost = self.lost(len(self._waiting))
        if lost is not None:
            waiting, self._waiting = self._waiting, []
            for record, _delivered in waiting[:lost]:
                self._write(record)
            raise Disconnected("the broker went away")
        count = self.answered(len(self._waiting))
        waiting, self._waiting = self._waiting[:count], self._waiting[count:]
        for record, _delivered in waiting:
            self._write(record)
        for _record, delivered in waiting:
            delivered(None, None)
        return not self._waiting

    def _write(self, record: Record) -> None:
        self._broker.produce(record.topic, record.partition, record.key, record.value, record.headers)


@dataclass
class Session:
    """A relay on one connection: from taking the slot to whatever ends it. Raises Disconnected."""

    database: Database
    sink: MemorySink
    dead_topic: str
    clock: Callable[[], float]
    on_confirm: Callable[[int], None]
    resync: bool = False
    relay: Relay = field(init=False)

    def __post_init__(self) -> None:
        database = self.database
        if not self.resync:
            self._check()
        if database.slot is None:
            database.create_slot()
        slot = MemorySlot(database, self.on_confirm)
        database.reader = slot
        self.relay = Relay(slot, self.sink, self.dead_topic, lambda: False, limits=LIMITS, clock=self.clock)
        self._publish = True
        if not self.resync:
            self._publish = (
                start_from(database.checkpoint, Server(SYSTEM, 0), self._state(database.slot or 0)) == "publish"
            )

    def _check(self) -> None:
        database = self.database
        state = None if database.slot is None else self._state(database.slot)
        check_slot(database.checkpoint, state, "memory", lambda: Server(SYSTEM, 0))

    @staticmethod
    def _state(lsn: int) -> SlotState:
        return SlotState("memory", "pgoutput", "memory", lsn, lost=False, active_pid=None)

    def step(self) -> None:
        if self._publish:
            database = self.database
            database.checkpoint = None
            lsn = database.slot or 0
            self.relay.publish(Mapping("public.outbox", COLUMNS), database.rows())
            database.checkpoint = Checkpoint(SYSTEM, lsn)
            self._publish = self.resync = False
        else:
            self.relay.step()


__all__ = ["Database", "Gap", "MemorySink", "MemorySlot", "Session"]
