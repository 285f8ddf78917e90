"""Finding sagas in an application's topics: by id, all of them, and the history of one.

`Lookup` knows which topic, partition and keys a question is about; `reader` fetches, `status` explains. Needs
no worker to be alive.
"""

import time
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from typing import TypeAlias

from kompensate.orchestrator.client_errors import DamagedSaga, NotFound
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.reader import Reader
from kompensate.orchestrator.reading.status import SagaView, fold, view, view_of
from kompensate.orchestrator.reading.stored import Stored, read_summary, stored
from kompensate.orchestrator.sagas.journal import Damaged, ReadPage, read_pages
from kompensate.schemas import letters
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.formats import PLAIN, SagaPayloads
from kompensate.schemas.messages import START
from kompensate.schemas.topics import Topics, check_saga_id, page_key, partition_of

CLOCKS_APART_MS = 600_000
"""By how much brokers' clocks may differ where records are looked for by time."""
HISTORY_SECONDS = 5.0
"""How long the history topic may lag behind the state topic: both are one transaction, ended partition by partition."""
CLOSED = "-"
"""The status in the header of a page that is full: the page after it has the saga's."""


Runs: TypeAlias = dict[str, dict[int, bytes]]
"""A saga's pages by run and page number; the run that began last comes last."""


class Lookup:
    """Answers questions about the sagas of the application whose topics are `topics`.

    `payloads` are its payload format, to show what its codecs wrote.
    """

    def __init__(self, reader: Reader, topics: Topics, payloads: SagaPayloads = PLAIN) -> None:
        self.payloads = payloads
        self.reader = reader
        self.topics = topics

    @cached_property
    def partitions(self) -> int:
        """How many partitions the application has. Raises MissingTopic, Unreachable."""
        return self.reader.partitions(self.topics.state)

    def partition(self, saga_id: str) -> int:
        """The partition a saga lives on. Raises ValueError for what is no saga id."""
        return partition_of(check_saga_id(saga_id), self.partitions)

    def all(self) -> list[Stored]:
        """Every saga in the state topic: those under way, and those ended within the dedup window."""
        snapshots = self.reader.snapshot(self.topics.state, range(self.partitions))
        return [found for snapshot in snapshots.values() for found in stored(snapshot)]

    def on(self, partition: int) -> list[Stored]:
        """Every saga of one partition of the state topic."""
        return list(stored(self.reader.snapshot(self.topics.state, [partition])[partition]))

    def find(self, saga_id: str) -> Stored | None:
        """One saga in the state topic. Raises ValueError for what is no saga id."""
        partition = self.partition(saga_id)
        snapshot = self.reader.snapshot(self.topics.state, [partition], keys_of(saga_id))
        return next(stored(snapshot[partition]), None)

    def follow(self, saga_ids: Collection[str] | None = None, wait: float = 0.1) -> Iterator[list[Stored]]:
        """Sagas as they stand, then those that changed, for ever; an empty list after `wait` seconds without.

        `saga_ids` are those of interest, None: all. That a saga was forgotten (its summary deleted) is not told.
        """
        topic = self.topics.state
        partitions = range(self.partitions) if saga_ids is None else sorted({self.partition(id_) for id_ in saga_ids})
        wanted = None if saga_ids is None else frozenset(saga_ids)
        starts = self.reader.ends(topic, partitions)
        sagas: dict[str, dict[bytes, Record]] = {}
        for snapshot in self.reader.snapshot(topic, partitions, lambda key: _about(key, wanted) is not None).values():
            for key, record in snapshot.items():
                sagas.setdefault(_about(key, wanted) or "", {})[key] = record
        yield [found for pages in sagas.values() for found in stored(pages)]
        for batch in self.reader.follow(topic, starts, wait):
            changed: dict[str, dict[bytes, Record]] = {}
            for record in batch.records:
                key = record.key or b"__"
                saga_id = _about(key, wanted)
                if saga_id is None:
                    continue
                pages = changed[saga_id] = sagas.setdefault(saga_id, {})
                if record.value is None:
                    pages.pop(key, None)
                else:
                    pages[key] = record
            # A page that was closed says nothing of the saga: the one after it comes with the same transaction.
            now = (found for pages in changed.values() for found in stored(pages))
            yield [found for found in now if found.header.status != CLOSED]

    def view(self, saga_id: str) -> SagaView:
        """One saga with its steps, from state or from history. Raises NotFound, ValueError."""
        found = self.find(saga_id)
        if found is not None:
            pages_of_ended = self.ended_pages(found) if found.ended else None
            return view(self.topics.app, found, pages_of_ended, payloads=self.payloads)
        pages = self.forgotten(saga_id)
        return view_of(fold(self.topics.app, saga_id, pages, self.payloads), self.partition(saga_id))

    def history(self, saga_id: str) -> list[ReadPage]:
        """A saga's newest run, decoded and checked. Raises NotFound, DamagedSaga, ValueError."""
        found = self.find(saga_id)
        if found is None:
            return self.forgotten(saga_id)
        return self.pages(found)

    def pages(self, found: Stored) -> list[ReadPage]:
        """All pages of `found`, decoded and checked. Raises DamagedSaga, and NotFound for pages that are gone."""
        if not found.ended:
            return _read(found.saga_id, [record.value or b"" for record in found.records])
        values = self.ended_pages(found)
        if values is None:
            raise NotFound(
                f"saga {found.saga_id!r}: expected all pages of run {found.header.run} in "
                f"{self.topics.history}/{found.partition}, got fewer: its retention may have removed them"
            )
        return _read(found.saga_id, values)

    def pages_in_time(self, found: Stored) -> list[ReadPage]:
        """`pages` of a saga that was followed to its end just now: the history may lag behind for a moment."""
        deadline = time.monotonic() + HISTORY_SECONDS
        while True:
            try:
                return self.pages(found)
            except NotFound:
                if time.monotonic() > deadline:
                    raise

    def ended_pages(self, found: Stored) -> list[bytes] | None:
        """An ended saga's pages from the history topic, in order; None unless all are there."""
        try:
            summary = read_summary(found)
        except BadRecord:
            return None
        # Its first page is not older than the record that began it, and the last is written at its end.
        starts = self.reader.since(self.topics.history, [found.partition], summary.started_at - CLOCKS_APART_MS)
        pages: dict[int, bytes] = {}
        for record in self.reader.scan(self.topics.history, starts, _only(found.saga_id)):
            name = page_of(record)
            if name is not None and name[1] == summary.run:
                pages[name[2]] = record.value or b""
                if len(pages) == summary.pages:
                    return [pages[number] for number in sorted(pages)]
        return None

    def forgotten(self, saga_id: str) -> list[ReadPage]:
        """The newest run of a saga that the state topic knows no more. Raises NotFound, DamagedSaga."""
        partition = self.partition(saga_id)
        runs = self.runs(partition, saga_id).get(saga_id)
        if not runs:
            rejected = self.rejected(partition, saga_id)
            raise NotFound(
                f"no saga {saga_id!r}: expected it on partition {partition} of {self.topics.state} or "
                f"{self.topics.history}, got none: {rejected or 'is it still to be handled?'}"
            )
        pages = list(runs.values())[-1]
        return _read(saga_id, [pages[number] for number in sorted(pages)])

    def rejected(self, partition: int, saga_id: str) -> str | None:
        """Why the saga's last start in the quarantine is there, else its last record; None where there is none."""
        found = list(self.reader.scan(self.topics.quarantine, {partition: 0}, _only(saga_id)))
        # What came after a rejected start was rejected for want of the saga: the start's reason is the cause.
        last = max(found, key=lambda r: (_type(r) == START, r.offset), default=None)
        return None if last is None else _rejection(last)

    def runs(self, partition: int, saga_id: str | None = None) -> dict[str, Runs]:
        """What the history has on a partition, of one saga or all: by saga id, run and page number."""
        wanted = None if saga_id is None else _only(saga_id)
        found: dict[str, Runs] = {}
        for record in self.reader.scan(self.topics.history, {partition: 0}, wanted):
            name = page_of(record)
            if name is not None:
                known, run, number = name
                found.setdefault(known, {}).setdefault(run, {})[number] = record.value or b""
        return found


def _read(saga_id: str, values: list[bytes]) -> list[ReadPage]:
    try:
        return read_pages(values)
    except (Damaged, BadRecord) as error:
        raise DamagedSaga(f"saga {saga_id!r}: its pages are damaged: {error}") from error


def _rejection(record: Record) -> str:
    """What a record of the quarantine was, where it came from and why it is there."""
    headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers or ()}
    topic, partition, offset, reason = (
        headers.get(name, "?") for name in (letters.TOPIC, letters.PARTITION, letters.OFFSET, letters.REASON)
    )
    what = _type(record).rpartition(".")[2] or "record"
    return f"its {what} at {topic}/{partition}@{offset} was rejected: {reason}"


def _type(record: Record) -> str:
    return (dict(record.headers or ()).get("ce_type") or b"").decode(errors="replace")


def keys_of(saga_id: str) -> Callable[[bytes], bool]:
    """Is it a key of that saga's pages?"""
    first, others = saga_id.encode(), page_key(saga_id, 1).encode()[:-1]
    return lambda key: key == first or key.startswith(others)


def _about(key: bytes, wanted: Collection[str] | None) -> str | None:
    """The saga a key of the state topic is about; None for watermarks, plans and sagas that are not wanted."""
    if key.startswith(b"__"):
        return None
    saga_id = key.partition(b"/")[0].decode(errors="replace")
    return saga_id if wanted is None or saga_id in wanted else None


def _only(saga_id: str) -> Callable[[bytes | None], bool]:
    wanted = saga_id.encode()
    return lambda key: key == wanted


def page_of(record: Record) -> tuple[str, str, int] | None:
    """(saga id, run, page number) of a history record; None for what is no page."""
    headers = dict(record.headers or ())
    run, page = headers.get("run"), headers.get("page")
    if record.key is None or record.value is None or run is None or page is None or not page.isdigit():
        return None
    return record.key.decode(errors="replace"), run.decode(errors="replace"), int(page)
