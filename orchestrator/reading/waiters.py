"""Who waits on a `Tail`: for the end of a saga, for what it publishes, or for what became of a request.

Each tells its caller once, by a `concurrent.futures.Future`, from the tail's thread.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from kompensate.orchestrator.client_errors import NotFound
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.handling import Handling, covers, handled, watermark_key
from kompensate.orchestrator.reading.lookup import CLOSED, Lookup, keys_of
from kompensate.orchestrator.reading.outcomes import Outcome, Sent
from kompensate.orchestrator.reading.publishing import Values
from kompensate.orchestrator.reading.status import SagaView, view
from kompensate.orchestrator.reading.stored import Stored, stored

T = TypeVar("T")


class Told(Generic[T]):
    """What waiters have in common: a future that may have been given up meanwhile."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.future: Future[T] = Future()

    def tell(self, answer: T) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(answer)

    def failed(self, error: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class End(Told[SagaView]):
    """Waits for a saga's end; `newest` is how it stands until then."""

    def __init__(self, saga_id: str, partition: int) -> None:
        super().__init__(partition)
        self.newest: Stored | None = None
        self._saga_id = saga_id
        self._wants = keys_of(saga_id)
        self._pages: dict[bytes, Record] = {}

    def wants(self, key: bytes) -> bool:
        return self._wants(key)

    def past(self, records: Mapping[bytes, Record]) -> None:
        for record in records.values():
            self.see(record)

    def see(self, record: Record) -> None:
        key = record.key or b""
        if not self._wants(key) or (key in self._pages and self._pages[key].offset >= record.offset):
            return
        self._pages[key] = record
        # A summary's later pages are tombstones; what is forgotten was ended before.
        there = {k: r for k, r in self._pages.items() if r.value is not None}
        self.newest = next(stored(there), self.newest)

    def caught_up(self) -> None:
        """A summary says all there is to say."""

    def settle(self, lookup: Lookup) -> bool:
        if self.newest is not None and self.newest.ended:
            self.tell(view(lookup.topics.app, self.newest, payloads=lookup.payloads))
        return self.future.done()


class Shows(End):
    """Hands on what a saga publishes, from the tail's thread, until it has ended: its newest values, then each.

    With `there` it fails with NotFound for a saga that the state topic does not have.
    """

    def __init__(
        self, saga_id: str, partition: int, hand: Callable[[list[tuple[str, Any]]], None], *, there: bool = False
    ) -> None:
        super().__init__(saga_id, partition)
        self._hand, self._there = hand, there
        self._values = Values()
        self._handed: Stored | None = None
        self._looked = False

    def past(self, records: Mapping[bytes, Record]) -> None:
        super().past(records)
        self._looked = True

    def settle(self, lookup: Lookup) -> bool:
        found = self.newest
        if found is None and self._looked and self._there:
            raise NotFound(
                f"no saga {self._saga_id!r}: expected one under way, or ended within the dedup window, got none"
            )
        if found is not None and found is not self._handed and found.header.status != CLOSED and self._looked:
            self._handed = found
            self._hand(list(self._values.new(lookup, found)))
        return super().settle(lookup)


class Fate(Told[Outcome]):
    """Waits for what becomes of a request. Registered before that is sent, it keeps what it sees until `ask`."""

    def __init__(self, saga_id: str, partition: int) -> None:
        super().__init__(partition)
        self._watermark, self._own = watermark_key(partition), keys_of(saga_id)
        self._kept: list[Record | None] = []
        self._sent: Sent | None = None
        self._handling: Handling | None = None

    def ask(self, sent: Sent) -> None:
        """Kafka has the request. From any thread."""
        self._sent = sent

    def wants(self, key: bytes) -> bool:
        return key == self._watermark

    def past(self, records: Mapping[bytes, Record]) -> None:
        assert self._sent is not None  # who registers with it asks for no past
        if covers(records.get(self._watermark), self._sent):
            self._handling = Handling(self._sent)
            self._handling.done = True

    def see(self, record: Record) -> None:
        if record.key == self._watermark or self._own(record.key or b""):
            self._kept.append(record)

    def caught_up(self) -> None:
        self._kept.append(None)

    def settle(self, lookup: Lookup) -> bool:
        if self.future.done():
            return True
        if self._sent is None:
            return False
        handling = self._handling = self._handling or Handling(self._sent)
        kept, self._kept = self._kept, []
        for record in kept:
            if handling.done:
                break
            if record is None:
                handling.caught_up()
            else:
                handling.see(record)
        if handling.done:
            self.tell(handling.outcome or handled(lookup, self._sent))
        return handling.done
