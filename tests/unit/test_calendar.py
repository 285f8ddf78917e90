"""When schedules fire: time zones, daylight saving time, jitter."""

import pytest

from kompensate.orchestrator import Schedule
from kompensate.orchestrator.definitions import calendar
from tests.fixtures.timekeeping import at

SPRING, AUTUMN = "2026-03-28T12:00", "2026-10-24T12:00"
"""In Zurich 02:00 is 03:00 on 29 March and 03:00 is 02:00 on 25 October, both at 01:00 UTC."""


def firings(cron: str, begin: str, count: int, timezone: str = "Europe/Zurich") -> list[str]:
    schedule = Schedule("any", "report", cron=cron, timezone=timezone)
    found, time = [], at(begin)
    for _ in range(count):
        time = calendar.following(schedule, time)
        found.append(calendar.text(time)[5:16])
    return found


@pytest.mark.parametrize(
    ("cron", "begin", "expected"),
    [
        # A time of day keeps to the clock on the wall: in UTC it moves.
        ("0 4 * * *", SPRING, ["03-29T02:00", "03-30T02:00"]),
        ("0 4 * * *", "2026-03-27T12:00", ["03-28T03:00", "03-29T02:00"]),
        # One that is skipped fires right after the gap, once; the next day as always.
        ("30 2 * * *", SPRING, ["03-29T01:00", "03-30T00:30"]),
        ("15,45 2 * * *", SPRING, ["03-29T01:00", "03-30T00:15"]),
        # One that comes twice fires the first time only.
        ("30 2 * * *", AUTUMN, ["10-25T00:30", "10-26T01:30"]),
        # Where the hour or the minute is a star, the clock on the wall counts: hours are hours.
        ("0 * * * *", "2026-03-29T00:30", ["03-29T01:00", "03-29T02:00"]),
        ("0 * * * *", "2026-10-24T23:30", ["10-25T00:00", "10-25T01:00", "10-25T02:00"]),
        ("*/30 2 * * *", SPRING, ["03-30T00:00", "03-30T00:30"]),
        ("*/30 2 * * *", AUTUMN, ["10-25T00:00", "10-25T00:30", "10-25T01:00", "10-25T01:30"]),
        # With a field for seconds too.
        ("0 30 2 * * *", SPRING, ["03-30T00:30"]),
        ("0 30 2 * * *", AUTUMN, ["10-25T00:30", "10-25T01:30"]),
        ("0 0 L * *", "2028-02-01T00:00", ["02-28T23:00"]),
    ],
)
def test_daylight_saving_time(cron: str, begin: str, expected: list[str]) -> None:
    assert firings(cron, begin, len(expected)) == expected


@pytest.mark.parametrize("cron", ["30 2 * * *", "*/30 2 * * *", "0 */15 1-3 * * *", "5 1,2,3 * * *"])
@pytest.mark.parametrize("zone", ["Europe/Zurich", "America/Sao_Paulo", "Australia/Lord_Howe", "Africa/Casablanca"])
def test_time_only_goes_forward(cron: str, zone: str) -> None:
    """From wherever one begins: the next firing is later, and the same as from the firing before."""
    schedule = Schedule("any", "report", cron=cron, timezone=zone)
    for begin in (at(SPRING), at(AUTUMN), at("2017-10-14T12:00")):
        time = begin
        for _ in range(40):
            following = calendar.following(schedule, time)
            assert following > time
            assert calendar.following(schedule, following - 1) == following
            assert calendar.following(schedule, (time + following) // 2) == following
            time = following


def test_the_last_of_many() -> None:
    for fields in ({"interval": 7}, {"cron": "*/7 9 * * MON"}, {"cron": "0 0 1 1 *"}):
        schedule = Schedule("any", "report", **fields)
        first = calendar.following(schedule, at("2020-01-01T00:00"))
        now = at("2026-11-21T12:00")

        found = calendar.latest(schedule, first, now)

        assert first <= found <= now
        assert calendar.following(schedule, found) > now
        assert calendar.latest(schedule, found, now) == found
