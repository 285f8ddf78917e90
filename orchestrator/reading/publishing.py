"""What a saga publishes, followed from the topics: its values as they stand, then each that it publishes, in order."""

import time
from collections.abc import Iterator
from typing import Any

from kompensate.orchestrator.client_errors import NotFound, TimedOut
from kompensate.orchestrator.kernel.events import ValuePublished
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.status import fold
from kompensate.orchestrator.reading.stored import Stored
from kompensate.orchestrator.reading.words import readable


def published(looking: Lookup, saga_id: str) -> dict[str, Any]:
    """The newest value of each name. Raises NotFound, DamagedSaga, ValueError."""
    folded = fold(looking.topics.app, saga_id, looking.history(saga_id), looking.payloads)
    return {name: folded.readable(value) for name, value in folded.state.published.items()}


def one_of(values: dict[str, Any], saga_id: str, name: str) -> Any:
    """The value of that name. Raises NotFound."""
    if name not in values:
        raise NotFound(f"saga {saga_id!r}: expected a published value {name!r}, got {', '.join(values) or 'none'}")
    return values[name]


def followed(
    following: Lookup, looking: Lookup, saga_id: str, timeout: float | None = None
) -> Iterator[tuple[str, Any]]:
    """(name, value): the newest of each name, then what is published from now on, until the saga has ended.

    Following holds on to its reader, so what is looked up on the way needs another. One that has not started is
    waited for; one that is forgotten is read from the history. Raises TimedOut after `timeout` seconds, DamagedSaga,
    NotFound where the history's retention has removed it.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    values = Values()
    first = True
    for changes in following.follow([saga_id]):
        for found in changes:
            yield from values.new(looking, found)
            if found.ended:
                return
        if first and not changes and looking.runs(looking.partition(saga_id), saga_id):
            yield from published(looking, saga_id).items()
            return
        first = False
        if deadline is not None and time.monotonic() > deadline:
            raise TimedOut(f"saga {saga_id!r}: expected its end within {timeout:g} s, got none")


class Values:
    """What of a saga was handed on already, by run and event."""

    def __init__(self) -> None:
        self._run: str | None = None
        self._events = 0

    def new(self, looking: Lookup, found: Stored) -> Iterator[tuple[str, Any]]:
        """What is new in `found`: the first time the newest of each name. Raises DamagedSaga, NotFound."""
        folded = fold(looking.topics.app, found.saga_id, looking.pages_in_time(found), looking.payloads)
        run, told = self._run, self._events
        self._run, self._events = folded.state.run, folded.state.events
        if run is None:
            yield from ((name, folded.readable(value)) for name, value in folded.state.published.items())
            return
        for line in folded.lines:
            if isinstance(line.event, ValuePublished) and (run != folded.state.run or line.sequence > told):
                yield line.event.name, readable(line.event.value)
