"""Reads a record as a command; where it is none, says why, and whether somebody can still be told.

An event is read as a command that nobody waits for: its `reply_to` is empty.

Whoever sent a spoilt command is answered *failed* if the record names who that is. Either way the record
becomes a dead letter and the others go on.
"""

from collections.abc import Mapping

from kompensate.participants.participant import Handler, Participant
from kompensate.participants.ports import Record
from kompensate.schemas.envelope import content_type
from kompensate.schemas.formats import payloads_of
from kompensate.schemas.messages import JSON, BadMessage, Command, Headers
from kompensate.schemas.payloads import BadPayload

_PARTITION_MAX = 2**31 - 1  # Kafka's int32, and the outbox column's
_ID_CHARACTERS_MAX = 512  # of an inbox key in MySQL; PostgreSQL's takes 2,700 bytes


def read(record: Record) -> tuple[Command | None, str | None]:
    """The command and why it cannot be handled. No command: nobody can be answered; no reason: it is fine."""
    problem = None
    try:
        command = Command.parse(record.headers, record.value)
        if command.compensates == command.id:
            problem = f"header ce_compensates: expected the id of another command, got its own, {command.id!r}"
    except BadMessage as error:
        problem = str(error)
        try:
            command = _answerable(Headers(record.headers))
        except BadMessage as worse:
            return None, f"{problem}; nobody to answer: {worse}" if str(worse) != problem else problem
    unwritable = _unwritable(command)
    return (None, unwritable) if unwritable else (command, problem)


def payload_of(participant: Participant, command: Command) -> tuple[Handler, object]:
    """Who handles the command, and its payload as he takes it. Raises BadPayload, and PayloadUnavailable."""
    handler = participant.handler(command.type) if command.reply_to else participant.subscriber(command.type)
    if handler is None:
        known = ", ".join(participant.contracts) or "none"
        raise BadPayload(f"command type: expected one of {known}, got {command.type!r}")
    kind = command.content_type.partition(";")[0].strip().lower()
    expected = content_type(command.payload)
    if kind not in (expected, JSON) and not kind.endswith("+json"):
        raise BadPayload(f"payload of {command.type}: expected content type {expected}, got {command.content_type!r}")
    payloads = payloads_of(participant.payloads, command.source, command.saga_id)
    return handler, payloads.decode(command.payload, handler.payload_type)


def read_event(record: Record, topics: Mapping[str, str]) -> tuple[Command | None, str | None] | None:
    """As `read`, of an event; None for one that is not for us. `topics` are where they are read, by event type.

    What has no `ce_id` is known by `id` (plain Debezium's), else by its place.
    """
    headers = Headers(record.headers)
    try:
        type_ = headers.text("ce_type")
        if topics.get(type_) != record.place.topic:
            return None
        event = Command(
            id=headers.optional("ce_id")
            or headers.optional("id")
            or f"{record.place.topic}/{record.place.partition}@{record.offset}",
            type=type_,
            source=headers.optional("ce_source") or "",
            saga_id=headers.optional("ce_correlationid") or "",
            saga_type="",
            step="",
            phase="forward",
            attempt=1,
            reply_to="",
            reply_partition=0,
            payload=record.value,
            content_type=headers.optional("content-type") or JSON,
            trace=headers.trace(),
        )
    except BadMessage as error:
        return None, str(error)
    unwritable = _unwritable(event)
    return (None, unwritable) if unwritable else (event, None)


def _answerable(headers: Headers) -> Command:
    """As much of a command as an answer needs. Raises BadMessage."""
    return Command(
        id=headers.text("ce_id"),
        type=headers.optional("ce_type") or "unknown",
        source="",
        saga_id=headers.text("ce_correlationid"),
        saga_type="",
        step="",
        phase="forward",
        attempt=0,
        reply_to=headers.text("ce_replyto"),
        reply_partition=headers.number("ce_replypartition"),
        payload=None,
        content_type=JSON,
    )


def _unwritable(command: Command) -> str | None:
    """Why inbox and outbox could not hold this command's answer, if so: then it would spoil its whole group."""
    if command.reply_partition > _PARTITION_MAX:
        return f"header ce_replypartition: expected at most {_PARTITION_MAX}, got {command.reply_partition}"
    for name, value in (("ce_id", command.id), ("ce_compensates", command.compensates)):
        if value is not None and (len(value) > _ID_CHARACTERS_MAX or value.endswith(" ")):
            return f"header {name}: expected at most {_ID_CHARACTERS_MAX} characters, the last no blank, got {value!r}"
    texts = {
        "ce_id": command.id,
        "ce_correlationid": command.saga_id,
        "ce_replyto": command.reply_to,
        "ce_compensates": command.compensates,
        "traceparent": command.trace.parent,
        "tracestate": command.trace.state,
    }
    for name, value in texts.items():
        if value is not None and "\x00" in value:
            return f"header {name}: expected text without NUL, which PostgreSQL cannot hold, got {value!r}"
    return None
