"""Sagas as a snapshot of the state topic has them, sorted out by keys and headers alone.

Nothing is decoded here, so that filtering a hundred thousand sagas costs little more than reading them;
`kompensate.orchestrator.reading.status` decodes those that are shown.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.sagas.journal import ATTRIBUTES_HEADER, STATE_HEADER, StateHeader
from kompensate.schemas import codec
from kompensate.schemas.attributes import BadAttributes, read
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.topics import saga_of_key

_SUMMARY = codec.prefix(codec.SUMMARY)
_NO_HEADER = StateHeader("", 0, 0, "unknown", "-", "-")


@dataclass(slots=True)
class Stored:
    """A saga as the state topic has it: its pages in order, or the summary of one that ended.

    `header` is what the worker that wrote the newest of them knew; `damaged` why it does not read.
    """

    saga_id: str
    records: list[Record]
    header: StateHeader
    ended: bool
    damaged: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def partition(self) -> int:
        return self.records[0].partition

    @property
    def updated_at(self) -> int:
        """When the newest record was written, ms since the epoch."""
        return self.records[-1].timestamp


def stored(snapshot: Mapping[bytes, Record]) -> Iterator[Stored]:
    """The sagas in one partition's snapshot, decoding nothing but keys and headers."""
    firsts: dict[str, Record] = {}
    others: dict[str, dict[int, Record]] = {}
    for key, record in snapshot.items():
        if key.startswith(b"__"):
            continue
        text = key.decode(errors="replace")
        if "/" not in text:
            firsts[text] = record
            continue
        try:
            saga_id, number = saga_of_key(text)
        except ValueError as error:
            where = f"{record.topic}/{record.partition}@{record.offset}"
            yield Stored(text, [record], _NO_HEADER, False, f"{where}: expected a page's key, got {error}")
            continue
        others.setdefault(saga_id, {})[number] = record
    for saga_id, record in firsts.items():
        later = others.pop(saga_id, None)
        ended = (record.value or b"").startswith(_SUMMARY)
        yield _stored(saga_id, [record, *_in_order(later)] if later and not ended else [record], ended)
    for saga_id, later in others.items():  # their first page is missing: reading them says so
        yield _stored(saga_id, _in_order(later), False)


def _in_order(pages: dict[int, Record]) -> list[Record]:
    return [pages[number] for number in sorted(pages)]


def _stored(saga_id: str, records: list[Record], ended: bool) -> Stored:
    newest = records[-1]
    headers = dict(newest.headers or ())
    try:
        header = StateHeader.decode(headers.get(STATE_HEADER) or b"")
        return Stored(saga_id, records, header, ended, attributes=read(headers.get(ATTRIBUTES_HEADER) or b""))
    except (BadRecord, BadAttributes) as error:
        where = f"{newest.topic}/{newest.partition}@{newest.offset}"
        return Stored(saga_id, records, _NO_HEADER, ended, f"{where}: {error}")


class Summary(NamedTuple):
    """What is kept of a saga that ended; fields as in saga_summary.avsc."""

    run: str
    definition: str
    status: str
    started_at: int
    ended_at: int
    events: int
    pages: int
    checksum: bytes
    reason: str
    result: bytes | None


def read_summary(found: Stored) -> Summary:
    """Raises BadRecord."""
    return Summary(**codec.decode(found.records[0].value or b"", codec.SUMMARY))
