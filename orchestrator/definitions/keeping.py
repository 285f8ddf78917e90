"""What a schedule's saga keeps from run to run, and what becomes of it when something is asked of the schedule."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kompensate.orchestrator.definitions import calendar
from kompensate.orchestrator.definitions.saga import AsyncSaga, Saga
from kompensate.orchestrator.definitions.schedule import SAGA, Schedule

WAITING_MAX = 1_000
"""Triggers, and ranges of backfills, that wait for their turn: they stand in the run's input."""
KEY = re.compile(r"[A-Za-z0-9._-]{1,60}\Z")
Sagas = Mapping[str, Saga | AsyncSaga]


@dataclass
class Kept:
    """What a schedule knows: the input of each of its runs. Times are ms since the epoch.

    `next` is the first time not yet fired (None: to be found), `held` when a firing last ended: what was due before it
    waited for that, and was not missed. `waiting` are firings asked for or buffered, by key; `backfills` ranges of
    which the first time and the last are still to be fired. `skipped` and `missed` are the last ranges passed over.
    """

    schedule: Schedule
    declared: str = ""
    next: int | None = None
    held: int = 0
    paused: str | None = None
    deleted: bool = False
    waiting: list[str] = field(default_factory=list)
    backfills: list[list[int]] = field(default_factory=list)
    fired: int = 0
    last: str = ""
    skipped: list[str] | None = None
    missed: list[str] | None = None
    last_failure: str = ""
    refused: str = ""


@dataclass
class Said:
    """What the signal carries; see `kompensate.orchestrator.definitions.schedule`."""

    verb: Literal["create", "declare", "update", "pause", "resume", "trigger", "backfill", "delete"]
    schedule: Schedule | None = None
    declared: str = ""
    reason: str = ""
    key: str = ""
    since: int = 0
    until: int = 0


def check_saga(schedule: Schedule, sagas: Sagas) -> None:
    """Raises ValueError for a schedule of a saga that is not there, or that cannot read its input."""
    from kompensate.schemas import payloads  # noqa: PLC0415  # as in `schedule`

    if schedule.saga not in sagas or schedule.saga == SAGA:
        names = ", ".join(sorted(name for name in sagas if name != SAGA)) or "none"
        raise ValueError(
            f"schedule {schedule.name!r}: expected a saga of this application ({names}), got {schedule.saga!r}"
        )
    kind: Any = sagas[schedule.saga].input
    try:
        payloads.decode(payloads.encode(schedule.input), Any if kind is None else kind)
    except ValueError as error:
        raise ValueError(f"schedule {schedule.name!r}: input of saga {schedule.saga!r}: {error}") from error


def take(kept: Kept, value: Any, now: int, *, busy: bool, sagas: Sagas) -> None:
    """What the signal says, at time `now`; `busy`: does a firing run? What cannot be done stands in `refused`."""
    from kompensate.schemas import payloads  # noqa: PLC0415  # as in `schedule`

    kept.refused = ""
    try:
        said = payloads.decode(payloads.encode(value), Said)
        if said.verb in ("create", "declare", "update"):
            _define(kept, said, now, sagas)
        elif kept.deleted:
            raise ValueError(f"{said.verb}: expected a schedule, got one that was deleted")
        elif said.verb == "trigger":
            _trigger(kept, said, busy)
        elif said.verb == "backfill":
            _backfill(kept, said, now)
        else:
            _switch(kept, said, now)
    except ValueError as error:
        kept.refused = str(error)


def _define(kept: Kept, said: Said, now: int, sagas: Sagas) -> None:
    if said.verb == "create" and not kept.deleted:
        return  # its start has begun this saga
    if said.verb == "declare" and said.declared == kept.declared:
        return  # what the code says counts when it has changed: else what was changed since stays
    if said.verb == "update" and kept.deleted:
        raise ValueError("update: expected a schedule, got one that was deleted")
    schedule = said.schedule
    if schedule is None or schedule.name != kept.schedule.name:
        raise ValueError(f"{said.verb}: expected the schedule {kept.schedule.name!r}, got another or none")
    check_saga(schedule, sagas)
    if said.verb == "declare":
        kept.declared = said.declared
    kept.schedule, kept.deleted = schedule, False
    kept.next = calendar.following(schedule, now)


def _switch(kept: Kept, said: Said, now: int) -> None:
    if said.verb == "pause":
        kept.paused = said.reason
    elif said.verb == "resume":
        if kept.paused is not None:
            kept.paused, kept.next = None, calendar.following(kept.schedule, now)
    else:
        assert said.verb == "delete"
        kept.deleted, kept.paused = True, None
        kept.waiting.clear()
        kept.backfills.clear()


def _trigger(kept: Kept, said: Said, busy: bool) -> None:
    if KEY.match(said.key) is None:
        raise ValueError(f"trigger: expected a key of 1 to 60 of A-Z a-z 0-9 . _ -, got {said.key!r}")
    key, overlap = f"trigger-{said.key}", kept.schedule.overlap
    if busy and (overlap == "SKIP" or (overlap == "BUFFER_ONE" and kept.waiting)):
        kept.skipped = [key, key]
    elif len(kept.waiting) >= WAITING_MAX:
        raise ValueError(f"trigger: expected at most {WAITING_MAX} firings to wait, got another")
    else:
        kept.waiting.append(key)


def _backfill(kept: Kept, said: Said, now: int) -> None:
    first, until = calendar.following(kept.schedule, said.since - 1), min(said.until, now)
    if first > until:
        raise ValueError("backfill: expected a range with a time that is past, got none")
    if len(kept.backfills) >= WAITING_MAX:
        raise ValueError(f"backfill: expected at most {WAITING_MAX} ranges to wait, got another")
    kept.backfills.append([first, until])
