"""Schedules that cannot be are refused when they are defined, or by name where they are asked for."""

from typing import Any

import pytest

from kompensate.orchestrator import Application, DefinitionError, Schedule
from kompensate.schemas.encryption import AesGcm
from kompensate.schemas.formats import Owner, PayloadFormat
from tests.fixtures.driving import APP, SERVICES
from tests.fixtures.timekeeping import BEGIN, HOUR, SAGAS, Job, Timekeeper, app, at, report, shipment


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"cron": "0 0 31 2 *"}, "expected a cron expression of 5 or 6 fields (6: seconds first) that fires"),
        ({"cron": "0 0 * 2 MON#5", "name": "rare"}, None),
        ({"cron": "* * */20 * 1L"}, "within 50 years, got '* * */20 * 1L', which never does"),
        ({"cron": "every day"}, "got 'every day'"),
        ({"cron": "0 3 * * *", "interval": 60}, "expected either cron or interval, got both"),
        ({}, "expected either cron or interval, got none"),
        ({"interval": 0.5}, "expected an interval of whole seconds"),
        ({"cron": "0 3 * * *", "timezone": "Mars/Olympus"}, "expected a time zone such as 'Europe/Zurich'"),
        ({"cron": "0 3 * * *", "timezone": "../etc/passwd"}, "expected a time zone such as"),
        ({"interval": 60, "overlap": "skip"}, "expected overlap to be one of SKIP, BUFFER_ONE"),
        ({"interval": 60, "jitter": -1}, "expected a jitter of 0 to"),
        ({"interval": 60, "catchup_window": 5}, "expected a catchup_window of at least 10 seconds, got 5"),
        ({"interval": 60, "name": "no name"}, "schedule: expected 1 to 100"),
        ({"interval": 60, "input": print}, "expected a dataclass, Struct"),
    ],
    ids=str,
)
def test_a_schedule_that_cannot_be_is_refused(fields: dict[str, Any], text: str | None) -> None:
    """When it is defined, saying which schedule, what was expected and what was got."""
    given = {"name": "odd", "saga": report, **fields}
    if text is None:
        Schedule(**given)
        return

    with pytest.raises(DefinitionError) as raised:
        Schedule(**given)

    assert f"schedule {given['name']!r}" in str(raised.value)
    assert text in str(raised.value)


def test_an_application_knows_what_its_schedules_start() -> None:
    hourly = Schedule("hourly", "report", {"seconds": 1}, interval=HOUR)

    assert app(hourly).schedules == (hourly,)
    with pytest.raises(DefinitionError, match=r"expected a saga of this application .*, got 'nobody'"):
        app(Schedule("hourly", "nobody", interval=HOUR))
    with pytest.raises(DefinitionError, match="schedule 'hourly': input of saga 'report': payload Job"):
        app(Schedule("hourly", report, {"seconds": "many"}, interval=HOUR))
    with pytest.raises(DefinitionError, match="expected each schedule's name once"):
        app(hourly, hourly)
    assert "schedule" not in Application(APP, SAGAS, services=SERVICES).sagas


def test_a_start_by_hand_is_checked_too() -> None:
    """A schedule made at run time for a saga that is not there does not begin: its start is in quarantine."""
    keeper = Timekeeper(app(), at(BEGIN))

    keeper.begin(Schedule("hourly", "nobody", interval=HOUR))

    assert "expected a saga of this application (doomed, report, shipment), got 'nobody'" in keeper.reasons()[0]


def test_a_saga_that_is_gone_holds_its_schedule() -> None:
    """Deployed without it, the schedule is held by name; with it again, it goes on where it was."""
    schedule = Schedule("hourly", report, Job(), interval=HOUR)
    keeper = Timekeeper(app(schedule), at(BEGIN))
    keeper.declare(schedule)
    keeper.crash(application=Application(APP, [shipment], services=SERVICES, partitions=1, schedules=[]))
    keeper.run_until("2026-11-20T13:00")

    assert "schedule 'hourly': expected a saga of this application (shipment), got 'report'" in (
        keeper.folded("schedule:hourly").hold_reason
    )
    keeper.crash(application=app(schedule))
    keeper.step(keeper.request("kompensate.resume", "schedule:hourly"))
    keeper.run_until("2026-11-20T14:00")
    assert keeper.ids == ["hourly:2026-11-20T13:00:00Z", "hourly:2026-11-20T14:00:00Z"]


def test_payloads_that_are_encrypted() -> None:
    """What a schedule keeps, shows and starts goes through the application's format."""
    schedule = Schedule("hourly", report, Job(), interval=HOUR)
    format_ = PayloadFormat([AesGcm({"k": bytes(32)}, write="k")])
    application = Application(APP, SAGAS, services=SERVICES, partitions=1, schedules=[schedule], payloads=format_)
    keeper = Timekeeper(application, at(BEGIN), crash=True)
    keeper.declare(schedule)

    keeper.run_until("2026-11-20T15:00")

    assert len(keeper.ids) == 3
    shown = keeper.folded("schedule:hourly").published["schedule"]
    assert b"hourly" not in shown
    assert format_.decode(shown, dict, Owner(APP, "schedule:hourly"))["fired"] == 3
