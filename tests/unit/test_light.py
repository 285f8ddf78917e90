"""`kompensate dev --light`: files that a user has, run as he does, by their events and exit codes."""

import json
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 60.0
TRIP = {"trip_id": "t", "traveller": "Ada", "flight": "LH 400", "hotel": "Grand", "nights": 3}

APP = """
import asyncio
import threading
from dataclasses import dataclass

from sqlalchemy import BigInteger
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from kompensate.orchestrator import Application, Context, RetryPolicy, Service, saga
from kompensate.outbox.events import EventTopic
from kompensate.participants import Participant, Refused

payments = Service("payments")
main = threading.main_thread()


@dataclass
class Charge:
    cents: int


@dataclass
class Refund:
    cents: int


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "effect"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    cents: Mapped[int]


told = EventTopic("till.events", service="payments", partitions=3)
till = Participant("payments", publishes=[told])


@till.handles
def charge(command: Charge, session: Session) -> None:
    if command.cents < 0:
        raise ArithmeticError("less than nothing")
    if command.cents > 100:
        raise Refused("too much")
    session.add(Entry(cents=command.cents))
    told.publish(session, command, key=str(command.cents))


@till.handles
def refund(command: Refund, session: Session) -> None:
    assert session.query(Entry).filter_by(cents=command.cents).count() == 1


def where() -> str:
    return "aside" if threading.current_thread() is not main else "main"


async def later() -> str:
    await asyncio.sleep(0)
    return "later"


@saga("approval")
async def approval(ctx: Context, cents: int) -> list[str]:
    await ctx.call(payments, Charge(cents), undo=Refund(cents))
    found = [await ctx.run(where), await ctx.run(later)]
    await ctx.sleep(1)
    answer = await ctx.receive("answer")
    if not answer["yes"]:
        await ctx.call(payments, Charge(101))
    return found


@saga("broken")
async def broken(ctx: Context, cents: int) -> None:
    raise KeyError(cents)


@saga("stopped")
async def stopped(ctx: Context, cents: int) -> None:
    breakpoint()


@saga("failing")
async def failing(ctx: Context, cents: int) -> None:
    await ctx.call(payments, Charge(-1), retry=RetryPolicy(maximum_attempts=1))


def divide() -> float:
    return 1 / 0


@saga("local")
async def local(ctx: Context, cents: int) -> None:
    await ctx.run(divide, retry=RetryPolicy(maximum_attempts=1))


@saga("greeting")
async def greeting(ctx: Context, name: str) -> None:
    await ctx.call("mails", Charge(1))


def light_setup(service, connection):
    print("set up", service, connection.exec_driver_sql("SELECT count(*) FROM outbox").scalar_one())


app = Application("shop", [approval, broken, stopped, failing, local, greeting], services=[payments, "mails"])
"""


def light(*arguments: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-Im", "kompensate.orchestrator.cli", "dev", *arguments],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, directory: Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    """To its end, with `typed` on standard input."""
    process = light(*arguments, directory=directory)
    out, err = process.communicate(typed, timeout=SECONDS_MAX)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def kinds(out: str, saga_id: str) -> list[str]:
    """The kinds of a saga's events, as printed."""
    return [line.split("  ")[4] for line in out.splitlines() if line.startswith(f"{saga_id}  ")]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    return tmp_path


@pytest.fixture
def trips(tmp_path: Path) -> Path:
    """The application of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("trips.py", "flights.py", "hotels.py"):
        found = re.search(rf"^`{re.escape(name)}`.*?```python\n(.*?)```", text, re.DOTALL | re.MULTILINE)
        assert found is not None, name
        (tmp_path / name).write_text(found[1], encoding="utf-8")
    return tmp_path


def test_the_readmes_trips_complete_or_are_undone(trips: Path) -> None:
    """Declared steps, participants in further files, tables made; one is refused and compensated."""
    starts = ["--start", "trip", "--id", "t1", "--input", json.dumps(TRIP)]
    done = run("--light", "trips.py", "flights.py", "hotels.py", *starts, directory=trips)
    assert (done.returncode, kinds(done.stdout, "t1")[-1]) == (0, "SagaCompleted"), done.stdout + done.stderr

    starts += ["--start", "trip", "--id", "t2", "--input", json.dumps({**TRIP, "nights": 9})]
    done = run("light", "hotels.py", "flights.py", "trips.py:app", *starts, directory=trips)
    assert done.returncode == 1
    assert kinds(done.stdout, "t1")[-1] == "SagaCompleted"
    assert kinds(done.stdout, "t2")[-5:] == [
        *("CallRefused", "CompensationStarted", "UndoSent", "CallUndone", "SagaCompensated")
    ]
    assert "no room for so long" in done.stdout


def test_services_that_nobody_wrote_are_played_and_that_is_said(trips: Path) -> None:
    """Modules by name, too."""
    start = ("--start", "trip", "--input", json.dumps({**TRIP, "nights": 9}))
    done = run("--light", "trips", "flights", *start, directory=trips)

    assert done.returncode == 0, done.stderr
    assert kinds(done.stdout, "trip-1")[-1] == "SagaCompleted"
    assert "service hotels: no Participant found, every command is answered with done" in done.stderr
    assert "service flights" not in done.stderr


def test_a_saga_with_local_steps_a_sleep_and_signals_that_are_typed(app: Path) -> None:
    """In real time; refusal by the file's own participant, and compensation."""
    began = time.monotonic()
    typed = (
        'start approval yes 5\nsignal yes answer {"yes": true}\nstart approval no 7\nsignal no answer {"yes": false}\n'
    )
    done = run("--light", "app.py", directory=app, typed=typed)

    assert done.returncode == 1, done.stderr
    assert time.monotonic() - began > 1
    assert kinds(done.stdout, "yes")[-1] == "SagaCompleted"
    assert kinds(done.stdout, "no")[-1] == "SagaCompensated"
    assert "too much" in done.stdout
    assert "set up payments 0" in done.stdout


class Typing:
    """Whoever types at a process, and reads what it prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._heard = ""

    def type(self, line: str, until: str) -> None:
        """Type a line; return when what is printed from then on has `until` in it."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        self._heard = ""
        process.stdin.write(line + "\n")
        process.stdin.flush()
        deadline = time.monotonic() + SECONDS_MAX
        while until not in self._heard:
            assert time.monotonic() < deadline, self._heard
            if select.select([process.stdout], [], [], 1.0)[0]:
                found = os.read(process.stdout.fileno(), 65536).decode()
                assert found, self._heard
                self._heard += found


def test_what_is_typed_is_answered_while_it_runs(app: Path) -> None:
    """start, show, signal, list, cancel, history, help, quit; and mistakes."""
    process = light("--light", "app.py", directory=app)
    typing = Typing(process)

    typing.type("start approval a 5", "ReceiveStarted")
    typing.type("show a", "for a signal 'answer'")
    typing.type("list", "UNDO LEFT")
    typing.type("history a", "ReceiveStarted")
    typing.type("help", "quit")
    typing.type("cancel a enough of it", "SagaCancelled")
    mistakes = "fly a\nstart approval\nstart approval b no\nstart other b\nshow b\nquit\n"
    _, err = process.communicate(mistakes, timeout=SECONDS_MAX)

    assert process.returncode == 0
    assert "expected one of start, signal" in err
    assert "expected start SAGA ID [JSON], got 'start approval'" in err
    assert "expected JSON, got 'no'" in err
    assert "expected a saga of application 'shop'" in err
    assert "no saga 'b'" in err


def test_a_program_that_raises_is_shown_with_its_line_and_ends_the_run(app: Path) -> None:
    """It is held, and nobody is there to mend it."""
    done = run("--light", "app.py", "--start", "broken", "--input", "5", directory=app)

    line = APP.splitlines().index("    raise KeyError(cents)") + 1
    assert done.returncode == 1
    assert f"app.py:{line})" in done.stdout


@pytest.mark.parametrize(
    ("name", "line"),
    [("failing", '        raise ArithmeticError("less than nothing")'), ("local", "    return 1 / 0")],
)
def test_what_a_handler_or_a_local_step_raises_is_shown_with_its_line(app: Path, name: str, line: str) -> None:
    """When its last try is over."""
    done = run("--light", "app.py", "--start", name, "--input", "5", directory=app)

    assert (done.returncode, kinds(done.stdout, f"{name}-1")[-1]) == (1, "SagaCompensated"), done.stdout
    assert f'app.py", line {APP.splitlines().index(line) + 1}, in' in done.stderr


def test_the_checkout_runs_with_its_shelves_filled() -> None:
    """`light_setup` in a package's module; one order completes, one customer's address is refused."""
    order = {
        "order_id": "o1",
        "customer": "00004",
        "date": "19970101",
        "sku": "cd-001",
        "quantity": 1,
        "cents": 1299,
        "address": "1 High Street",
    }
    refused = {**order, "order_id": "o2", "address": "PO box 7"}
    done = run(
        *("--light", "examples.checkout.light"),
        *("--start", "checkout", "--id", "o1", "--input", json.dumps(order)),
        *("--start", "checkout", "--id", "o2", "--input", json.dumps(refused)),
        directory=ROOT,
    )

    assert (done.returncode, kinds(done.stdout, "o1")[-1]) == (1, "SagaCompleted"), done.stdout + done.stderr
    assert kinds(done.stdout, "o2")[-1] == "SagaCompensated"
    assert "no parcels to post boxes" in done.stdout


def test_a_breakpoint_has_the_terminal_for_itself(app: Path) -> None:
    """In the main thread; what is typed goes to the debugger until it continues."""
    process = light("--light", "app.py", directory=app)
    typing = Typing(process)

    typing.type("start stopped s 1", "(Pdb)")
    typing.type("import threading; threading.current_thread() is threading.main_thread()", "True")
    typing.type("p cents + 41", "42")
    typing.type("continue", "SagaCompleted")
    process.communicate("", timeout=SECONDS_MAX)

    assert process.returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n1 / 0\n", 'bad.py", line 2'),
        ("x = (\n", 'bad.py", line 1'),
        ("import nothing_of_the_kind\n", 'bad.py", line 1'),
        ("x = 1\n", "expected an Application in bad.py, got none"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_shown_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    """From the author's own line on."""
    (tmp_path / "bad.py").write_text(text, encoding="utf-8")
    done = run("--light", "bad.py", directory=tmp_path)

    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "loading.py" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--light", "gone.py"], "expected a file, got"),
        (["--light", "gone_module"], "expected module gone_module"),
        (["--light", "app.py:nothing"], "expected 'nothing' in app.py:nothing"),
        (["--light", "app.py", "--input", "1"], "--input: expected it once after each --start"),
        (["--light", "app.py", "--start", "approval", "--input", '"x"'], "saga 'approval'"),
        (["--light", "app.py", "--start", "other"], "expected a saga of application 'shop'"),
    ],
)
def test_wrong_usage(app: Path, arguments: list[str], said: str) -> None:
    """Said before anything runs."""
    done = run(*arguments, directory=app)

    assert done.returncode == 2, done.stderr
    assert said in done.stderr


OUTSIDE = """
from dataclasses import dataclass

from kompensate.orchestrator import Application, Context, Service, saga
from kompensate.participants import OutsideCall, Participant, Retry

payments = Service("payments")
till = Participant("payments")
calls = []


@dataclass
class Charge:
    cents: int


@till.external()
async def charge(command: Charge, call: OutsideCall) -> str:
    calls.append(call.id)
    if len(calls) == 1:
        raise Retry("not now")
    return f"charged {command.cents} under one key: {len(set(calls)) == 1}"


@saga("paying")
async def paying(ctx: Context, cents: int) -> None:
    if await ctx.call(payments, Charge(cents)) != "charged 45 under one key: True":
        raise ValueError("what was charged?")


app = Application("shop", [paying], services=[payments])
"""


def test_outside_calls_are_made(tmp_path: Path) -> None:
    """In place, one at a time; what is to be tried again is, and the saga gets the result."""
    (tmp_path / "app.py").write_text(OUTSIDE, encoding="utf-8")

    done = run("--light", "app.py", "--start", "paying", "--id", "p", "--input", "45", directory=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert kinds(done.stdout, "p")[-1] == "SagaCompleted"
    assert "outside call 1: Retry: not now" in done.stderr
