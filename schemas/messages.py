"""Commands, replies and requests, and the headers that carry them.

CloudEvents in Kafka binary mode (cloudevents/spec: bindings/kafka-protocol-binding.md): the metadata
stands in headers, the payload is the record's value and nobody here looks into it. Records are read
leniently (unknown headers are ignored, a null header is absent) and written strictly.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, Literal, NamedTuple, TypeAlias, cast, get_args

from kompensate.schemas.attributes import BadAttributes, checked
from kompensate.schemas.values import value

Header: TypeAlias = tuple[str, bytes | None]
Phase: TypeAlias = Literal["forward", "compensate"]
Outcome: TypeAlias = Literal["done", "refused", "failed", "expired"]

PHASES: tuple[Phase, ...] = get_args(Phase)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

JSON = "application/json"
SPEC_VERSION = "1.0"

START, SIGNAL, CANCEL, PAUSE, RESUME, CHILD_ENDED = (
    f"kompensate.{verb}" for verb in ("start", "signal", "cancel", "pause", "resume", "child-ended")
)
ORDERS = {verb: f"kompensate.{verb}" for verb in ("retry", "skip", "complete", "compensate", "close")}
"""An operator's orders: verb → request type."""
FORK, FORK_HELD, RESET, RELEASE = (f"kompensate.{verb}" for verb in ("fork", "fork-held", "reset", "fork-released"))
"""A saga goes on from another's history, at once or when that other has ended; that other ends; it has ended. Payloads
are pages of the state topic, which begin with what is to happen."""
REQUEST_TYPES = (START, SIGNAL, CANCEL, PAUSE, RESUME, CHILD_ENDED, *ORDERS.values(), FORK, FORK_HELD, RESET, RELEASE)
ASKED = (START, SIGNAL, CANCEL)
"""What may be asked from outside, by whoever may write requests. All else stands with the orders."""


class BadMessage(ValueError):
    """A record is not the message its topic carries; the text names the header, expected and got."""


@value
class Trace:
    """W3C trace context, passed on untouched. Both None: not traced."""

    parent: str | None = None
    state: str | None = None

    def headers(self) -> list[Header]:
        pairs = (("traceparent", self.parent), ("tracestate", self.state))
        return [(name, value.encode()) for name, value in pairs if value is not None]


NOT_TRACED = Trace()


@value
class Command:
    """A request to a participant. `id` is the idempotency key of its effect.

    `compensates` is the id of the forward command that a compensation undoes: the barrier's key.
    `expires_at` is in milliseconds since the epoch; after it a participant answers *expired*.
    """

    id: str
    type: str
    source: str
    saga_id: str
    saga_type: str
    step: str
    phase: Phase
    attempt: int
    reply_to: str
    reply_partition: int
    payload: bytes | None
    content_type: str = JSON
    compensates: str | None = None
    expires_at: int | None = None
    trace: Trace = NOT_TRACED

    def headers(self) -> list[Header]:
        """The record's headers, in the order other languages see them."""
        return command_headers(
            self.id,
            self.saga_id,
            (self.source, self.type, self.content_type),
            (self.saga_type, self.step, self.phase, self.attempt, self.reply_to, self.reply_partition),
            self.compensates,
            self.expires_at,
            self.trace,
        )

    @classmethod
    def parse(cls, headers: Iterable[tuple[str, bytes | str | None]] | None, payload: bytes | None) -> "Command":
        """Read a command record. Raises BadMessage."""
        h = Headers(headers)
        phase = h.text("ce_sagaphase")
        if phase not in PHASES:
            raise BadMessage(f"header ce_sagaphase: expected one of {PHASES}, got {phase!r}")
        compensates = h.optional("ce_compensates")
        if (phase == "compensate") != (compensates is not None):
            raise BadMessage(
                "header ce_compensates: expected on compensating commands and no others, "
                f"got {compensates!r} with ce_sagaphase {phase!r}"
            )
        return cls(
            id=h.text("ce_id"),
            type=h.text("ce_type"),
            source=h.text("ce_source"),
            saga_id=h.text("ce_correlationid"),
            saga_type=h.text("ce_sagatype"),
            step=h.text("ce_sagastep"),
            phase=phase,
            attempt=h.number("ce_sagaattempt"),
            reply_to=h.text("ce_replyto"),
            reply_partition=h.number("ce_replypartition"),
            payload=payload,
            content_type=h.optional("content-type") or JSON,
            compensates=compensates,
            expires_at=h.time("ce_expirytime"),
            trace=h.trace(),
        )


def command_headers(
    id_: str,
    saga_id: str,
    what: tuple[str, str, str],
    asked_by: tuple[str, str, Phase, int, str, int],
    compensates: str | None,
    expires_at: int | None,
    trace: Trace,
) -> list[Header]:
    """`Command.headers` for whoever sends so many that making each a Command would cost more than this.

    `what` is source, type and content type; `asked_by` saga type, step, phase, attempt, reply topic and partition.
    """
    # These are the same for every command of a step.
    leading, trailing = _encoded(what, asked_by)
    found: list[Header] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", id_.encode()),
        *leading,
        ("ce_correlationid", saga_id.encode()),
        *trailing,
    ]
    if compensates is not None:
        found.append(("ce_compensates", compensates.encode()))
    if expires_at is not None:
        found.append(("ce_expirytime", timestamp(expires_at).encode()))
    if trace is not NOT_TRACED:
        found += trace.headers()
    return found


@lru_cache(maxsize=4096)
def _encoded(
    what: tuple[str, str, str], asked_by: tuple[str, str, Phase, int, str, int]
) -> tuple[tuple[Header, ...], tuple[Header, ...]]:
    source, type_, content_type = what
    saga_type, step, phase, attempt, reply_to, reply_partition = asked_by
    return (
        (("ce_source", source.encode()), ("ce_type", type_.encode()), ("content-type", content_type.encode())),
        (
            ("ce_sagatype", saga_type.encode()),
            ("ce_sagastep", step.encode()),
            ("ce_sagaphase", phase.encode()),
            ("ce_sagaattempt", b"%d" % attempt),
            ("ce_replyto", reply_to.encode()),
            ("ce_replypartition", b"%d" % reply_partition),
        ),
    )


@value
class Reply:
    """A participant's answer to one command. `id` is the outbox row's.

    The payload of *done* is the handler's result; of the others `{"reason": text, "detail": any}`.
    """

    id: str
    command_id: str
    saga_id: str
    type: str
    source: str
    outcome: Outcome
    payload: bytes | None
    content_type: str = JSON
    trace: Trace = NOT_TRACED

    def headers(self) -> list[Header]:
        """The headers that both relays make of an outbox row; `id` is the row's, from Debezium's router."""
        return [
            ("id", self.id.encode()),
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_source", self.source.encode()),
            ("ce_type", self.type.encode()),
            ("content-type", self.content_type.encode()),
            ("ce_correlationid", self.saga_id.encode()),
            ("ce_causationid", self.command_id.encode()),
            ("ce_replyoutcome", self.outcome.encode()),
            *self.trace.headers(),
        ]

    @classmethod
    def parse(cls, headers: Iterable[tuple[str, bytes | str | None]] | None, payload: bytes | None) -> "Reply":
        """Read a reply record. Raises BadMessage."""
        h = Headers(headers)
        outcome = h.text("ce_replyoutcome")
        if outcome not in OUTCOMES:
            raise BadMessage(f"header ce_replyoutcome: expected one of {OUTCOMES}, got {outcome!r}")
        return cls(
            id=h.optional("ce_id") or h.text("id"),
            command_id=h.text("ce_causationid"),
            saga_id=h.text("ce_correlationid"),
            type=h.text("ce_type"),
            source=h.text("ce_source"),
            outcome=outcome,
            payload=payload,
            content_type=h.optional("content-type") or JSON,
            trace=h.trace(),
        )


_ANSWER = itemgetter(
    "ce_correlationid", "ce_causationid", "ce_replyoutcome", "ce_id", "ce_type", "ce_source", "content-type"
)


class Answer(NamedTuple):
    """What of a reply the orchestrator needs: which command of which saga it answers, and how."""

    saga_id: str
    command_id: str
    outcome: Outcome

    @classmethod
    def parse(cls, headers: Iterable[tuple[str, bytes | str | None]] | None) -> "Answer":
        """Read a reply's headers: quicker than a whole Reply, and as strict. Raises BadMessage."""
        values: dict[str, Any] = dict(headers or ())
        try:
            # All of them at once. Where that is not all there is to it, each is looked at by itself.
            texts = b"\0".join(_ANSWER(values)).decode().split("\0")
            saga_id, command_id, outcome, _, _, _, _ = texts
            usual = "" not in texts and outcome in OUTCOMES and values.get("traceparent") is None
        except (KeyError, TypeError, ValueError):
            usual = False
        if not usual:
            reply = Reply.parse(values.items(), None)
            return cls(reply.saga_id, reply.command_id, reply.outcome)
        return cls(saga_id, command_id, cast(Outcome, outcome))


@value
class Request:
    """What clients, operators and other sagas ask of a saga, on the topic that `schemas.requests.topic_of` says.

    `type` is one of REQUEST_TYPES. `saga_type` names the definition of a start; `subject` the signal,
    or the reason of a cancel, pause or resume. `time` (ms since the epoch) is when it was asked for, which
    may be long before the record was written, by an outbox whose relay was down.
    A start may wait until `not_before` and be cancelled at `deadline` (ms since the epoch); a child's names its
    `parent` and the parent's command, its cancel the `parent`. A child's end names that command and its `outcome`.
    An operator's order says `who` gave it, and the `step` that it is about; where it names a `command_id`, only while
    that command is the step's newest.
    `attributes` are a start's, as `schemas.attributes` writes them.
    """

    id: str
    type: str
    saga_id: str
    source: str
    saga_type: str | None = None
    subject: str | None = None
    payload: bytes | None = None
    time: int | None = None
    content_type: str = JSON
    trace: Trace = NOT_TRACED
    not_before: int | None = None
    deadline: int | None = None
    parent: str | None = None
    command_id: str | None = None
    outcome: str | None = None
    who: str | None = None
    step: str | None = None
    attributes: bytes | None = None

    def headers(self) -> list[Header]:
        found: list[Header] = [
            ("ce_specversion", b"1.0"),
            ("ce_id", self.id.encode()),
            ("ce_source", self.source.encode()),
            ("ce_type", self.type.encode()),
            ("content-type", self.content_type.encode()),
            ("ce_correlationid", self.saga_id.encode()),
        ]
        times = (("ce_notbefore", self.not_before), ("ce_deadline", self.deadline))
        found += [(name, timestamp(value).encode()) for name, value in times if value is not None]
        texts = (
            ("ce_parentid", self.parent),
            ("ce_causationid", self.command_id),
            ("ce_replyoutcome", self.outcome),
            ("ce_operator", self.who),
            ("ce_sagastep", self.step),
        )
        found += [(name, value.encode()) for name, value in texts if value is not None]
        if self.saga_type is not None:
            found.append(("ce_sagatype", self.saga_type.encode()))
        if self.subject is not None:
            found.append(("ce_subject", self.subject.encode()))
        if self.time is not None:
            found.append(("ce_time", timestamp(self.time).encode()))
        if self.attributes:
            found.append(("ce_sagaattributes", self.attributes))
        found.extend(self.trace.headers())
        return found

    @classmethod
    def parse(cls, headers: Iterable[tuple[str, bytes | str | None]] | None, payload: bytes | None) -> "Request":
        """Read a request record. Raises BadMessage."""
        h = Headers(headers)
        type_ = h.text("ce_type")
        if type_ not in REQUEST_TYPES:
            raise BadMessage(f"header ce_type: expected one of {REQUEST_TYPES}, got {type_!r}")
        for needed in _NEEDED.get(type_, ()):
            h.text(needed)
        outcome = h.optional("ce_replyoutcome")
        if outcome is not None and outcome not in OUTCOMES:
            raise BadMessage(f"header ce_replyoutcome: expected one of {OUTCOMES}, got {outcome!r}")
        return cls(
            id=h.optional("ce_id") or h.text("id"),
            type=type_,
            saga_id=h.text("ce_correlationid"),
            source=h.text("ce_source"),
            saga_type=h.optional("ce_sagatype"),
            subject=h.optional("ce_subject"),
            payload=payload,
            time=h.time("ce_time"),
            content_type=h.optional("content-type") or JSON,
            trace=h.trace(),
            not_before=h.time("ce_notbefore"),
            deadline=h.time("ce_deadline"),
            parent=h.optional("ce_parentid"),
            command_id=h.optional("ce_causationid"),
            outcome=outcome,
            who=h.optional("ce_operator"),
            step=h.optional("ce_sagastep"),
            attributes=h.attributes(),
        )


_NEEDED = {
    START: ("ce_sagatype",),
    SIGNAL: ("ce_subject",),
    CHILD_ENDED: ("ce_causationid", "ce_replyoutcome"),
    RELEASE: ("ce_subject",),
    **dict.fromkeys((*ORDERS.values(), FORK, FORK_HELD, RESET), ("ce_operator", "ce_subject")),
}


class Headers:
    """Headers by name, the last one winning; values are text, absent and null are the same."""

    __slots__ = ("_values",)

    def __init__(self, headers: Iterable[tuple[str, bytes | str | None]] | None) -> None:
        given: dict[str, bytes | str | None] = dict(headers or ())
        try:
            self._values = {n: v.decode() if type(v) is bytes else v for n, v in given.items()}
        except UnicodeDecodeError:
            self._values = given  # who asks for the one that is not UTF-8 is told so

    def optional(self, name: str) -> str | None:
        """The header's text, or None. Raises BadMessage where it is not UTF-8."""
        value = self._values.get(name)
        if value is None or type(value) is str:
            return value
        assert type(value) is bytes  # headers are nothing else
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise BadMessage(f"header {name}: expected UTF-8, got {value[:40]!r} ({error.reason})") from error

    def text(self, name: str) -> str:
        """The header's text. Raises BadMessage where it is absent or empty."""
        value = self._values.get(name)
        if type(value) is not str or not value:
            value = self.optional(name)
        if not value:
            raise BadMessage(f"header {name}: expected text, got {'nothing' if value is None else 'empty text'}")
        return value

    def number(self, name: str) -> int:
        """The header as a whole number, 0 or more. Raises BadMessage."""
        value = self.text(name)
        if not (value.isascii() and value.isdigit() and len(value) < 19):
            raise BadMessage(f"header {name}: expected a whole number, got {value!r}")
        return int(value)

    def time(self, name: str) -> int | None:
        """An RFC 3339 header as milliseconds since the epoch, or None. Raises BadMessage."""
        text = self.optional(name)
        return None if text is None else milliseconds(name, text)

    def attributes(self) -> bytes | None:
        """A start's attributes, as we write them, or None. Raises BadMessage."""
        text = self.optional("ce_sagaattributes")
        if not text:
            return None
        try:
            return checked(text.encode())
        except BadAttributes as error:
            raise BadMessage(f"header ce_sagaattributes: {error}") from error

    def trace(self) -> Trace:
        if "traceparent" not in self._values:
            return NOT_TRACED
        return Trace(self.optional("traceparent"), self.optional("tracestate"))


@lru_cache(maxsize=4096)
def timestamp(ms: int) -> str:
    """Milliseconds since the epoch as CloudEvents' RFC 3339 text."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def milliseconds(name: str, text: str) -> int:
    """RFC 3339 text as milliseconds since the epoch. Raises BadMessage."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadMessage(f"header {name}: expected an RFC 3339 time, got {text!r}") from error
    if found.tzinfo is None:
        raise BadMessage(f"header {name}: expected an RFC 3339 time with its offset, got {text!r}")
    return round(found.timestamp() * 1000)
