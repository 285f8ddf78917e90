"""A saga's events and payloads in words for people."""

from collections.abc import Callable
from json import loads
from typing import Any

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.tables import CHILD, WORKER
from kompensate.schemas.messages import timestamp


def detail_of(event: e.Event) -> str:
    """What an event says beyond its kind and step, as one line for a person."""
    say = _DETAILS.get(type(event))
    return say(event) if say else getattr(event, "reason", "")


def _called(event: e.CallMade) -> str:
    if not event.type:
        return f"registered: compensation by {event.undo_type}"
    by = f" {event.service}" if event.service in (WORKER, CHILD) else ""
    return f"{event.type}{by}, {event.kind}"


def _configured(event: e.SagaConfigured) -> str:
    parts = [f"version {event.version}"] if event.version != 1 else []
    parts += [f"deadline {timestamp(event.deadline)}"] if event.deadline is not None else []
    parts += [f"child of {event.parent}"] if event.parent is not None else []
    return ", ".join(parts)


def _error(event: e.AttemptFailed | e.CallRefused | e.CallFailed | e.UndoFailed) -> str:
    return error_text(event.error)


def error_text(error: bytes) -> str:
    """A participant's error as one line: its reason where it has one."""
    found = readable(error)
    if isinstance(found, dict) and isinstance(found.get("reason"), str):
        detail = found.get("detail")
        return str(found["reason"]) if detail is None else f"{found['reason']} ({detail})"
    return "" if found is None else str(found)


def readable(payload: bytes | None) -> Any:
    """A payload as its JSON value; as text where it is none, so that nothing is hidden."""
    if payload is None or payload == b"":
        return None
    try:
        return loads(payload)
    except ValueError:
        return payload.decode(errors="backslashreplace")


_DETAILS: dict[type, Callable[[Any], str]] = {
    e.SagaStarted: lambda event: event.definition,
    e.StartDelayed: lambda event: f"{event.definition}, starts {timestamp(event.until)}",
    e.SagaConfigured: _configured,
    e.CallMade: _called,
    e.CallKeyed: lambda event: f"key {event.key}",
    e.CallQueued: lambda event: f"limit {event.limit}" + (f", priority {event.priority}" if event.priority else ""),
    e.AttemptFailed: _error,
    e.CallRefused: _error,
    e.CallFailed: _error,
    e.UndoFailed: _error,
    e.LateReplyArrived: lambda event: event.outcome,
    e.ReceiveStarted: lambda event: event.name,
    e.ValuePublished: lambda event: event.name,
    e.AttributesSet: lambda event: event.attributes.decode(errors="replace") or "{}",
    e.PatchMarked: lambda event: event.patch,
    e.UndoStarted: lambda event: f"operations {event.first} to {event.last}",
    e.OperatorActed: lambda event: f"{event.verb} by {event.who}: {event.reason}",
    e.SagaForked: lambda event: f"from {event.origin} at event {event.events} by {event.who}: {event.reason}",
    e.SagaReset: lambda event: f"into {event.into} by {event.who}: {event.reason}",
    e.SignalKept: lambda event: f"{event.name} ({event.signal_id})",
    e.SignalReceived: lambda event: event.signal_id,
    e.SignalsRemembered: lambda event: f"{len(event.signal_ids)} received by earlier runs",
    e.CompensationStarted: lambda event: f"{event.cause}: {event.reason}",
}
"""Kinds of event that say more than a reason."""
