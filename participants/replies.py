"""Makes the rows that answer commands: done with the handler's result, or no, with its reason.

A reply's type is a contract name: the result's (`inventory.Reserved`), or what kind of no it is. A result goes
through the participant's payload format; a no is JSON, which operators and the kernel read.
"""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from kompensate.outbox.inbox import Entry
from kompensate.outbox.writer import Row
from kompensate.participants.participant import Handler, Participant
from kompensate.schemas.envelope import content_type
from kompensate.schemas.formats import payloads_of
from kompensate.schemas.messages import JSON, Command, Outcome
from kompensate.schemas.payloads import encode, has_fields

REASON_CHARS_MAX = 2000  # of an exception's text: it goes into the inbox, the reply and the saga's history


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer before it is addressed: its outcome, the reply's type, its payload."""

    outcome: Outcome
    type: str
    payload: bytes | None
    content_type: str = JSON


def done(participant: Participant, handler: Handler, command: Command, result: object) -> Answer:
    """A handler's result. Raises BadPayload where it cannot be written."""
    kind: Any = type(result)
    name = kind.__name__ if has_fields(kind) else handler.result_name or "Done"
    payload = payloads_of(participant.payloads, command.source, command.saga_id).encode(result)
    return Answer("done", f"{participant.name}.{name}", payload, content_type(payload))


def said(error: BaseException) -> str:
    """An exception in words that can be written anywhere: its text may be no Unicode, or not to be had at all."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception as failing:
        text = f"{type(error).__name__}, whose text cannot be had ({type(failing).__name__})"
    return _plain(text)


def refused(participant: Participant, reason: str, detail: object) -> Answer:
    """The business's no. Raises BadPayload where `detail` cannot be written."""
    return _no(participant, "refused", "Refused", reason, detail)


def failed(participant: Participant, reason: str) -> Answer:
    return _no(participant, "failed", "Failed", reason, {})


def expired(participant: Participant, reason: str) -> Answer:
    return _no(participant, "expired", "Expired", reason, {})


def nothing_to_undo(participant: Participant, reason: str) -> Answer:
    """A compensation that had nothing to do is done: whoever asked for it goes on."""
    return _no(participant, "done", "NothingToUndo", reason, {})


def stored(entry: Entry) -> Answer:
    """What was answered before, again."""
    assert entry.reply_type is not None, entry
    outcome: Any = entry.outcome
    payload = None if entry.reply is None else bytes(entry.reply)
    return Answer(outcome, entry.reply_type, payload, entry.content_type or JSON)


def address(participant: Participant, command: Command, answer: Answer) -> Row:
    """The outbox row that becomes the reply to whoever sent `command`, by its saga. Repeats are rows of their own."""
    row_id = uuid4()
    return Row(
        id=row_id,
        aggregatetype=command.reply_to,
        aggregateid=command.saga_id,
        type=answer.type,
        payload=answer.payload,
        partition=command.reply_partition,
        ce_id=str(row_id),
        ce_source=participant.source,
        content_type=answer.content_type,
        ce_correlationid=command.saga_id,
        ce_causationid=command.id,
        ce_replyoutcome=answer.outcome,
        traceparent=command.trace.parent,
        tracestate=command.trace.state,
    )


def _no(participant: Participant, outcome: Outcome, name: str, reason: str, detail: object) -> Answer:
    payload = encode({"reason": _plain(reason)[:REASON_CHARS_MAX], "detail": detail})
    return Answer(outcome, f"{participant.name}.{name}", payload)


def _plain(reason: object) -> str:
    """Lone surrogates, which come from undecodable bytes, are in no encoding."""
    return str(reason).encode("utf-8", "backslashreplace").decode()
