"""One thread that reads an application's state topic for everybody who waits: for a saga's end, for an outcome.

Whoever waits registers a `Waiter`. It is shown what the topic holds (unless it asks to be spared: it registered
before its request was sent), then each record of its partition as it comes. So a thousand waiting callers cost one
consumer; what they ask of the past is read together.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from kompensate.orchestrator.client_errors import ClientError
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.lookup import Lookup

logger = logging.getLogger(__name__)

WAIT_SECONDS = 0.05
"""How long records are waited for: whoever comes meanwhile waits as long for what the past has to say."""


class Waiter(Protocol):
    """Somebody who waits. All calls come from the tail's thread; `settle` may take its time, the others may not."""

    partition: int

    def wants(self, key: bytes) -> bool:
        """Is it a key whose last record it needs to know of the past? Asked only where `past` is wanted."""

    def past(self, records: Mapping[bytes, Record]) -> None:
        """The last record of each key that it wants."""

    def see(self, record: Record) -> None:
        """Its partition's next record. Some that `past` showed may come again."""

    def caught_up(self) -> None:
        """There is no more of its partition just now."""

    def settle(self, lookup: Lookup) -> bool:
        """Whether it waits no longer; it may look things up. Raises ClientError."""

    def failed(self, error: BaseException) -> None:
        """It waits in vain."""


class Tail:
    """Follows the state topic while somebody waits. `open_lookup` makes a reader of the application's topics."""

    def __init__(self, open_lookup: Callable[[], Lookup]) -> None:
        self._open = open_lookup
        self._lock = threading.Lock()
        self._waiting: dict[Waiter, bool] = {}
        self._stopping = False
        self._following = threading.Event()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    @property
    def follows(self) -> bool:
        """Is it following the topic already?"""
        return self._following.is_set() and self._error is None and not self._stopping

    def join(self) -> None:
        """Start where it has not, and return when it follows the topic. Raises ClientError."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._following.clear()
                self._error = None
                self._thread = threading.Thread(target=self._run, name="kompensate-tail", daemon=True)
                self._thread.start()
        self._following.wait()
        if self._error is not None:
            raise self._error

    def watch(self, waiter: Waiter, *, past: bool = True) -> None:
        """Show `waiter` what comes, and with `past` what is there. From any thread."""
        with self._lock:
            self._waiting[waiter] = past
            error = self._error
        if error is not None:
            self.forget(waiter)
            waiter.failed(error)

    def forget(self, waiter: Waiter) -> None:
        """It waits no longer. From any thread."""
        with self._lock:
            self._waiting.pop(waiter, None)

    def close(self) -> None:
        """End the thread and its connections."""
        self._stopping = True
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            following, past = self._open(), self._open()
            with following.reader, past.reader:
                self._follow(following, past)
            raise ClientError("the client was closed while somebody waited")
        except BaseException as error:  # handed to whoever waits
            if not isinstance(error, ClientError):
                logger.exception("the tail has stopped")
            self._fail(error)
        finally:
            self._following.set()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            waiting, self._waiting = list(self._waiting), {}
        for waiter in waiting:
            waiter.failed(error)

    def _follow(self, following: Lookup, past: Lookup) -> None:
        topic = following.topics.state
        starts = following.reader.ends(topic, range(following.partitions))
        for batch in following.reader.follow(topic, starts, WAIT_SECONDS):
            self._following.set()
            if self._stopping:
                return
            with self._lock:
                waiting = list(self._waiting)
                fresh = [waiter for waiter, asks in self._waiting.items() if asks]
            self._show(waiting, batch.records, batch.caught_up)
            if fresh:
                self._show_past(past, fresh)
            self._settle(waiting, past)

    def _show(self, waiting: Iterable[Waiter], records: Iterable[Record], caught_up: frozenset[int]) -> None:
        by_partition: dict[int, list[Waiter]] = {}
        for waiter in waiting:
            by_partition.setdefault(waiter.partition, []).append(waiter)
        for record in records:
            for waiter in by_partition.get(record.partition, ()):
                waiter.see(record)
        for partition in caught_up:
            for waiter in by_partition.get(partition, ()):
                waiter.caught_up()

    def _show_past(self, past: Lookup, fresh: list[Waiter]) -> None:
        partitions = sorted({waiter.partition for waiter in fresh})
        wanted = past.reader.snapshot(past.topics.state, partitions, lambda key: any(w.wants(key) for w in fresh))
        for waiter in fresh:
            waiter.past({key: r for key, r in wanted[waiter.partition].items() if waiter.wants(key)})
        with self._lock:
            self._waiting.update({waiter: False for waiter in fresh if waiter in self._waiting})

    def _settle(self, waiting: Iterable[Waiter], past: Lookup) -> None:
        for waiter in waiting:
            try:
                settled = waiter.settle(past)
            except ClientError as error:
                waiter.failed(error)
                settled = True
            if settled:
                self.forget(waiter)
