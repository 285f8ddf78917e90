"""Events ↔ pages of the state topic.

A page is `head, checksum, blocks, 0`: each input is one block of the Avro array `inputs`, so appending is
joining bytes and the cost of a transition does not grow with the history. The checksum runs over head
and blocks, and each page carries its predecessor's: a gap, an old page or a damaged one shows when the
saga is woken. What a restore needs without decoding stands in one text header.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.inputs import Origin
from kompensate.orchestrator.kernel.policy import Policy
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.ports import HeaderList
from kompensate.schemas import codec
from kompensate.schemas.codec import BadRecord, encode_bytes, encode_long, encode_string
from kompensate.schemas.payloads import decode, to_json

STATE_HEADER = "kompensate"
"""Text header of pages and summaries: see StateHeader."""

ATTRIBUTES_HEADER = "kompensate-attributes"
"""Header of the newest page and of the summary of a saga that has attributes: its attributes."""

RATES_HEADER = "limits"
"""Header of watermarks, where there are limits per second: see `rates_header`."""
STATE_HEADER_BYTES_MAX = 400
"""Run, two numbers, two short words and a definition's name of 100 are less."""

_EVENT_SCHEMA = codec.raw_schema(codec.PAGE)["fields"][-1]["type"]["items"]["fields"][-1]["type"]["items"]
_encode_event = codec.writer(_EVENT_SCHEMA)
_KINDS: dict[str, type] = {kind.__name__: kind for kind in e.EVENTS}
_PAGE_PREFIX, _SUMMARY_PREFIX = codec.prefix(codec.PAGE), codec.prefix(codec.SUMMARY)
_END = b"\0"


class Damaged(Exception):
    """A saga's pages do not fit together; the text names page, expected and got."""


class StateHeader(NamedTuple):
    """What the header of a page or summary tells: enough to arm a timer and to list sagas.

    `due` is when the saga is to be looked at, ms since the epoch (0: never); `hold` is '-' for none. `limited` is how
    many of its calls are out or queued under limits, left out where there are none: who takes over counts them.
    """

    run: str
    events: int
    due: int
    status: str
    hold: str
    definition: str
    limited: int = 0

    def encode(self) -> bytes:
        text = f"{self.run} {self.events} {self.due} {self.status} {self.hold} {self.definition}"
        return f"{text} {self.limited}".encode() if self.limited else text.encode()

    @classmethod
    def decode(cls, text: bytes) -> "StateHeader":
        """Raises BadRecord."""
        parts = text.decode(errors="replace").split(" ")
        plain = len(text) <= STATE_HEADER_BYTES_MAX and text.isascii() and len(parts) in (6, 7)
        if not plain or not all(part.isdigit() for part in (parts[1], parts[2], *parts[6:])):
            raise BadRecord(
                f"header {STATE_HEADER}: expected 'run events due status hold definition', got {text[:80]!r}"
            )
        run, events, due, status, hold, definition, *limited = parts
        return cls(run, int(events), int(due), status, hold, definition, int(limited[0]) if limited else 0)


def header_of(state: SagaState, due: int) -> bytes:
    """The state header for a saga as it stands; `due` is `state.next_due()`, or 0."""
    text = f"{state.run} {state.events} {due} {state.status} {state.hold or '-'} {definition_of(state)}"
    return f"{text} {len(state.limited)}".encode() if state.limited else text.encode()


def headers_of(state: SagaState, header: bytes) -> list[tuple[str, bytes | None]]:
    """The headers of a saga's page or summary; `header` is its state header."""
    found: list[tuple[str, bytes | None]] = [(STATE_HEADER, header)]
    if state.attributes:
        found.append((ATTRIBUTES_HEADER, state.attributes))
    return found


def next_run(run: str) -> str:
    """The run after this one of the same life: partition, offset of the start, and a count."""
    partition, offset, *count = run.split(".")
    return f"{partition}.{offset}.{int(count[0]) + 1 if count else 1}"


def life_of(run: str) -> str:
    """Partition and offset of the record that began a run's life; a life is continued in runs of its own."""
    return ".".join(run.split(".")[:2])


def definition_of(state: SagaState) -> str:
    """The name of a saga's definition; '-' where only signals have come."""
    started = state.started or state.delayed
    return started.definition if started else "-"


class Page:
    """A page being written. `next` begins the page after it."""

    __slots__ = ("_blocks", "_head", "checksum", "events", "first", "number", "run", "size")

    def __init__(self, run: str, number: int = 0, first: int = 1, previous: bytes = b"\0\0\0\0") -> None:
        self.run, self.number, self.first = run, number, first
        self.events = 0
        self._head = encode_string(run) + encode_long(number) + encode_long(first) + previous
        self._blocks = b""
        self.checksum = crc32(self._head)
        self.size = len(self._head) + 10

    def append(self, block: bytes, events: int) -> None:
        """Add one input's block, as `block_of` made it."""
        self._blocks += block
        self.checksum = crc32(block, self.checksum)
        self.size += len(block)
        self.events += events

    def value(self) -> bytes:
        """The record's value."""
        return b"".join((_PAGE_PREFIX, self._head, self.checksum.to_bytes(4, "big"), self._blocks, _END))

    def next(self) -> "Page":
        return Page(self.run, self.number + 1, self.first + self.events, self.checksum.to_bytes(4, "big"))

    @classmethod
    def reopened(cls, value: bytes, read: "ReadPage") -> "Page":
        """The page that `value` is, to append to it."""
        page = cls(read.run, read.number, read.first, read.previous)
        start = len(_PAGE_PREFIX) + len(page._head) + 4
        page.append(value[start:-1], len(read.events))
        return page


def block_of(origin: Origin, events: Sequence[e.Event]) -> bytes:
    """One input with its events as one block of a page's array."""
    parts = [
        _place_of(origin.time, origin.topic, origin.partition),
        encode_long(origin.offset),
        encode_long(len(events)),
    ]
    parts += [_encode_event(event) for event in events]
    parts.append(_END)
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _place_of(time: int, topic: str, partition: int) -> bytes:
    """How a block begins: the same for many inputs of a batch."""
    return b"\2" + encode_long(time) + encode_string(topic) + encode_long(partition)


class Recorded(NamedTuple):
    """An event as it stands in the history, with the input that led to it."""

    sequence: int
    event: e.Event
    origin: Origin


class ReadPage(NamedTuple):
    """A page as read."""

    run: str
    number: int
    first: int
    previous: bytes
    checksum: bytes
    events: list[Recorded]


def read_page(value: bytes) -> ReadPage:
    """Decode one page and check it against its own checksum. Raises Damaged or BadRecord."""
    found = codec.decode(value, codec.PAGE)
    head = encode_string(found["run"]) + encode_long(found["number"]) + encode_long(found["first"]) + found["previous"]
    blocks = value[len(_PAGE_PREFIX) + len(head) + 4 : -1]
    checksum = crc32(blocks, crc32(head)).to_bytes(4, "big")
    if checksum != found["checksum"]:
        raise Damaged(f"page {found['number']}: expected checksum {found['checksum'].hex()}, got {checksum.hex()}")
    try:
        events = list(_events(found))
    except ValueError as error:
        raise Damaged(f"page {found['number']}: expected events that can be, got one that cannot: {error}") from error
    return ReadPage(found["run"], found["number"], found["first"], found["previous"], checksum, events)


def _events(page: dict[str, Any]) -> Iterator[Recorded]:
    sequence = page["first"]
    for input_ in page["inputs"]:
        origin = Origin(input_["topic"], input_["partition"], input_["offset"], input_["at"])
        for name, fields in input_["events"]:
            yield Recorded(sequence, _event(name, fields), origin)
            sequence += 1


_policy = lru_cache(maxsize=1024)(Policy)
"""Policies come again and again. Their fields are in the schema's order, as in the class."""


def _event(name: str, fields: dict[str, Any]) -> e.Event:
    policy = fields.get("policy")
    if policy is not None:
        # A union branch that is itself a record comes with its name.
        fields["policy"] = _policy(*(policy[1] if isinstance(policy, tuple) else policy).values())
    event: e.Event = _KINDS[name.rpartition(".")[2]](**fields)
    return event


def read_pages(values: Sequence[bytes]) -> list[ReadPage]:
    """A run's pages in order, checked against each other. Raises Damaged or BadRecord."""
    pages = [read_page(value) for value in values]
    for number, page in enumerate(pages):
        before = pages[number - 1] if number else None
        first = before.first + len(before.events) if before else 1
        previous = before.checksum if before else b"\0\0\0\0"
        expected = (pages[0].run, number, first, previous)
        got = (page.run, page.number, page.first, page.previous)
        if expected != got:
            raise Damaged(
                f"page {number}: expected run, number, first event and previous checksum {expected}, got {got}"
            )
    return pages


def summary_value(state: SagaState, pages: int, checksum: int) -> bytes:
    """The summary of an ended saga."""
    parts = (
        _SUMMARY_PREFIX,
        encode_string(state.run),
        encode_string(definition_of(state)),
        encode_string(str(state.status)),
        encode_long(state.started_at),
        encode_long(state.updated_at),
        encode_long(state.events),
        encode_long(pages),
        checksum.to_bytes(4, "big"),
        encode_string(state.reason),
        b"\0" if state.result is None else b"\2" + encode_bytes(state.result),
    )
    return b"".join(parts)


def watermark_value(writer: str, transaction: int, events: int, offsets: dict[str, int]) -> bytes:
    """The watermark of one transaction for one partition."""
    return codec.encode(
        codec.WATERMARK, {"writer": writer, "transaction": transaction, "events": events, "offsets": offsets}
    )


class Watermark(NamedTuple):
    """Where a partition's inputs stood after a transaction: next offset by topic."""

    writer: str
    transaction: int
    events: int
    offsets: dict[str, int]


def read_watermark(value: bytes) -> Watermark:
    """Raises BadRecord."""
    return Watermark(**codec.decode(value, codec.WATERMARK))


def rates_header(rates: Mapping[str, int]) -> HeaderList | None:
    """The watermark's header with when the next call may go out under each limit per second; None where none is."""
    return [(RATES_HEADER, to_json(dict(rates)))] if rates else None


def read_rates(headers: HeaderList | None) -> dict[str, int]:
    """What `rates_header` wrote. Raises BadRecord."""
    text = next((value for name, value in headers or () if name == RATES_HEADER), None)
    try:
        return {} if text is None else decode(text, dict[str, int])
    except ValueError as error:
        raise BadRecord(f"header {RATES_HEADER}: expected times by limit as JSON, got {text!r}: {error}") from error


def watermark_writer(value: bytes) -> str:
    """Who wrote this watermark: the transactional id to fence at a take-over. Raises BadRecord."""
    return read_watermark(value).writer
