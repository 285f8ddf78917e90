"""Between the topics and whoever is told: a Sources that lets each trouble through once, and only then moves on.

At least once: what was told and not committed is told again by whoever goes on. Ids that were told are remembered, so
many of them, in memory; after a restart a saga that is still held may be told again, by the same id.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from kompensate.orchestrator.errors import Aborted
from kompensate.orchestrator.hook.troubles import ID
from kompensate.orchestrator.intake.ports import Sources
from kompensate.orchestrator.ports import Clock, OutRecord, Record

REMEMBERED_MAX = 100_000
"""About 15 MB of ids: more sagas than anybody looks at while they are held."""
TELLING_SECONDS_MAX = 60.0
"""After that the group is served before the rest is told: it expels who does not poll for five minutes."""


class NotTold(Exception):
    """Whoever is to be told did not take it; the text says what was expected and got."""


class Receiver(Protocol):
    """Who is told by something else than the topic."""

    def tell(self, id_: str, body: bytes) -> None:
        """Returns once it was taken. Raises NotTold."""


class TellOnce:
    """Sources over `inner`. Without a `receiver` what is told goes to its topic, in the transaction of the offsets."""

    def __init__(self, inner: Sources, receiver: Receiver | None, clock: Clock) -> None:
        self._inner, self._receiver, self._clock = inner, receiver, clock
        self._remembered: dict[str, None] = {}
        self._taken: set[str] = set()

    def poll(self, records_max: int, timeout: float) -> Sequence[Record]:
        return self._inner.poll(records_max, timeout)

    def commit(self, records: Sequence[OutRecord], offsets: Mapping[tuple[str, int], int]) -> None:
        """As the inner one's; Aborted too where somebody does not take what is told."""
        new = {id_: record for record in records if (id_ := _id(record)) not in self._remembered}
        if self._receiver is None:
            self._inner.commit(list(new.values()), offsets)
        else:
            self._tell(self._receiver, new)
            self._inner.commit([], offsets)
        self._taken.clear()
        self._remembered.update(dict.fromkeys(new))
        for id_ in list(self._remembered)[: max(len(self._remembered) - REMEMBERED_MAX, 0)]:
            del self._remembered[id_]

    def _tell(self, receiver: Receiver, new: Mapping[str, OutRecord]) -> None:
        began = self._clock.monotonic()
        for id_, record in new.items():
            if id_ in self._taken:
                continue
            if self._clock.monotonic() - began > TELLING_SECONDS_MAX:
                raise Aborted(
                    f"expected to tell {len(new)} troubles within {TELLING_SECONDS_MAX:g} s, got slow answers"
                )
            try:
                receiver.tell(id_, record.value or b"")
            except NotTold as error:
                raise Aborted(f"trouble {id_}: {error}") from error
            self._taken.add(id_)

    def rewind(self) -> None:
        self._inner.rewind()

    def close(self) -> None:
        self._inner.close()


def _id(record: OutRecord) -> str:
    return next((value or b"").decode() for name, value in record.headers or () if name == ID)
