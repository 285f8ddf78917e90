"""A state partition being read: the last value of each key, then what they mean together.

The reading itself only fills a dictionary, so a restore costs little more than plain consumption; pages
are not decoded until their saga is woken.
"""

from collections.abc import Iterator, Mapping, Sequence
from logging import getLogger

from kompensate.orchestrator.definitions.plan import Plan
from kompensate.orchestrator.errors import Corrupted
from kompensate.orchestrator.kernel.errors import IllegalTransition
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.sagas.entry import Entry, fold
from kompensate.orchestrator.sagas.journal import (
    STATE_HEADER,
    Damaged,
    StateHeader,
    Watermark,
    read_pages,
    read_rates,
    read_watermark,
)
from kompensate.schemas import codec
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.topics import PLAN_PREFIX, WATERMARK_PREFIX, saga_of_key

log = getLogger("kompensate.restore")

_SUMMARY = codec.prefix(codec.SUMMARY)


class Loading:
    """Records of state partition `number`, taken in their order."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._watermark_key = f"{WATERMARK_PREFIX}{number}".encode()
        self._last: dict[bytes, Record] = {}
        self.records = 0
        self._limited: list[str] = []
        self.watermark: Watermark | None = None
        self.rates: dict[str, int] = {}

    def take(self, records: Sequence[Record]) -> None:
        last = self._last
        self.records += len(records)
        for record in records:
            key = record.key
            if key is None:
                log.error(
                    "%s/%d@%d: a record without a key is left out",
                    record.topic,
                    record.partition,
                    record.offset,
                )
            elif record.value is None:
                last.pop(key, None)
            else:
                last[key] = record

    def positions(
        self, inputs: Sequence[str], committed: Mapping[str, int], beginning: Mapping[str, int]
    ) -> dict[str, int]:
        """Where each input topic goes on. Raises Corrupted where watermark and offsets contradict each other."""
        record = self._last.pop(self._watermark_key, None)
        if record is not None:
            try:
                self.watermark = read_watermark(record.value or b"")
                self.rates = read_rates(record.headers)
            except BadRecord as error:
                raise Corrupted(
                    f"watermark at {record.topic}/{record.partition}@{record.offset}: {error}", self._number
                ) from error
        marked = self.watermark.offsets if self.watermark else {}
        if not marked and self._last:
            raise Corrupted(
                f"partition {self._number}: expected a watermark with {len(self._last)} keys of state, got none: "
                "was the topic written by something else, or its watermark deleted?",
                self._number,
            )
        return {topic: self._position(topic, marked, committed, beginning) for topic in inputs}

    def _position(
        self,
        topic: str,
        marked: Mapping[str, int],
        committed: Mapping[str, int],
        beginning: Mapping[str, int],
    ) -> int:
        where = f"{topic}/{self._number}"
        if topic in marked:
            if topic not in committed:
                raise Corrupted(
                    f"{where}: expected the committed offset {marked[topic]}, as in the watermark, got none: "
                    "did it expire while the group was empty? Commit it by hand to go on",
                    self._number,
                )
            if committed[topic] != marked[topic]:
                raise Corrupted(
                    f"{where}: expected the committed offset {marked[topic]} of the watermark, got {committed[topic]}: "
                    "offsets were changed, the state topic lost its end, or a broker left out a transaction's markers "
                    "(KAFKA-20734: Kafka 4.3.0 to 4.4.0)",
                    self._number,
                )
            position = marked[topic]
        elif topic in committed:
            position = committed[topic]
        elif beginning.get(topic, 0) == 0:
            position = 0  # a new service
        else:
            raise Corrupted(
                f"{where}: expected a committed offset or a log that begins at 0, got none and {beginning[topic]}",
                self._number,
            )
        if position < beginning.get(topic, 0):
            raise Corrupted(
                f"{where}: expected records from offset {position} on, got a log that begins at {beginning[topic]}: "
                "its retention deleted inputs that were not handled",
                self._number,
            )
        return position

    def plans(self) -> dict[str, Plan]:
        """The plans that sagas in flight follow, by the hash in their key.

        One that does not read is left out: its sagas will be held.
        """
        found = {}
        for key, record in self._last.items():
            if key.startswith(PLAN_PREFIX.encode()):
                hash_ = key.decode(errors="replace").rpartition("/")[2]
                try:
                    found[hash_] = Plan.decode(codec.decode(record.value or b"", codec.PLAN)["plan"], hash_)
                except ValueError as error:
                    log.error("plan %s at %s/%d@%d: %s", key, record.topic, record.partition, record.offset, error)
        return found

    def sagas(self) -> tuple[dict[str, Entry], dict[str, int]]:
        """(sagas under way by id, when the ended ones ended by id, the earliest first)."""
        pages: dict[str, dict[int, Record]] = {}
        ended: dict[str, int] = {}
        for key, record in self._last.items():
            if key.startswith(b"__"):
                continue
            try:
                saga_id, number = saga_of_key(key.decode())
            except ValueError as error:
                log.error("%s/%d@%d: key %r: %s", record.topic, record.partition, record.offset, key, error)
                continue
            if number == 0 and (record.value or b"").startswith(_SUMMARY):
                ended[saga_id] = self._ended_at(record)
            else:
                pages.setdefault(saga_id, {})[number] = record
        self._last = {}
        entries = {saga_id: self._entry(saga_id, found) for saga_id, found in pages.items() if saga_id not in ended}
        return entries, dict(sorted(ended.items(), key=lambda item: item[1]))

    def limited(self, app: str, sagas: Mapping[str, Entry]) -> Iterator[tuple[str, SagaState]]:
        """Those of `sagas` with calls under limits. Only their events tell which are out and which wait: they are read,
        unlike the others'."""
        for saga_id in self._limited:
            try:
                yield saga_id, fold(app, saga_id, read_pages(sagas[saga_id].pages))
            except (Damaged, BadRecord, IllegalTransition) as error:
                log.error("saga %s: its calls under limits are not counted: %s", saga_id, error)

    def _entry(self, saga_id: str, pages: dict[int, Record]) -> Entry:
        numbers = sorted(pages)
        entry = Entry([pages[number].value or b"" for number in numbers])
        newest = pages[numbers[-1]]
        try:
            header = self._header(newest)
            entry.due = header.due
            if header.limited:
                self._limited.append(saga_id)
        except BadRecord as error:
            entry.damaged = f"{newest.topic}/{newest.partition}@{newest.offset}: {error}"
        return entry

    def _ended_at(self, record: Record) -> int:
        try:
            return self._header(record).due
        except BadRecord as error:
            log.error("%s/%d@%d: %s", record.topic, record.partition, record.offset, error)
            return record.timestamp

    def _header(self, record: Record) -> StateHeader:
        return StateHeader.decode(self._header_text(record))

    @staticmethod
    def _header_text(record: Record) -> bytes:
        return next((value or b"" for name, value in record.headers or () if name == STATE_HEADER), b"")
