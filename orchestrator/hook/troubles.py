"""From a record of the state or quarantine topic to what is told of it: a Translates of the intake's loop.

Each trouble has an id that is the same whoever tells it again: of the saga's run and event, or of the record. A page is
written anew with each transition, so one trouble is seen many times; `TellOnce` lets it through once.
"""

import json
from collections.abc import Sequence
from logging import getLogger
from typing import Any

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.ports import OutRecord, Record
from kompensate.orchestrator.reading.stored import Stored, read_summary, stored
from kompensate.orchestrator.sagas.journal import Damaged, ReadPage, Recorded, read_page
from kompensate.schemas import letters
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.messages import JSON, timestamp
from kompensate.schemas.topics import Topics

logger = getLogger(__name__)

ID = "id"
"""The header, and the field, that names a trouble."""
REASON_CHARACTERS_MAX = 4_000
"""Errors of participants may be long: who is told reads the beginning, and `kompensate show` has the rest."""
CLOSED = "-"
"""The status in the header of a page that is full: the page after it has the saga's."""


class Troubles:
    """Those of the application whose topics are `topics`, as records for the topic `target`."""

    def __init__(self, topics: Topics, target: str) -> None:
        self._topics, self._target = topics, target

    def translate(self, record: Record) -> list[OutRecord]:
        """At most one. What does not read is logged and left: whoever wakes the saga says so louder."""
        try:
            told = self._rejected(record) if record.topic == self._topics.quarantine else self._of_saga(record)
        except (Damaged, BadRecord) as error:
            logger.error("%s/%d@%d: %s", record.topic, record.partition, record.offset, error)
            return []
        return [] if told is None else [self._written(told)]

    def quarantined(self, record: Record, reason: str, *, omit: bool = False) -> OutRecord:  # noqa: ARG002
        """Kafka refuses what was to be told: at least that is told."""
        place = f"{record.topic}/{record.partition}@{record.offset}"
        told = {ID: f"{self._topics.app}/{place}", "kind": "untold", "at": timestamp(record.timestamp)}
        return self._written({**told, "saga_id": None, "reason": _short(f"{place}: {reason}")})

    def _written(self, told: dict[str, Any]) -> OutRecord:
        saga_id = told["saga_id"]
        if saga_id is not None:
            told["show"] = f"kompensate show {saga_id} --app-name {self._topics.app}"
        value = json.dumps({"app": self._topics.app, **told}, ensure_ascii=False).encode(errors="replace")
        headers: list[tuple[str, bytes | None]] = [(ID, told[ID].encode()), ("content-type", JSON.encode())]
        return OutRecord(self._target, None, (saga_id or "").encode() or None, value, headers)

    def _rejected(self, record: Record) -> dict[str, Any] | None:
        """A record that no saga took, None for a disposal about one. Its payload is nobody's business out there."""
        headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers or ()}
        if letters.DONE in headers:
            return None
        return {
            ID: f"{self._topics.app}/quarantine/{record.partition}/{record.offset}",
            "kind": "rejected",
            "saga_id": headers.get("ce_correlationid"),
            "definition": headers.get("ce_sagatype"),
            "status": None,
            "step": None,
            "reason": _short(headers.get(letters.REASON, "")),
            "record": {
                "type": headers.get("ce_type"),
                "topic": headers.get(letters.TOPIC),
                "partition": headers.get(letters.PARTITION),
                "offset": headers.get(letters.OFFSET),
            },
            "at": timestamp(record.timestamp),
        }

    def _of_saga(self, record: Record) -> dict[str, Any] | None:
        if record.key is None or record.value is None:
            return None
        found = next(stored({record.key: record}), None)
        if found is None or found.damaged:
            return None  # a watermark or a plan
        if found.ended:
            return self._failed(found) if found.header.status == "failed" else None
        if found.header.hold == "quarantined" or found.header.status == CLOSED:
            return self._held(found, read_page(record.value))
        return None

    def _failed(self, found: Stored) -> dict[str, Any]:
        summary = read_summary(found)
        return {
            ID: f"{self._topics.app}/{found.saga_id}/{summary.run}/failed",
            "kind": "failed",
            "saga_id": found.saga_id,
            "definition": summary.definition,
            "status": summary.status,
            "step": None,
            "reason": _short(summary.reason),
            "run": summary.run,
            "at": timestamp(summary.ended_at),
        }

    def _held(self, found: Stored, page: ReadPage) -> dict[str, Any] | None:
        """The hold that stands at the page's end; None where it is on an earlier page, which was told of then."""
        held = next((r for r in reversed(page.events) if isinstance(r.event, e.SagaQuarantined | e.SagaResumed)), None)
        if held is None or isinstance(held.event, e.SagaResumed):
            return None
        assert isinstance(held.event, e.SagaQuarantined)  # the other of the two
        closed = found.header.status == CLOSED
        return {
            ID: f"{self._topics.app}/{found.saga_id}/{page.run}/{held.sequence}",
            "kind": "held",
            "saga_id": found.saga_id,
            "definition": _definition(page) if closed else found.header.definition,
            "status": None if closed else found.header.status,
            "step": _step(page.events, held),
            "reason": _short(held.event.reason),
            "run": page.run,
            "at": timestamp(held.origin.time),
        }


def _definition(page: ReadPage) -> str | None:
    started = (r.event for r in page.events if isinstance(r.event, e.SagaStarted))
    return next((event.definition for event in started), None)


def _step(events: Sequence[Recorded], held: Recorded) -> str | None:
    """The step that the last event about one before the hold was about, where this page knows its name."""
    names = {r.event.number: r.event.step for r in events if isinstance(r.event, e.CallMade)}
    numbers = [getattr(r.event, "number", None) for r in events if r.sequence < held.sequence]
    return next((names[number] for number in reversed(numbers) if number in names), None)


def _short(text: str) -> str:
    return text if len(text) <= REASON_CHARACTERS_MAX else text[:REASON_CHARACTERS_MAX] + " …"
