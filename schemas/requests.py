"""Makes requests: the one place that says what a start, a signal and the rest may look like.

Whoever asks something of a saga (the client, an outbox row, a mapping of another topic) makes its request here, so
that all of them refuse the same arguments, with the same words, before anything is sent or committed.
"""

from collections.abc import Mapping
from datetime import datetime
from uuid import uuid4

from kompensate.schemas.attributes import changed
from kompensate.schemas.envelope import content_type
from kompensate.schemas.formats import PLAIN, SagaPayloads
from kompensate.schemas.messages import ASKED, NOT_TRACED, REQUEST_TYPES, SIGNAL, START, Request, Trace
from kompensate.schemas.topics import Topics, check_name, check_saga_id


def make_request(
    type_: str,
    saga_id: str,
    *,
    source: str,
    saga_type: str | None = None,
    subject: str | None = None,
    payload: object = None,
    id_: str | None = None,
    time: int | None = None,
    trace: Trace = NOT_TRACED,
    start_at: datetime | None = None,
    deadline: datetime | None = None,
    attributes: Mapping[str, object] | None = None,
    payloads: SagaPayloads = PLAIN,
) -> Request:
    """A request of one of REQUEST_TYPES, checked. Raises ValueError, BadPayload.

    `payload` counts for starts and signals: a dataclass, Struct, TypedDict, pydantic model or JSON value, or bytes that
    are JSON; `payloads` is the application's format.
    Without `id_` it gets one of its own. `time` is when it was asked for, ms since the epoch. A start waits until
    `start_at`, and its saga is cancelled at `deadline`; `attributes` are what operators find it by, in the clear.
    """
    if type_ not in REQUEST_TYPES:
        raise ValueError(f"request: expected one of {REQUEST_TYPES}, got {type_!r}")
    if type_ == START:
        check_name("saga", saga_type or "")
    if type_ == SIGNAL and not subject:
        raise ValueError(f"saga {saga_id!r}: expected the name of a signal, got none")
    check_saga_id(saga_id)
    encoded = sealed(payload, saga_id, payloads) if type_ in (START, SIGNAL) else None
    return Request(
        id=id_ or uuid4().hex,
        type=type_,
        saga_id=saga_id,
        source=source,
        saga_type=saga_type,
        subject=subject,
        payload=encoded,
        time=time,
        content_type=content_type(encoded),
        trace=trace,
        not_before=_milliseconds("start_at", start_at),
        deadline=_milliseconds("deadline", deadline),
        attributes=(changed(attributes) or None) if attributes is not None else None,
    )


def check_stated(what: str, who: str, reason: str) -> None:
    """Raise ValueError where an order has no name or no reason: both are recorded. The message begins with `what`."""
    for name, text in (("who gave it", who), ("a reason", reason)):
        if not text.strip():
            raise ValueError(f"{what}: expected {name}, got none: it stands in the saga's history")


def topic_of(request: Request, topics: Topics) -> str:
    """Where it belongs: on the requests what anybody may ask who starts sagas; with the orders what operators say, and
    what sagas ask of each other, which name their parent or the command that they answer."""
    return topics.requests if request.type in ASKED and request.parent is None else topics.control


def sealed(value: object, saga_id: str, payloads: SagaPayloads) -> bytes:
    """A payload of that saga as bytes; what is bytes already is JSON. Raises BadPayload."""
    bound = payloads.for_saga(saga_id)
    return bound.seal(value, "bytes") if isinstance(value, bytes) else bound.encode(value)


def _milliseconds(name: str, when: datetime | None) -> int | None:
    if when is None:
        return None
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise ValueError(f"{name}: expected a datetime with a time zone, got {when!r}")
    return round(when.timestamp() * 1000)
