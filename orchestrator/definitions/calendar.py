"""When a schedule fires: calendar arithmetic in milliseconds since the epoch, and the door to cronsim.

Everything is computed forward from a given time, from the expression and the time zone alone, so whoever computes it
comes to the same. Daylight saving time is treated as Debian's cron does: a time of day that is skipped fires right
after the gap, one that comes twice fires once; where minute or hour begins with `*`, and with a field for seconds, only
the clock on the wall counts: what is skipped does not fire, what comes twice fires twice.
"""

from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

MINUTE_MS = 60_000


class Timetable(Protocol):
    """What is needed of a schedule."""

    @property
    def name(self) -> str:
        """Seeds the jitter."""

    @property
    def cron(self) -> str | None:
        """The expression; None where there is an interval."""

    @property
    def interval(self) -> float | None:
        """Whole seconds."""

    @property
    def timezone(self) -> str:
        """The expression's."""

    @property
    def jitter(self) -> float:
        """Seconds."""


def following(timetable: Timetable, after: int) -> int:
    """The first time after `after` at which it fires, jitter aside. Raises ValueError where there is none."""
    if timetable.interval is not None:
        step = round(timetable.interval * 1000)
        return (after // step + 1) * step
    assert timetable.cron is not None  # it is one or the other
    return _cron_following(timetable.cron, timetable.timezone, after)


def latest(timetable: Timetable, first: int, now: int) -> int:
    """Of its times from `first`, which is one and not after `now`, the last that is not after `now`."""
    back = MINUTE_MS
    while now - back > first and following(timetable, now - back) > now:
        back *= 2
    found = first if now - back <= first else following(timetable, now - back)
    while (another := following(timetable, found)) <= now:
        found = another
    return found


def jittered(timetable: Timetable, time: int) -> int:
    """When the firing of `time` is really due: the same for everybody, from 0 to `jitter` seconds later."""
    spread = round(timetable.jitter * 1000)
    if not spread:
        return time
    drawn = blake2b(f"{timetable.name}:{time}".encode(), digest_size=8).digest()
    return time + int.from_bytes(drawn, "big") % (spread + 1)


def text(time: int) -> str:
    """A time as it stands in ids: `2026-11-21T03:00:00Z`."""
    return datetime.fromtimestamp(time // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_timezone(name: str) -> None:
    """Raises ValueError for one that is not known here."""
    try:
        _zone(name)
    except (OSError, ValueError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise ValueError(f"expected a time zone such as 'Europe/Zurich', got {name!r} ({error})") from error


@lru_cache(maxsize=4096)
def check_cron(cron: str, timezone: str) -> None:
    """Raises ValueError for an expression that cannot be read or that never fires."""
    _cron_following(cron, timezone, 0)


@lru_cache(maxsize=1024)  # sagas read no files: once a process
def _zone(name: str) -> "ZoneInfo":
    from zoneinfo import ZoneInfo  # noqa: PLC0415  # it loads more than the package's `__init__` should

    return ZoneInfo(name)


def _cron_following(cron: str, timezone: str, after: int) -> int:
    from cronsim import CronSim, CronSimError  # noqa: PLC0415  # the package's `__init__` loads only what is ours

    # Whole seconds: a firing within the second of `after` is not after it.
    start = datetime.fromtimestamp(after // 1000, UTC if timezone == "UTC" else _zone(timezone))
    try:
        for found in CronSim(cron, start):
            time = round(found.timestamp()) * 1000
            if time > after:
                return time
    except (CronSimError, OverflowError) as error:
        raise ValueError(
            f"expected a cron expression of 5 or 6 fields (6: seconds first) that fires, got {cron!r}: {error}"
        ) from error
    raise ValueError(f"expected a cron expression that fires within 50 years, got {cron!r}, which never does")
