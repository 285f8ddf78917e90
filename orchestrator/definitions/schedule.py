"""A schedule as users write it down, and what is said of it to its saga.

A schedule is kept by a saga of its own, `schedule:NAME`, whose program is in
`kompensate.orchestrator.definitions.firing`; what is asked of it travels as the signal `schedule`.
"""

from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from json import dumps
from typing import Any

from kompensate.orchestrator.definitions import calendar
from kompensate.orchestrator.definitions.steps import DefinitionError
from kompensate.schemas.topics import check_name

SAGA = "schedule"
"""The definition that keeps schedules, the signal that they take, and the value that they publish."""
OVERLAPS = ("SKIP", "BUFFER_ONE", "BUFFER_ALL", "CANCEL_OTHER", "TERMINATE_OTHER", "ALLOW_ALL")
CATCHUP_SECONDS = 365 * 24 * 3600
CATCHUP_SECONDS_MIN = 10
"""Below that a restart of a worker would lose firings."""
INTERVAL_SECONDS_MAX = 50 * CATCHUP_SECONDS


@dataclass(frozen=True)
class Schedule:
    """Start `saga` with `input` again and again, by `cron` or every `interval` seconds.

    `cron` has 5 fields, or 6 with seconds first, and is read in `timezone`; an `interval`, whole seconds, counts from
    the epoch. `saga` is a saga or its name. `jitter` (seconds) delays each firing by its own part of it. `overlap`
    says what becomes of a firing that is due while the one before still runs: SKIP, BUFFER_ONE, BUFFER_ALL,
    CANCEL_OTHER, TERMINATE_OTHER, ALLOW_ALL. Firings that nobody was there for are made up for if they are not older
    than `catchup_window` seconds.
    Raises DefinitionError.
    """

    name: str
    saga: Any
    input: Any = None
    cron: str | None = field(default=None, kw_only=True)
    interval: float | None = field(default=None, kw_only=True)
    timezone: str = field(default="UTC", kw_only=True)
    jitter: float = field(default=0, kw_only=True)
    overlap: str = field(default="SKIP", kw_only=True)
    catchup_window: float = field(default=CATCHUP_SECONDS, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "saga", getattr(self.saga, "name", self.saga))
        try:
            self._check()
            object.__setattr__(self, "input", _plain(self.input))
        except ValueError as error:
            raise DefinitionError(f"schedule {self.name!r}: {error}") from error

    def _check(self) -> None:
        check_name("schedule", self.name)
        check_name("saga", self.saga)
        calendar.check_timezone(self.timezone)
        if (self.cron is None) == (self.interval is None):
            raise ValueError("expected either cron or interval, got " + ("both" if self.cron else "none"))
        if self.cron is not None:
            calendar.check_cron(self.cron, self.timezone)
        elif self.interval is not None and (not 1 <= self.interval <= INTERVAL_SECONDS_MAX or self.interval % 1):
            raise ValueError(
                f"expected an interval of whole seconds, 1 to {INTERVAL_SECONDS_MAX} (50 years), got {self.interval}"
            )
        if self.overlap not in OVERLAPS:
            raise ValueError(f"expected overlap to be one of {', '.join(OVERLAPS)}, got {self.overlap!r}")
        if not 0 <= self.jitter <= CATCHUP_SECONDS:
            raise ValueError(f"expected a jitter of 0 to {CATCHUP_SECONDS} seconds, got {self.jitter}")
        if not self.catchup_window >= CATCHUP_SECONDS_MIN:
            raise ValueError(
                f"expected a catchup_window of at least {CATCHUP_SECONDS_MIN} seconds, got {self.catchup_window}"
            )

    @property
    def saga_id(self) -> str:
        """The saga that keeps it."""
        return saga_id_of(self.name)

    @property
    def hash(self) -> str:
        """Names what it says: another declaration has another."""
        return blake2b(dumps(asdict(self), sort_keys=True).encode(), digest_size=8).hexdigest()


def saga_id_of(name: str) -> str:
    """The saga that keeps the schedule of that name."""
    return f"{SAGA}:{check_name('schedule', name)}"


def begun(schedule: Schedule, declared: str = "") -> dict[str, Any]:
    """The input with which its saga starts; `declared` is the hash of a schedule in the code."""
    return {"schedule": asdict(schedule), "declared": declared}


def said(verb: str, schedule: Schedule | None = None, **fields: Any) -> dict[str, Any]:
    """What the signal carries: a verb and fields of `kompensate.orchestrator.definitions.keeping.Said`."""
    return {"verb": verb, "schedule": None if schedule is None else asdict(schedule), **fields}


def _plain(value: object) -> Any:
    """A dataclass or Struct as the JSON values that the saga's input will be read from. Raises ValueError."""
    if value is None:
        return None
    from kompensate.schemas import payloads  # noqa: PLC0415  # as above

    return payloads.decode(payloads.encode(value), Any)
