"""Whether a reply's record is as the wire format says: headers, key, partition, and what a no carries.

Pure. `docs/guides/wire.md` is this in prose.
"""

import json
from typing import Any

from kompensate.orchestrator.conformance.talk import Finding
from kompensate.orchestrator.ports import Record
from kompensate.schemas.messages import SPEC_VERSION, BadMessage, Command, Headers, Reply

SOURCE = "kompensate:"


def faults(record: Record, command: Command | None) -> list[Finding]:
    """What is wrong with a reply to `command`; None: it names no command that was sent."""
    try:
        reply = Reply.parse(record.headers, record.value)
        headers = Headers(record.headers)
        own_id, version, kind, source = (
            headers.optional(name) for name in ("ce_id", "ce_specversion", "content-type", "ce_source")
        )
    except BadMessage as error:
        return [Finding("headers of a reply", "those of docs/guides/wire.md", str(error))]
    found = [
        _differs("ce_specversion", SPEC_VERSION, version),
        None if (source or "").startswith(SOURCE) else Finding("ce_source of a reply", f"{SOURCE}SERVICE", str(source)),
        _differs("ce_id", "the row's id", "the row's id" if own_id else "none"),
        _differs("content-type", "that of the payload", "that of the payload" if kind else "none"),
    ]
    if command is None:
        found.append(Finding("ce_causationid of a reply", "the id of a command that was sent", reply.command_id))
    else:
        found += [
            _differs("ce_correlationid", command.saga_id, reply.saga_id),
            _differs("key", command.saga_id, (record.key or b"").decode(errors="replace")),
            _differs("partition", command.reply_partition, record.partition),
            _differs("traceparent", command.trace.parent, reply.trace.parent),
            _differs("tracestate", command.trace.state, reply.trace.state),
        ]
    if reply.outcome != "done" and not _has_reason(reply.payload):
        found.append(Finding(f"payload of {reply.outcome}", '{"reason": text, "detail": any}', str(reply.payload)))
    return [fault for fault in found if fault is not None]


def _differs(name: str, expected: object, got: object) -> Finding | None:
    return None if expected == got else Finding(f"{name} of a reply", str(expected), str(got))


def _has_reason(payload: bytes | None) -> bool:
    try:
        said: Any = json.loads(payload or b"")
    except ValueError:
        return False
    return isinstance(said, dict) and isinstance(said.get("reason"), str)
