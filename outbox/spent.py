"""Outboxes whose rows are there until Kafka has them: SQLite's, MySQL's and MariaDB's.

What is there and not on its way is to be sent, however late it came, for nothing is deleted but what was sent. Rows
are numbered as they are inserted, so of two transactions the one that began after the other's commit has the higher
numbers: read in their order, nobody's rows come before those that they followed. A row with a number below the last one
that was read is late. It is found by counting: of those numbers there are as many rows as are on their way, or more.
The count is taken after the new rows are read, and late ones go first: whatever a new row followed was committed then.
"""

import fcntl
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.engine import make_url

from kompensate.outbox.errors import Misconfigured, SlotInUse
from kompensate.outbox.mysql import mysql_engine
from kompensate.outbox.polling import BATCH_MAX, NAMES
from kompensate.outbox.reacting import reacting

ROWS_MAX: Final = 250
"""Rows that are read at once: of the largest payloads a quarter of a gigabyte, which comes within SILENCE_SECONDS."""
LOCKED_SECONDS: Final = 30
"""How long SQLite's other writers are waited for."""
SILENCE_SECONDS: Final = 3
"""A relay that tells MySQL nothing for so long (paused, or its machine gone) loses the lock to another."""

# Names of locks are one space for a whole MySQL server, of at most 64 characters.
_LOCK: Final = "SELECT GET_LOCK(CONCAT('kompensate relay ', SHA1(CONCAT(DATABASE(), '.', %s))), 0)"


class SpentRows:
    """Reads what is there, deletes what was sent. `number` is the column that rows are numbered by.

    Places are numbers of our own: a row may have the number of one that was deleted.
    """

    def __init__(self, engine: Engine, table: str, number: str) -> None:
        self._engine = engine
        columns = ", ".join(map(engine.dialect.identifier_preparer.quote, NAMES))
        mark = "?" if engine.dialect.name == "sqlite" else "%s"
        order = f"ORDER BY {number} LIMIT {ROWS_MAX}"
        # Our own names throughout.
        self._new = f"SELECT {number}, {columns} FROM {table} WHERE {number} > {mark} {order}"  # noqa: S608
        self._count = f"SELECT count(*) FROM {table} WHERE {number} <= {mark}"  # noqa: S608
        self._there = f"SELECT {number} FROM {table} WHERE {number} <= {mark} ORDER BY {number}"  # noqa: S608
        self._one = f"SELECT {number}, {columns} FROM {table} WHERE {number} = {mark}"  # noqa: S608
        self._delete = f"DELETE FROM {table} WHERE {number} IN "  # noqa: S608
        self._read: deque[tuple[int, int]] = deque()  # (place, number) of rows on their way, oldest first
        self._last = self._place = 0

    def fresh(self) -> Generator[tuple[int, Sequence[Any]], None, None]:
        """See polling.Rows. No more than ROWS_MAX rows are held at once."""
        more = True
        while more:
            if not self._read:
                self._last = 0  # numbers may have begun anew: SQLite gives those of deleted rows again
            new = self._ask(self._new, self._last)
            yield from self._late()
            for row in new:
                self._last = row[0]
                yield self._on_its_way(row)
            more = len(new) == ROWS_MAX

    def _late(self) -> Iterator[tuple[int, Sequence[Any]]]:
        [(there,)] = self._ask(self._count, self._last)
        if there == len(self._read):
            return
        under_way = {number for _, number in self._read}
        for (number,) in self._ask(self._there, self._last):
            if number not in under_way:
                for row in self._ask(self._one, number):
                    yield self._on_its_way(row)

    def _on_its_way(self, row: Sequence[Any]) -> tuple[int, Sequence[Any]]:
        self._place += 1
        self._read.append((self._place, row[0]))
        return self._place, row[1:]

    def _ask(self, statement: str, number: int) -> Sequence[Sequence[Any]]:
        with reacting(), self._engine.connect() as connection:
            return connection.exec_driver_sql(statement, (number,)).all()

    def _note(self, statement: str) -> None:
        """Run a statement as the one relay of this outbox."""
        raise NotImplementedError

    def rest(self) -> int:
        """See polling.Rows."""
        return 0

    def published(self, place: int) -> None:
        """See polling.Rows."""
        spent = []
        while self._read and self._read[0][0] <= place:
            spent.append(str(self._read.popleft()[1]))
        with reacting():
            for first in range(0, len(spent), BATCH_MAX):
                self._note(f"{self._delete}({', '.join(spent[first : first + BATCH_MAX])})")


class SqliteRows(SpentRows):
    """A file, which one relay of this machine has locked."""

    def __init__(self, url: str, table: str) -> None:
        file = make_url(url).database
        if not file or file == ":memory:":
            raise Misconfigured(f"polling relay: expected SQLite's file, got {url}: another process sees no other")
        if not Path(file).exists():
            raise Misconfigured(f"polling relay: expected SQLite's file {file}, got none: create_tables() makes it")
        self._lock = Path(f"{file}-relay").open("w")  # noqa: SIM115  # held until close()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise SlotInUse(f"outbox in {file} is polled by another process") from error
        super().__init__(create_engine(url, connect_args={"timeout": LOCKED_SECONDS}), table, "rowid")

    def _note(self, statement: str) -> None:
        with self._engine.begin() as connection:
            connection.exec_driver_sql(statement)

    def close(self) -> None:
        """See polled.PolledRows."""
        self._engine.dispose()
        self._lock.close()

    def stay(self) -> None:
        """The lock is the operating system's."""


class MysqlRows(SpentRows):
    """A table of MySQL or MariaDB. The lock is a session's, in which rows are deleted too: who lost it deletes none."""

    def __init__(self, url: URL, table: str) -> None:
        # Every statement by itself, for each has to see what is committed by then.
        super().__init__(mysql_engine(url, "AUTOCOMMIT"), table, "position")
        with reacting():
            self._notes = self._engine.connect()
        try:
            with reacting():
                if self._notes.exec_driver_sql(_LOCK, (table,)).scalar_one() != 1:
                    raise SlotInUse(f"outbox {table} is polled by another relay")
                self._notes.exec_driver_sql(f"SET SESSION wait_timeout = {SILENCE_SECONDS}")
        except BaseException:
            self.close()
            raise

    def _note(self, statement: str) -> None:
        self._notes.exec_driver_sql(statement)

    def close(self) -> None:
        """See polled.PolledRows."""
        # Not given back to its pool: the server may have ended it, and it has the lock for as long as it lives.
        self._notes.invalidate()
        self._notes.close()
        self._engine.dispose()

    def stay(self) -> None:
        """See polling.Rows."""
        with reacting():
            self._notes.exec_driver_sql("SELECT 1")
