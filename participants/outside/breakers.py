"""The door to pybreaker: breakers whose state is a row of the service's database, so that all its processes share them.

Pybreaker counts failures and knows the states. A row is loaded and locked, told what happened, and written back in the
caller's transaction, by the database's clock. Half-open is ours: pybreaker would let every caller through at once; here
one command may try, and only its end closes or opens the breaker.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN, CircuitBreaker, CircuitBreakerStorage
from sqlalchemy import Column, Connection, DateTime, Integer, MetaData, Table, Text, and_, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite

from kompensate.outbox.naming import MYSQL
from kompensate.outbox.tables import BREAKER
from kompensate.participants.outside.moments import epoch, moment
from kompensate.participants.outside.options import External

_TABLE = Table(
    BREAKER,
    MetaData(),
    *(Column(name, Text, primary_key=True) for name in ("consumer", "contract")),
    *(Column(name, Text) for name in ("state", "probe")),
    Column("failures", Integer),
    *(Column(name, DateTime(timezone=True)) for name in ("opened_at", "probe_until")),
)
MANY = 1_000_000
"""As many as there is room for: the breaker is closed."""
_PROBE_LOOK_SECONDS = 1.0


class _Sick(Exception):
    """What a failed call is to pybreaker."""


@dataclass(slots=True)
class _Row:
    """A breaker as it was read; times in seconds since the epoch."""

    state: str = STATE_CLOSED
    failures: int = 0
    opened_at: float | None = None
    probe: str | None = None
    probe_until: float | None = None


class _Storage(CircuitBreakerStorage):
    """A row, as pybreaker looks at its state. The clock is the database's: when it opens, it opened now."""

    def __init__(self, row: _Row, now: float) -> None:
        super().__init__("row")
        self._row = row
        self._now = now
        self._successes = 0

    @property
    def state(self) -> str:
        return self._row.state

    @state.setter
    def state(self, state: str) -> None:
        self._row.state = state

    def increment_counter(self) -> None:
        self._row.failures += 1

    def reset_counter(self) -> None:
        self._row.failures = 0

    @property
    def counter(self) -> int:
        return self._row.failures

    def increment_success_counter(self) -> None:
        self._successes += 1

    def reset_success_counter(self) -> None:
        self._successes = 0

    @property
    def success_counter(self) -> int:
        return self._successes

    @property
    def opened_at(self) -> datetime | None:
        return moment(self._row.opened_at)

    @opened_at.setter
    def opened_at(self, _hosts_clock: datetime) -> None:
        self._row.opened_at = self._now


class Breakers:
    """The breakers of one service, in the transaction of `connection` that began at `now` (seconds since the epoch)."""

    def __init__(self, connection: Connection, consumer: str, now: float) -> None:
        self._connection = connection
        self._consumer = consumer
        self._now = now

    def room(self, contract: str, options: External) -> int:
        """How many of its commands are worth taking up: MANY, one (which would try), or none."""
        row = self._read(contract)
        if row.state == STATE_CLOSED:
            return MANY
        return 0 if self._closed_for(row, options) > 0 else 1

    def admit(self, contract: str, options: External, command_id: str) -> float:
        """Seconds for which this command may not call; 0: it may, and if the breaker is not closed it is the one."""
        if self._read(contract).state == STATE_CLOSED:
            return 0.0
        row = self._read(contract, lock=True)
        if row.state == STATE_CLOSED:
            return 0.0
        wait = self._closed_for(row, options)
        if wait > 0:
            return wait
        self._breaker(row, options).half_open()
        row.probe, row.probe_until = command_id, self._now + options.lease
        self._write(contract, row)
        return 0.0

    def tell(self, contract: str, options: External, ends: Sequence[tuple[str, bool]]) -> None:
        """What became of calls: (command id, whether the provider is well), in the order in which they ended."""
        row = self._read(contract)
        if row.state == STATE_CLOSED and not row.failures and all(well for _, well in ends):
            return
        row = self._read(contract, lock=True)
        breaker = self._breaker(row, options)
        for command_id, well in ends:
            if row.state == STATE_OPEN or (row.state == STATE_HALF_OPEN and row.probe != command_id):
                continue  # it was sent before the breaker opened: old news
            with suppress(_Sick):
                breaker.call(_be_well if well else _be_sick)
        if row.state != STATE_HALF_OPEN:
            row.probe = row.probe_until = None
        self._write(contract, row)

    def _closed_for(self, row: _Row, options: External) -> float:
        """Seconds for which nobody may try."""
        if row.state == STATE_OPEN:
            return (row.opened_at or 0.0) + options.breaker_seconds - self._now
        left = (row.probe_until or 0.0) - self._now
        return min(left, _PROBE_LOOK_SECONDS)

    def _breaker(self, row: _Row, options: External) -> CircuitBreaker:
        return CircuitBreaker(
            fail_max=options.breaker_failures,
            reset_timeout=options.breaker_seconds,
            state_storage=_Storage(row, self._now),
            throw_new_error_on_trip=False,
        )

    def _read(self, contract: str, *, lock: bool = False) -> _Row:
        asked = select(_TABLE).where(_TABLE.c.consumer == self._consumer, _TABLE.c.contract == contract)
        if lock:
            self._make(contract)
            asked = asked.with_for_update()
        found = self._connection.execute(asked).one_or_none()
        if found is None:
            return _Row()
        return _Row(found.state, found.failures, epoch(found.opened_at), found.probe, epoch(found.probe_until))

    def _make(self, contract: str) -> None:
        values = {"consumer": self._consumer, "contract": contract, "state": STATE_CLOSED, "failures": 0}
        if self._connection.dialect.name in MYSQL:
            unchanged = mysql.insert(_TABLE).values(values).on_duplicate_key_update(failures=_TABLE.c.failures)
            self._connection.execute(unchanged)
            return
        dialect: Any = sqlite if self._connection.dialect.name == "sqlite" else postgresql
        self._connection.execute(dialect.insert(_TABLE).values(values).on_conflict_do_nothing())

    def _write(self, contract: str, row: _Row) -> None:
        values = {"state": row.state, "failures": row.failures, "probe": row.probe}
        moments = {"opened_at": moment(row.opened_at), "probe_until": moment(row.probe_until)}
        mine = and_(_TABLE.c.consumer == self._consumer, _TABLE.c.contract == contract)
        self._connection.execute(update(_TABLE).where(mine).values(**values, **moments))


def not_closed(connection: Connection) -> list[tuple[str, str, float]]:
    """(contract, state, since when in seconds since the epoch) of all services of this database."""
    asked = select(_TABLE).where(_TABLE.c.state != STATE_CLOSED).order_by(_TABLE.c.contract)
    return [(row.contract, row.state, epoch(row.opened_at) or 0.0) for row in connection.execute(asked)]


def _be_well() -> None:
    """A call that was answered."""


def _be_sick() -> None:
    raise _Sick
