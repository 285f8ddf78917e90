"""`kompensate replay` from files, and its debugger: no Kafka anywhere."""

import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kompensate.orchestrator.cli import main
from kompensate.orchestrator.reading.recordings import Recording
from kompensate.orchestrator.replay import read
from tests.fixtures.driving import Driven
from tests.fixtures.lives import paid, pay, recorded

SOURCE = """
from dataclasses import dataclass
from kompensate.orchestrator import Application, Context, Service, saga

@dataclass
class Order:
    order_id: str = "o1"

@dataclass
class Reserve:
    order_id: str

@saga("pay")
async def pay(ctx: Context, order: Order) -> str:
    await ctx.call("inventory", Reserve("o1"))
    reserved = "yes"
    {second}
    await ctx.sleep(1)
    return "end"

app = Application("shop", [pay], services=[Service("inventory")])
"""
RECEIVES = 'await ctx.receive("paid", timeout=60)'


class Checkout:
    """A user's repository: an application and a file of histories of the code that it had before."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "histories.jsonl"
        self.save([recorded(paid(Driven(pay), "slept")), recorded(paid(Driven(pay), "slept"))])

    def save(self, histories: Iterable[Recording]) -> None:
        self.file.write_text("".join(history.line() + "\n" for history in histories))

    def write(self, second: str) -> None:
        (self.directory / "replayed_app.py").write_text(textwrap.dedent(SOURCE).replace("{second}", second))

    def run(self, *words: str, second: str = RECEIVES) -> Result:
        self.write(second)
        sys.modules.pop("replayed_app", None)
        sys.path_importer_cache.pop(str(self.directory), None)
        words = ("replay", "--app", "replayed_app:app", "--app-dir", str(self.directory), *words)
        return CliRunner().invoke(main, words)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Checkout(tmp_path)


def test_in_ci_a_difference_is_exit_code_1(checkout: Checkout) -> None:
    """From a file, without Kafka: 0 where all agree, 1 at the first difference; --keep-going lists all."""
    file = str(checkout.file)
    same = checkout.run(file)
    first = checkout.run(file, second="await ctx.sleep(5)")
    every = checkout.run(file, "--keep-going", "-o", "jsonl", second="await ctx.sleep(5)")

    assert (same.exit_code, same.stdout) == (0, "")
    assert same.stderr == "histories replayed: 2, with differences: 0\n"
    assert first.exit_code == 1
    assert len(first.stdout.splitlines()) == 1
    assert first.stdout.startswith(
        "saga 'order-1' (pay), event 4 (ReceiveStarted): replay: expected operation 2: receive of 'paid', got "
        f"operation 2: sleep at {checkout.directory / 'replayed_app.py'}:17"
    )
    assert every.exit_code == 1
    assert len(every.stdout.splitlines()) == 2
    assert list(read(file)) == [recorded(paid(Driven(pay), "slept"))] * 2


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ([], 2, "expected FILEs, --all or --id, got none"),
        (["--all", "--id", "a"], 2, "got both --all and --id"),
        (["FILE", "--all"], 2, "expected FILEs or --all, got both"),
        (["FILE", "--at", "3"], 2, "expected --debug too"),
        (["FILE", "--id", "nobody"], 3, "expected histories of nobody, got none"),
        (["FILE", "--debug", "--at", "3"], 2, "--at: expected one history, got 2"),
        (["/nowhere"], 2, "No such file"),
    ],
)
def test_wrong_usage_is_told(checkout: Checkout, words: list[str], code: int, text: str) -> None:
    """What cannot be meant is exit code 2, a saga that no file has 3: an empty check is not a green one."""
    result = checkout.run(*(str(checkout.file) if word == "FILE" else word for word in words))

    assert result.exit_code == code, result.output
    assert text in result.stderr


def test_an_empty_file_is_not_green(checkout: Checkout) -> None:
    """A file without a history is exit code 3."""
    checkout.save([])

    assert checkout.run(str(checkout.file)).exit_code == 3


class Debugged:
    """A session in pdb, as a user has it: commands in, everything that was printed out."""

    def __init__(self, checkout: Checkout, commands: str, *words: str, second: str = RECEIVES) -> None:
        checkout.save([recorded(paid(Driven(pay), "slept"))])
        checkout.write(second)
        words = ("replay", "--app", "replayed_app:app", "--app-dir", str(checkout.directory), *words)
        process = subprocess.run(
            [sys.executable, "-Im", "kompensate.orchestrator.cli", *words, str(checkout.file), "--debug"],
            input=commands,
            capture_output=True,
            text=True,
            check=False,
        )
        self.code, self.text = process.returncode, process.stdout + process.stderr


@pytest.mark.slow
def test_the_debugger_stops_at_an_event(checkout: Checkout) -> None:
    """pdb shows the author's frame where it awaits, before the event is told; s and n step through the author's code,
    and through nothing of ours."""
    found = Debugged(checkout, "p order\ns\ns\nn\np reserved\nc\n", "--at", "3")

    assert found.code == 0, found.text
    assert "> before event 3: CallSucceeded(number=1" in found.text
    assert '-> await ctx.call("inventory", Reserve("o1"))' in found.text
    assert "Order(order_id='o1')" in found.text
    assert '-> reserved = "yes"' in found.text
    assert "'yes'" in found.text
    assert "histories replayed: 1, with differences: 0" in found.text
    assert "/orchestrator/" not in found.text


@pytest.mark.slow
def test_the_debugger_stops_before_the_first_line(checkout: Checkout) -> None:
    """Before event 1 the program has not begun; a breakpoint set there is met in the replay."""
    found = Debugged(checkout, "p order.order_id\ntbreak 18\nc\np reserved\nc\n", "--at", "1")

    assert found.code == 0, found.text
    assert "'o1'" in found.text
    assert "-> await ctx.sleep(1)" in found.text
    assert "'yes'" in found.text


@pytest.mark.slow
def test_the_debugger_stops_at_a_difference(checkout: Checkout) -> None:
    """Without --at it stops where today's code parts from the history: where it awaits, or where it raised."""
    waits = Debugged(checkout, "p reserved\nc\n", second="await ctx.sleep(5)")
    raises = Debugged(checkout, "p reserved\nq\n", second="raise ValueError(reserved)")

    assert waits.code == 1, waits.text
    assert "> saga 'order-1' (pay), event 4" in waits.text
    assert "-> await ctx.sleep(5)" in waits.text
    assert "'yes'" in waits.text
    assert raises.code == 130, raises.text
    assert "-> raise ValueError(reserved)" in raises.text


@pytest.mark.slow
def test_leaving_the_debugger_leaves_the_command(checkout: Checkout) -> None:
    """q is 130, as Ctrl-C is: also from within the saga's code, which must not take it for an error of its own."""
    at_once = Debugged(checkout, "q\n", "--at", "3")
    inside = Debugged(checkout, "n\nq\n", "--at", "3")
    too_far = Debugged(checkout, "", "--at", "99")

    assert (at_once.code, inside.code) == (130, 130), inside.text
    assert "raised BdbQuit" not in inside.text
    assert too_far.code == 2
    assert "--at: expected an event of the history, which has" in too_far.text
