"""The relay's Source by asking the table again and again, for databases whose log is not read. Pure, on `Rows`.

Rows become the same records as those of a replication slot: they go through the same `records.Mapping`. How a row that
commits late is not passed over is each database's own matter (see `polled`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Protocol
from uuid import UUID

from kompensate.outbox.pgoutput import Begin, Column, Commit, Insert, Keepalive, Message, Relation
from kompensate.outbox.records import REQUIRED

POLL_SECONDS: Final = 0.1
"""How often the table is asked while nothing comes: what a row waits at most beside the road itself."""
BATCH_MAX: Final = 1_000

_OID: Final = 1
_TEXT, _BIGINT, _BYTEA = 25, 20, 17
_TYPES: Final = {"partition": _BIGINT, "payload": _BYTEA}
NAMES: Final = tuple(REQUIRED)
COLUMNS: Final = ", ".join(f'"{name}"' for name in NAMES)
RELATION: Final = tuple(Column(name, _TYPES.get(name, _TEXT)) for name in NAMES)


class Rows(Protocol):
    """An outbox that is asked, by one relay at a time. All raise Disconnected."""

    def fresh(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """Rows not read yet: their place, then values of NAMES. Places never fall, and many rows may share one."""

    def rest(self) -> int:
        """The place up to which there is nothing that was not read."""

    def published(self, place: int) -> None:
        """Every row up to `place` is in Kafka: keep that in the database."""

    def stay(self) -> None:
        """Tell the database that its reader lives."""


class PollingSource:
    """The relay's Source over Rows."""

    def __init__(
        self,
        rows: Rows,
        table: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._rows = rows
        self._clock, self._sleep = clock, sleep
        self._coming: Iterator[Message] = iter((Relation(_OID, "", table, RELATION),))
        self._asked_at = -POLL_SECONDS

    def read(self, timeout: float) -> list[Message]:
        """See relay.Source."""
        found = list(islice(self._coming, BATCH_MAX))
        if found:
            return found
        wait = self._asked_at + POLL_SECONDS - self._clock()
        if wait > 0:
            self._sleep(min(wait, timeout))
            return []
        self._asked_at = self._clock()
        self._coming = self._messages()
        return list(islice(self._coming, BATCH_MAX))

    def _messages(self) -> Iterator[Message]:
        place = None
        for at, values in self._rows.fresh():
            if at != place:
                if place is not None:
                    yield Commit(place, place, 0)
                yield Begin(at, 0, 0)
                place = at
            yield Insert(_OID, [as_bytes(value) for value in values])
        if place is not None:
            yield Commit(place, place, 0)
        yield Keepalive(self._rows.rest(), False)

    def confirm(self, lsn: int) -> None:
        """See relay.Source."""
        self._rows.published(lsn)

    def heartbeat(self) -> None:
        """See relay.Source."""
        self._rows.stay()


def as_bytes(value: Any) -> bytes | None:
    """A driver's value as PostgreSQL would send it: UTF-8, eight bytes of an integer, or the bytes."""
    match value:
        case None:
            return None
        case str() | UUID():
            return str(value).encode()
        case int():
            return value.to_bytes(8, signed=True)
        case _:
            return bytes(value)
