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

from kompensate.orchestrator import Application, Context, Service, saga
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


till = Participant("payments")


@till.handles
def charge(command: Charge, session: Session) -> None:
    if command.cents > 100:
        raise Refused("too much")
    session.add(Entry(cents=command.cents))


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


@saga("greeting")
async def greeting(ctx: Context, name: str) -> None:
    await ctx.call("mails", Charge(1))


def light_setup(service, connection):
    print("set up", service, connection.exec_driver_sql("SELECT count(*) FROM outbox").scalar_one())


app = Application("shop", [approval, broken, stopped, greeting], services=[payments, "mails"])
"""


def light(*arguments: str, directory: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-Im", "kompensate.orchestrator.cli", "dev", *arguments],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def run(*arguments: str, directory: Path, typed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """To its end, with `typed` on standard input."""
    process = light(*arguments, directory=directory, **environment)
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


def test_what_is_typed_is_answered_while_it_runs(app: Path) -> None:
    """start, show, signal, list, cancel, history, help, quit; and mistakes."""
    process = light("--light", "app.py", directory=app)
    assert process.stdin is not None
    assert process.stdout is not None
    heard: list[str] = []

    def type_(line: str, until: str) -> None:
        assert process.stdin is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        hear(until)

    def hear(until: str) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        assert process.stdout is not None
        while until not in "".join(heard):
            assert time.monotonic() < deadline, heard
            if select.select([process.stdout], [], [], 1.0)[0]:
                byte = os.read(process.stdout.fileno(), 65536).decode()
                assert byte, heard
                heard.append(byte)

    type_("start approval a 5", "ReceiveStarted")
    type_("show a", "for a signal 'answer'")
    type_("list", "UNDO LEFT")
    type_("history a", "DETAIL")
    type_("help", "quit")
    type_("cancel a enough of it", "SagaCancelled")
    out, err = process.communicate("fly a\nstart approval\nstart approval b no\nstart other b\nshow b\nquit\n")

    assert process.returncode == 0
    assert "expected one of start, signal" in err
    assert "expected start SAGA ID [JSON], got 'start approval'" in err
    assert "expected JSON, got 'no'" in err
    assert "expected a saga of application 'shop'" in err
    assert "Error: saga 'b'" in err
    assert "set up" not in out


def test_a_program_that_raises_is_shown_with_its_line_and_ends_the_run(app: Path) -> None:
    """It is held, and nobody is there to mend it."""
    done = run("--light", "app.py", "--start", "broken", "--input", "5", directory=app)

    line = APP.splitlines().index("    raise KeyError(cents)") + 1
    assert done.returncode == 1
    assert f"app.py:{line})" in done.stdout


def test_a_breakpoint_stops_in_the_main_thread(app: Path) -> None:
    """The debugger's hook is called there, and everything stands still meanwhile."""
    (app / "hook.py").write_text(
        "import threading\ndef stop():\n    print('stopped in', threading.current_thread().name, flush=True)\n"
    )
    done = run(
        *("--light", "hook.py", "app.py", "--start", "stopped", "--input", "1"),
        directory=app,
        PYTHONBREAKPOINT="hook.stop",
    )

    assert (done.returncode, "stopped in MainThread" in done.stdout) == (0, True), done.stderr


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
