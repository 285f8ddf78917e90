"""Source record → requests, or a record for the quarantine. Pure but for the mappings' own functions.

A request's id is made of the mapping and the record's place, so that the same record always asks the same thing.
Whatever a mapping does wrong costs its own record and no other.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.fromtopic import FromTopic, Incoming
from kompensate.orchestrator.ports import OutRecord, Record
from kompensate.schemas import letters, payloads
from kompensate.schemas.formats import payloads_of
from kompensate.schemas.messages import NOT_TRACED, SIGNAL, START, BadMessage, Headers, Request, Trace
from kompensate.schemas.requests import make_request
from kompensate.schemas.topics import Topics, partition_of


class Translator:
    """The mappings of one application. Raises BadPayload for a `type` that nothing can be read as."""

    def __init__(self, application: Application, topics: Topics) -> None:
        self._topics = topics
        self._partitions = application.partitions
        self._payloads = payloads_of(application.payloads, application.name)
        self._mappings: dict[str, list[tuple[FromTopic, Callable[[bytes], Any]]]] = {}
        for mapping in application.intake:
            self._mappings.setdefault(mapping.topic, []).append((mapping, _reading(mapping.type)))

    @property
    def sources(self) -> list[str]:
        """The topics that are read."""
        return sorted(self._mappings)

    def translate(self, record: Record) -> list[OutRecord]:
        """What is to be written for this record, in the order of the mappings; nothing where it concerns none."""
        headers = dict(record.headers or ())
        found: list[OutRecord] = []
        wrong: list[str] = []
        for mapping, read in self._mappings[record.topic]:
            try:
                request = self._request(mapping, record, headers, read)
            except Exception as error:  # whatever somebody's function raises: the others' records go on
                wrong.append(f"{mapping.what}: {_told(error)}")
            else:
                if request is not None:
                    found.append(self._placed(request))
        if wrong:
            found.append(self.quarantined(record, "; ".join(wrong)))
        return found

    def _request(
        self, mapping: FromTopic, record: Record, headers: Mapping[str, bytes | None], read: Callable[[bytes], Any]
    ) -> Request | None:
        place = (record.topic, record.partition, record.offset)
        incoming = Incoming(place, record.timestamp, record.key, record.value, headers, read)
        if mapping.when is not None and not mapping.when(incoming):
            return None
        saga_id = mapping.saga_id(incoming)
        if not isinstance(saga_id, str):
            raise BadMessage(f"expected saga_id to give text, got {saga_id!r}")
        return make_request(
            START if mapping.start is not None else SIGNAL,
            saga_id,
            source=f"kompensate:topic:{record.topic}",
            saga_type=mapping.start,
            subject=mapping.signal,
            payload=_payload(mapping, incoming),
            id_=f"{record.topic}/{record.partition}@{record.offset}/{mapping.start or mapping.signal}",
            trace=_trace(record),
            attributes=None if mapping.attributes is None else mapping.attributes(incoming),
            payloads=self._payloads,
        )

    def _placed(self, request: Request) -> OutRecord:
        partition = partition_of(request.saga_id, self._partitions)
        return OutRecord(self._topics.requests, partition, request.saga_id.encode(), request.payload, request.headers())

    def quarantined(self, record: Record, reason: str, *, omit: bool = False) -> OutRecord:
        """The record with its place and the reason; with `omit` without its value, for one that is too large."""
        headers: list[tuple[str, bytes | None]] = [
            *(record.headers or ()),
            *letters.put_aside(record.topic, record.partition, record.offset, reason, record.timestamp),
        ]
        value = record.value
        if omit:
            headers.append((letters.OMITTED, b"value of %d bytes" % len(value or b"")))
            value = None
        # Its saga is not known: records of one source partition stay together, and in their order.
        return OutRecord(self._topics.quarantine, record.partition % self._partitions, record.key, value, headers)


def _reading(kind: Any) -> Callable[[bytes], Any]:
    if kind is bytes:
        return bytes
    payloads.check_type(kind)
    return partial(payloads.decode, kind=kind)


def _payload(mapping: FromTopic, incoming: Incoming) -> object:
    if mapping.input is not None:
        return mapping.input(incoming)
    incoming.value  # noqa: B018  # read for what it raises: what cannot be read is nobody's input
    return b"null" if incoming.raw is None else incoming.raw


def _trace(record: Record) -> Trace:
    try:
        return Headers(record.headers).trace()
    except BadMessage:  # no reason to refuse an order
        return NOT_TRACED


def _told(error: Exception) -> str:
    text = str(error)
    # Our own errors are sentences; of others the kind says more than the text ("KeyError: 'id'").
    ours = isinstance(error, payloads.BadPayload) or (isinstance(error, ValueError) and "expected" in text)
    return text if ours else f"{type(error).__name__}: {text}"


def sizes(records: Sequence[OutRecord]) -> int:
    """About how many bytes these records take."""
    return sum(len(record.value or b"") + len(record.key or b"") for record in records)
