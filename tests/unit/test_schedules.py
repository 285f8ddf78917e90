"""Schedules: when they fire, what they start, and that nothing is started twice, whatever happens to workers."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from kompensate.orchestrator import Schedule
from kompensate.orchestrator.definitions import calendar
from kompensate.orchestrator.definitions.schedule import OVERLAPS
from kompensate.orchestrator.kernel import context
from tests.fixtures.timekeeping import BEGIN, DAY, HOUR, Job, Timekeeper, app, at, doomed, report, shipment


def kept(schedule: Schedule, *, crash: bool = False, now: str = BEGIN) -> Timekeeper:
    keeper = Timekeeper(app(schedule), at(now), crash=crash)
    keeper.declare(schedule)
    return keeper


def times(keeper: Timekeeper) -> list[str]:
    return [saga_id.partition(":")[2] for saga_id in keeper.ids]


@pytest.fixture(params=[False, True], ids=["alive", "crashing"])
def crash(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# -- firing


def test_a_nightly_report(crash: bool) -> None:
    """Each firing is a saga of the application, named by the time that it is for, started when that has come."""
    keeper = kept(Schedule("nightly", report, Job(), cron="0 3 * * *", timezone="Europe/Zurich"), crash=crash)

    keeper.run_until("2026-11-23T12:00")

    assert keeper.started == [(at(f"2026-11-{day}T02:00"), f"nightly:2026-11-{day}T02:00:00Z") for day in (21, 22, 23)]
    status = keeper.status("nightly")
    assert (status["next"], status["last"], status["fired"], status["running"]) == (
        *("2026-11-24T02:00:00Z", "nightly:2026-11-23T02:00:00Z", 3, []),
    )


@pytest.mark.slow
def test_years_of_firings_leave_a_short_history(crash: bool) -> None:
    """A run is one firing: what a restore reads and a wake replays does not grow."""
    keeper = kept(Schedule("monthly", report, Job(), cron="0 0 1 * *"), crash=crash)

    keeper.run_until("2036-11-20T12:00")

    assert len(keeper.ids) == len(set(keeper.ids)) == 120
    assert keeper.folded("schedule:monthly").events < 10


def test_an_interval_counts_from_the_epoch() -> None:
    """So that it does not matter when it was created."""
    keeper = kept(Schedule("often", report, Job(), interval=2 * HOUR), now="2026-11-20T12:34:56")

    keeper.run_until("2026-11-20T18:00")

    assert times(keeper) == [f"2026-11-20T{hour}:00:00Z" for hour in (14, 16, 18)]


def test_seconds_as_a_sixth_field() -> None:
    keeper = kept(Schedule("seconds", report, Job(), cron="*/20 * * * * *"))

    keeper.run_until("2026-11-20T12:01")

    assert [time[-6:] for time in times(keeper)] == ["00:20Z", "00:40Z", "01:00Z"]


def test_jitter_delays_each_by_its_own_part(crash: bool) -> None:
    """None is early, none later than the jitter, and not all alike; their ids are of the times without it."""
    keeper = kept(Schedule("spread", report, Job(), interval=HOUR, jitter=600), crash=crash)

    keeper.run_until("2026-11-21T12:30")

    delays = [time - at(saga_id[7:-1]) for time, saga_id in keeper.started]
    assert len(delays) == 24
    assert all(0 <= delay <= 600_000 for delay in delays)
    assert len(set(delays)) > 12


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_firings_are_those_of_a_plain_enumeration(seed: int) -> None:
    """Whatever is declared and whenever workers die: the firings are the calendar's, each once and in order."""
    rng = random.Random(seed)
    print(f"seed {seed}")
    cron = rng.choice(["*/7 * * * *", "30 1,2,3 * * *", "15 */5 * * 1-5", "0 0 L * *", "5 4 * * SUN#1"])
    spec: dict[str, Any] = rng.choice([{"cron": cron, "timezone": rng.choice(["Europe/Zurich", "America/New_York"])}])
    schedule = Schedule("any", report, Job(), jitter=rng.choice([0, 90]), overlap=rng.choice(OVERLAPS), **spec)
    keeper = Timekeeper(app(schedule), at("2026-03-25T00:00") + rng.randrange(10**9), crash=rng.random() < 0.5)
    begin, end = keeper.now, keeper.now + (2 if "/7" in cron else 50) * DAY * 1000
    keeper.declare(schedule)

    keeper.run_until(end)

    expected, time = [], calendar.following(schedule, begin)
    while calendar.jittered(schedule, time) <= end:
        expected.append(calendar.text(time))
        time = calendar.following(schedule, time)
    assert times(keeper) == expected


# -- overlap


def overlapping(overlap: str, crash: bool, saga: Any = report, seconds: float = 150) -> Timekeeper:
    """Every minute, and each firing takes two and a half."""
    keeper = kept(Schedule("slow", saga, Job(seconds), cron="* * * * *", overlap=overlap), crash=crash)
    keeper.run_until("2026-11-20T12:08:10")
    return keeper


def minutes(keeper: Timekeeper) -> list[tuple[str, str]]:
    """When each was started, and for when: minute and second."""
    return [(calendar.text(time)[14:19], saga_id[-6:-1]) for time, saga_id in keeper.started]


def test_skip(crash: bool) -> None:
    """While one runs the others are left out, and the status says which."""
    keeper = overlapping("SKIP", crash)

    assert minutes(keeper) == [("01:00", "01:00"), ("04:00", "04:00"), ("07:00", "07:00")]
    status = keeper.status("slow")
    assert status["running"] == ["slow:2026-11-20T12:07:00Z"]
    assert status["skipped"] == ["2026-11-20T12:05:00Z", "2026-11-20T12:06:30Z"]


def test_buffer_one(crash: bool) -> None:
    """The first that finds another running waits for its end; the others are left out."""
    assert minutes(overlapping("BUFFER_ONE", crash)) == [
        *(("01:00", "01:00"), ("03:30", "02:00"), ("06:00", "04:00")),
    ]


def test_buffer_all(crash: bool) -> None:
    """One after the other, however late; waiting for each other is not being missed."""
    schedule = Schedule("slow", report, Job(150), cron="* * * * *", overlap="BUFFER_ALL", catchup_window=10)
    keeper = kept(schedule, crash=crash)
    keeper.run_until("2026-11-20T12:08:40")

    assert minutes(keeper) == [("01:00", "01:00"), ("03:30", "02:00"), ("06:00", "03:00"), ("08:30", "04:00")]
    assert keeper.status("slow")["missed"] is None


def test_cancel_other(crash: bool) -> None:
    """What runs is cancelled and undone; then the newest starts."""
    keeper = overlapping("CANCEL_OTHER", crash)

    assert minutes(keeper) == [(f"0{minute}:00", f"0{minute}:00") for minute in range(1, 9)]
    assert "slow:2026-11-20T12:07:00Z: stopped" in keeper.status("slow")["last_failure"]
    assert "slow:2026-11-20T12:07:00Z" in keeper.partition._ended, "it was cancelled"


def test_cancel_other_past_its_pivot(crash: bool) -> None:
    """It cannot be cancelled any more: the next one waits for its end, and nothing is held."""
    keeper = overlapping("CANCEL_OTHER", crash, shipment)

    assert minutes(keeper) == [("01:00", "01:00"), ("03:30", "03:00"), ("06:00", "06:00")]
    assert keeper.folded("schedule:slow").hold is None


def test_terminate_other(crash: bool) -> None:
    """The next starts at once, though what runs is past its pivot and goes on to its end."""
    keeper = overlapping("TERMINATE_OTHER", crash, shipment)

    assert [started for started, _ in minutes(keeper)] == [f"0{minute}:00" for minute in range(1, 9)]
    assert len(keeper.status("slow")["running"]) == 3
    assert keeper.folded("schedule:slow").hold is None


def test_allow_all(crash: bool) -> None:
    keeper = overlapping("ALLOW_ALL", crash)

    assert minutes(keeper) == [(f"0{minute}:00", f"0{minute}:00") for minute in range(1, 9)]


@pytest.mark.slow
@pytest.mark.parametrize("overlap", ["BUFFER_ALL", "CANCEL_OTHER", "TERMINATE_OTHER"])
def test_firings_that_always_overlap_do_not_grow_the_history(overlap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is never a time at which nothing runs: a run ends all the same."""
    monkeypatch.setattr(context, "EVENTS_SUGGESTED", 100)
    keeper = kept(Schedule("slow", shipment, Job(61), cron="* * * * *", overlap=overlap))

    keeper.run_until("2026-11-20T14:00")

    assert len(keeper.ids) > 55
    assert int(keeper.folded("schedule:slow").run.split(".")[2]) > 1
    assert keeper.folded("schedule:slow").events < 130


def test_a_firing_that_fails_does_not_stop_the_next(crash: bool) -> None:
    keeper = kept(Schedule("doomed", doomed, Job(), interval=HOUR), crash=crash)

    keeper.run_until("2026-11-20T15:00")

    assert len(keeper.ids) == 3
    assert "doomed:2026-11-20T15:00:00Z: step: step: as always" in keeper.status("doomed")["last_failure"]


# -- catching up


def test_downtime_within_the_window(crash: bool) -> None:
    """What was due while nobody was there fires late."""
    keeper = kept(Schedule("hourly", report, Job(), interval=HOUR, overlap="BUFFER_ALL"), crash=crash)
    keeper.down_until("2026-11-20T17:30")

    keeper.run_until("2026-11-20T18:30")

    assert times(keeper) == [f"2026-11-20T{hour}:00:00Z" for hour in range(13, 19)]
    assert [calendar.text(time)[11:16] for time, _ in keeper.started] == ["17:30"] * 5 + ["18:00"]


def test_downtime_beyond_the_window(crash: bool) -> None:
    """What is older is left out, and the status says what."""
    schedule = Schedule("hourly", report, Job(), interval=HOUR, overlap="ALLOW_ALL", catchup_window=2 * HOUR)
    keeper = kept(schedule, crash=crash)
    keeper.down_until("2026-11-20T17:30")

    keeper.run_until("2026-11-20T18:30")

    assert times(keeper) == [f"2026-11-20T{hour}:00:00Z" for hour in (16, 17, 18)]
    assert keeper.status("hourly")["missed"] == ["2026-11-20T13:00:00Z", "2026-11-20T15:30:00Z"]


def test_a_long_backlog_goes_in_portions() -> None:
    """Thousands at once leave the partition its other sagas in between."""
    keeper = kept(Schedule("often", report, Job(), interval=1, overlap="ALLOW_ALL"))
    keeper.down_until("2026-11-20T12:16:40")

    keeper.step((keeper.now, 1))

    assert len(keeper.ids) == 100
    keeper.run_until(keeper.now)
    assert len(keeper.ids) == len(set(keeper.ids)) == 1_000


# -- what is asked of it


def test_pause_and_resume(crash: bool) -> None:
    """Nothing fires meanwhile, and nothing is made up for."""
    keeper = kept(Schedule("hourly", report, Job(), interval=HOUR), crash=crash)
    keeper.say("hourly", "pause", reason="the database is moved")
    keeper.run_until("2026-11-20T15:30")

    status = keeper.status("hourly")
    assert (keeper.ids, status["paused"], status["next"]) == ([], "the database is moved", None)
    keeper.say("hourly", "resume")
    keeper.run_until("2026-11-20T16:30")
    assert times(keeper) == ["2026-11-20T16:00:00Z"]


def test_trigger(crash: bool) -> None:
    """It fires now, as overlapping firings are dealt with; its key makes it idempotent."""
    keeper = kept(Schedule("daily", report, Job(60), cron="0 0 * * *"), crash=crash)

    keeper.say("daily", "trigger", key="t1")
    keeper.say("daily", "trigger", key="t2")

    assert keeper.ids == ["daily:trigger-t1"]
    assert keeper.status("daily")["skipped"] == ["trigger-t2", "trigger-t2"]
    keeper.run_until("2026-11-20T12:02")
    keeper.say("daily", "trigger", key="t1")
    keeper.run_until("2026-11-21T00:00")
    assert sorted(keeper.partition._ended) == ["daily:trigger-t1"]
    assert keeper.ids[-1] == "daily:2026-11-21T00:00:00Z"


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_backfill(crash: bool, overlap: str) -> None:
    """Every time of the range, in order; those that were fired are not done again; a paused schedule does it too."""
    schedule = Schedule("daily", report, Job(60), cron="0 0 * * *", overlap=overlap)
    keeper = kept(schedule, crash=crash)
    keeper.run_until("2026-11-21T12:00")
    keeper.say("daily", "pause", reason="")

    keeper.say("daily", "backfill", since=at("2026-11-18T00:00"), until=at("2026-11-30T00:00"))
    keeper.run_until("2026-11-21T13:00")

    assert times(keeper)[1:] == [f"2026-11-{day}T00:00:00Z" for day in (18, 19, 20, 21)]
    runs = [saga_id for saga_id in keeper.partition._ended if saga_id.startswith("daily:")]
    assert sorted(runs) == sorted(set(keeper.ids))
    assert keeper.status("daily")["backfills"] == []


def test_what_makes_no_sense_is_refused_by_name() -> None:
    """The schedule goes on, and its status says why."""
    keeper = kept(Schedule("daily", report, Job(), cron="0 0 * * *"))
    for verb, fields, text in (
        ("trigger", {"key": "not a key"}, "expected a key of 1 to 60"),
        ("backfill", {"since": at("2026-11-21T00:00"), "until": at("2026-11-22T00:00")}, "a time that is past"),
        ("update", {"schedule": None}, "expected the schedule 'daily'"),
        ("dance", {}, "Invalid enum value 'dance'"),
    ):
        keeper.say("daily", verb, **fields)
        assert text in keeper.status("daily")["refused"]

    keeper.say("daily", "update", Schedule("daily", "nobody", cron="0 0 * * *"))
    assert (
        "expected a saga of this application (doomed, report, shipment), got 'nobody'"
        in (keeper.status("daily")["refused"])
    )
    keeper.run_until("2026-11-21T00:00")
    assert len(keeper.ids) == 1


def test_update_delete_and_create_again(crash: bool) -> None:
    """From then on the new times count; a deleted one fires no more, and its name is free."""
    keeper = kept(Schedule("daily", report, Job(), cron="0 0 * * *"), crash=crash)
    keeper.say("daily", "update", Schedule("daily", report, Job(), cron="0 18 * * *"))
    keeper.run_until("2026-11-21T06:00")
    assert times(keeper) == ["2026-11-20T18:00:00Z"]

    keeper.say("daily", "delete")
    keeper.run_until("2026-11-23T06:00")
    assert keeper.status("daily")["deleted"]
    keeper.say("daily", "trigger", key="t1")
    assert len(keeper.ids) == 1

    again = Schedule("daily", report, Job(), cron="0 9 * * *")
    keeper.begin(again)
    keeper.say("daily", "create", again)
    keeper.run_until("2026-11-23T12:00")
    assert times(keeper)[1:] == ["2026-11-23T09:00:00Z"]


def test_a_declaration_counts_when_it_changes(crash: bool) -> None:
    """A worker that starts repeats it: what was changed since by hand stays, until the code says something else."""
    declared = Schedule("daily", report, Job(), cron="0 0 * * *")
    keeper = kept(declared, crash=crash)
    keeper.say("daily", "update", Schedule("daily", report, Job(), cron="0 18 * * *"))

    keeper.declare(declared)
    keeper.run_until("2026-11-21T06:00")
    assert times(keeper) == ["2026-11-20T18:00:00Z"]

    keeper.declare(Schedule("daily", report, Job(), cron="0 7 * * *"))
    keeper.run_until("2026-11-21T08:00")
    assert times(keeper)[1:] == ["2026-11-21T07:00:00Z"]


@pytest.mark.slow
def test_many_signals_are_no_runs_within_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept while the schedule was held, they come all at once: a run that ends for them lets others have their turn."""
    monkeypatch.setattr(context, "EVENTS_SUGGESTED", 100)
    keeper = kept(Schedule("daily", report, Job(), cron="0 0 * * *"))
    keeper.step(keeper.request("kompensate.pause", "schedule:daily"))
    for number in range(150):
        keeper.say("daily", "pause", reason=str(number))
    keeper.step(keeper.request("kompensate.resume", "schedule:daily"))
    assert keeper.folded("schedule:daily").run.count(".") == 1
    keeper.run_until(keeper.now)

    assert keeper.status("daily")["paused"] == "149"
    assert int(keeper.folded("schedule:daily").run.split(".")[2]) > 1


def shifted(following: Callable[[Schedule, int], int], by: int, schedule: Schedule, after: int) -> int:
    return following(schedule, after - by) + by


def test_calendars_that_differ_between_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with other time zone data takes over: what is recorded goes on, and nothing fires twice."""
    schedule = Schedule("nightly", report, Job(HOUR), cron="0 3 * * *", timezone="Europe/Zurich", overlap="BUFFER_ALL")
    for hours in (-1, 1):
        keeper = kept(schedule)
        keeper.run_until("2026-11-21T02:30")
        monkeypatch.setattr(calendar, "following", partial(shifted, calendar.following, hours * HOUR * 1000))
        keeper.crash()
        keeper.run_until("2026-11-24T12:00")
        monkeypatch.undo()

        assert keeper.folded("schedule:nightly").hold is None
        assert [saga_id[8:18] for saga_id in keeper.ids] == [f"2026-11-{day}" for day in (21, 22, 23, 24)]
