"""The double run finds what a saga reads and must not, with the line; and leaves everybody else alone."""

import datetime as dt
import logging
import os
import random
import secrets
import time
import uuid
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from time import time as now
from typing import Any

import pytest

from kompensate.orchestrator import Context, Service, saga
from kompensate.orchestrator.definitions.saga import AsyncSaga
from kompensate.orchestrator.testing import SagaTest
from kompensate.orchestrator.testing.world import ELSEWHERE, OtherWorld
from tests.fixtures.driving import Charge, Reserve

A = Service("a")
COUNTED: list[str] = []
REAL: dict[str, Any] = {"time": time.time, "datetime": dt.datetime, "date": dt.date}  # no names: those are replaced


@saga("time")
async def reads_time(ctx: Context, _: None) -> None:
    await ctx.call(A, Reserve(str(time.time())))


@saga("imported")
async def reads_imported_time(ctx: Context, _: None) -> None:
    await ctx.sleep(now() % 50)


@saga("monotonic")
async def reads_monotonic(ctx: Context, _: None) -> None:
    await ctx.call(A, Reserve("o1"), step=f"s{time.monotonic_ns()}")


@saga("datetime")
async def reads_datetime(ctx: Context, _: None) -> None:
    await ctx.call(A, Reserve(datetime.now().isoformat()))


@saga("utcnow")
async def reads_datetime_of_module(ctx: Context, _: None) -> int:
    return dt.datetime.now(dt.UTC).year


@saga("date")
async def reads_date(ctx: Context, _: None) -> None:
    await ctx.receive(f"on-{date.today()}")


@saga("year")
async def reads_local_time(ctx: Context, _: None) -> str:
    return time.strftime("%Y", time.localtime())


@saga("random")
async def reads_random(ctx: Context, _: None) -> None:
    await ctx.sleep(random.randint(1, 10**9))


@saga("secrets")
async def reads_secrets(ctx: Context, _: None) -> None:
    await ctx.call(A, Reserve(secrets.token_hex(8)))


@saga("uuid")
async def reads_uuid(ctx: Context, _: None) -> None:
    await ctx.call(A, Reserve(str(uuid.uuid4())))


@saga("environ")
async def reads_environ(ctx: Context, _: None) -> None:
    await (ctx.call(A, Charge("o1")) if "NEW_WAY" in os.environ else ctx.call(A, Reserve("o1")))


@saga("getenv")
async def reads_getenv(ctx: Context, _: None) -> str | None:
    return os.getenv("REGION")


@saga("file")
async def reads_file(ctx: Context, _: None) -> str:
    return Path(__file__).read_text(encoding="utf-8")[:10]


@saga("opens")
async def opens_file(ctx: Context, _: None) -> str:
    with open(__file__, encoding="utf-8") as file:  # noqa: PTH123  # that is what is found
        return file.readline()


@saga("logs")
async def logs(ctx: Context, _: None) -> None:
    try:
        await ctx.call(A, Reserve("o1"))
        raise KeyError("o1")
    except KeyError:
        logging.getLogger("shop").exception("not there")


@saga("late")
async def reads_after_a_step(ctx: Context, _: None) -> str:
    await ctx.call(A, Reserve("o1"))
    return os.environ["PATH"]


def line_of(definition: AsyncSaga, text: str) -> str:
    """file:line of the first line of that saga that holds `text`."""
    code = definition.function.__code__
    lines = Path(code.co_filename).read_text(encoding="utf-8").splitlines()
    number = next(n for n in range(code.co_firstlineno + 1, len(lines)) if text in lines[n - 1])
    return f"{code.co_filename}:{number}"


def double(definition: AsyncSaga) -> str:
    """What the double run says of it."""
    test = SagaTest(definition, services=[A])
    test.start(definition)
    with pytest.raises(AssertionError) as caught:
        test.run()
    return str(caught.value)


@pytest.mark.parametrize(
    ("definition", "what", "text"),
    [
        (reads_time, "time.time", "time.time()"),
        (reads_imported_time, "time.time", "now()"),
        (reads_monotonic, "time.monotonic_ns", "monotonic_ns"),
        (reads_datetime, "datetime.now", "now()"),
        (reads_datetime_of_module, "datetime.now", "now("),
        (reads_date, "date.today", "today"),
        (reads_local_time, "time.localtime", "localtime"),
        (reads_random, "random.randint", "randint"),
        (reads_secrets, "secrets.token_hex", "token_hex"),
        (reads_uuid, "uuid.uuid4", "uuid4"),
        (reads_environ, "os.environ['NEW_WAY']", "os.environ"),
        (reads_getenv, "os.environ['REGION']", "os.getenv("),
        (reads_file, f"file {__file__}", "read_text"),
        (opens_file, f"file {__file__}", "with open"),
        (reads_after_a_step, "os.environ['PATH']", "os.environ"),
    ],
    ids=lambda value: value.name if isinstance(value, AsyncSaga) else "",
)
def test_what_a_saga_reads_is_found_with_its_line(definition: AsyncSaga, what: str, text: str) -> None:
    """In the plainest mode, on the first run."""
    said = double(definition)

    assert said.count("it reads ") == 1
    assert f"it reads {what} at {line_of(definition, text)}" in said
    assert "does not do the same twice" in said


def test_what_differs_is_shown() -> None:
    """The event that differs, each of its fields that does, and the line that asked for it."""
    said = double(reads_environ)

    assert "its event 2 differs" in said
    assert "  first: call made: Reserve" in said
    assert "  then:  call made: Charge" in said
    assert "  its type: first 'a.Reserve', then 'a.Charge'" in said
    assert f"  asked for at {line_of(reads_environ, 'await')}" in said


def test_what_a_saga_keeps_itself_is_found() -> None:
    """Nothing that is watched was read: the message says what then to look for."""

    @saga("counter")
    async def counter(ctx: Context, _: None) -> None:
        COUNTED.append("")
        await ctx.call(A, Reserve(f"o{len(COUNTED)}"))

    said = double(counter)

    assert "its payload: first {'order_id': 'o1'}, then {'order_id': 'o2'}" in said
    assert "does it keep something itself?" in said


@pytest.mark.parametrize("value", ["uuid", "now", "random"])
def test_what_ctx_gives_is_the_same(value: str) -> None:
    """A saga that asks its context passes."""

    @saga("asks-ctx")
    async def asks(ctx: Context, _: None) -> None:
        for _n in range(3):
            await ctx.call(A, Reserve(str(getattr(ctx, value)())))
            await ctx.sleep(60)

    test = SagaTest(asks, services=[A])
    found = test.start(asks)
    test.run()

    found.assert_completed()


def test_what_a_local_step_is_given_is_compared() -> None:
    """Its arguments are recorded nowhere: a saga that draws them gives a worker that takes over others."""

    def charge(key: str, unwritable: object) -> str:
        return key

    @saga("runs")
    async def runs(ctx: Context, _: None) -> None:
        await ctx.run(charge, str(uuid.uuid4()), object())

    said = double(runs)

    assert 'first: charge("' in said
    assert '", <object>)' in said
    assert "it reads uuid.uuid4 at" in said


def test_a_saga_may_log() -> None:
    """Log records have times and tracebacks have files: both are read for the log, not for the saga."""
    test = SagaTest(logs, services=[A])
    found = test.start(logs)
    test.run()

    found.assert_completed()


def test_a_declared_sagas_make_is_watched() -> None:
    """What fills a command's fields is run again too."""
    from kompensate.orchestrator import Saga, Step
    from tests.fixtures.driving import Order

    declared = Saga("d", Order, [Step("reserve", A, Reserve, make=lambda _: Reserve(str(uuid.uuid4())), kind="pivot")])
    test = SagaTest(declared)
    test.start(declared, Order())

    with pytest.raises(AssertionError, match=r"reads uuid.uuid4 at .*test_testing_double.py:\d+"):
        test.run()


def test_it_can_be_turned_off() -> None:
    """Then the saga runs once."""
    test = SagaTest(reads_uuid, services=[A], double_run=False)
    found = test.start(reads_uuid)
    test.run()

    found.assert_completed()


@pytest.mark.parametrize(
    "read",
    [
        lambda: abs(time.time() - REAL["time"]()) < 60,
        lambda: abs((datetime.now(dt.UTC) - REAL["datetime"].now(dt.UTC)).total_seconds()) < 60,
        lambda: isinstance(REAL["datetime"].now(), datetime),
        lambda: isinstance(REAL["date"](2020, 1, 1), date) and issubclass(REAL["datetime"], datetime),
        lambda: type(datetime(2020, 1, 1)) is REAL["datetime"] and type(date(2020, 1, 1)) is REAL["date"],
        lambda: type(datetime.fromisoformat("2020-01-01")) is REAL["datetime"],
        lambda: os.environ["PATH"] != ELSEWHERE and os.environ.copy() == dict(os.environ) and len(os.environ) > 0,
        lambda: os.getenv("NOT_THERE_AT_ALL") is None,
        lambda: random.random() < 1 and uuid.uuid4().version == 4 and len(os.urandom(3)) == 3,
    ],
)
def test_who_is_no_saga_sees_the_real_world(read: Callable[[], Any]) -> None:
    """Libraries, threads and the test runner are told what is true, while a second run goes on."""
    with OtherWorld() as world:
        assert read()

    assert world.reads == []


def test_the_world_is_put_back() -> None:
    """Whatever happens in between."""
    before = (time.time, dt.datetime, dt.date, os.environ, random.random, uuid.uuid4, datetime, now, Context.call)

    def breaks() -> None:
        with OtherWorld():
            assert dt.datetime is not before[1]
            assert datetime is not before[1]  # the name in this module too
            raise RuntimeError

    with pytest.raises(RuntimeError):
        breaks()

    assert before == (
        time.time,
        dt.datetime,
        dt.date,
        os.environ,
        random.random,
        uuid.uuid4,
        datetime,
        now,
        Context.call,
    )
