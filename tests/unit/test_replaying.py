"""Today's code over recorded histories: what a deployment would hold is found before it, with the author's line."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kompensate.orchestrator import Application, Context, FailSaga, Saga, Step, saga
from kompensate.orchestrator.cli import main
from kompensate.orchestrator.client_errors import DamagedSaga
from kompensate.orchestrator.definitions.saga import AsyncSaga
from kompensate.orchestrator.kernel.inputs import Origin
from kompensate.orchestrator.reading.recordings import BadRecording, Recording, read_lines, recording
from kompensate.orchestrator.replay import Difference, read, replay
from kompensate.orchestrator.sagas.journal import Page, block_of
from tests.fixtures.driving import (
    CHECKOUT,
    SERVICES,
    Driven,
    Order,
    Release,
    Reserve,
    Ship,
    inventory,
    payments,
    shipping,
)


def recorded(driven: Driven) -> Recording:
    """What the topics would have of this saga, an event a block and a page for every three."""
    pages, page = [], Page("0.0")
    for number, (event, time) in enumerate(driven.history):
        if number and number % 3 == 0:
            pages.append(page.value())
            page = page.next()
        page.append(block_of(Origin("shop.requests", 0, number, time), [event]), 1)
    plans = {hash_: plan.encode().decode() for hash_, plan in driven.catalogue.plans.items()}
    return recording("shop", "order-1", "0.0", [*pages, page.value()], plans)


def application(*sagas: Saga | AsyncSaga) -> Application:
    return Application("shop", list(sagas), services=SERVICES)


def differences(today: Saga | AsyncSaga, *histories: Recording) -> list[Difference]:
    return list(replay(application(today), histories))


@saga("pay")
async def pay(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    try:
        await ctx.receive("paid", timeout=60)
    except TimeoutError:
        raise FailSaga("not paid") from None
    await ctx.sleep(1)
    await ctx.call(shipping, Ship("o1"), kind="pivot")
    return "shipped"


def paid(driven: Driven, stop: str = "") -> Driven:
    """Bring a `pay` to its end, or to where it waits for `stop`."""
    driven.start()
    steps: dict[str, Callable[[], Any]] = {
        "reserved": driven.reply,
        "paid": driven.signal,
        "slept": lambda: driven.wait(1_000),
        "shipped": driven.reply,
    }
    for what, do in steps.items():
        if what == stop:
            break
        do()
    return driven


def unpaid(driven: Driven) -> Driven:
    driven.start()
    driven.reply()
    driven.wait(60_000)
    return driven


def undone(driven: Driven) -> Driven:
    unpaid(driven)
    driven.reply()
    return driven


def cancelled(driven: Driven) -> Driven:
    driven.start()
    driven.reply()
    driven.cancel()
    driven.reply()
    return driven


def paused(driven: Driven) -> Driven:
    driven.start()
    driven.pause()
    driven.reply()
    return driven


def early(driven: Driven) -> Driven:
    driven.signal()
    return driven


LIVES: list[Callable[[Driven], Driven]] = [
    *(lambda d, stop=stop: paid(d, stop) for stop in ("reserved", "paid", "slept", "shipped", "")),
    *(unpaid, undone, cancelled, paused, early),
]


@pytest.mark.parametrize("life", range(len(LIVES)))
def test_the_same_code_has_no_difference(life: int) -> None:
    """Wherever a saga stands: under way at each wait, turned back, held, pending, or at each of its ends."""
    history = recorded(LIVES[life](Driven(pay)))

    assert differences(pay, history) == []
    (again,) = read_lines([history.line()], "file")
    assert again == history


def test_a_declared_saga_carries_its_plan() -> None:
    """A history follows the plan that stands in its line; without it, or without its step, it differs."""
    driven = Driven(CHECKOUT)
    driven.start()
    driven.reply()
    history = recorded(driven)
    (again,) = read_lines([history.line()], "file")
    shorter = Saga("checkout", Order, [Step("reserve", inventory, Reserve, undo=Release)])

    assert differences(CHECKOUT, again) == []
    (found,) = differences(shorter, again)
    assert "expected step 'charge' with command 'payments.Charge'" in found.reason
    (found,) = differences(shorter, replace(again, plan=None))
    assert "expected the plan" in found.reason


@saga("pay")
async def sleeps_first(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    await ctx.sleep(1)
    return "never paid"


@saga("pay")
async def returns_early(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    return "at once"


@saga("pay")
async def goes_on(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    await ctx.receive("paid", timeout=60)
    await ctx.sleep(1)
    await ctx.call(shipping, Ship("o1"), kind="pivot")
    await ctx.sleep(2)
    return "later"


@saga("pay")
async def asks_more(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    await ctx.receive("paid", timeout=60)
    await ctx.sleep(1)
    await ctx.call(shipping, Ship("o1"), kind="pivot")
    ctx.call(payments, Release("o1"), kind="retriable")
    return "not awaited"


@saga("pay")
async def forgives(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    try:
        await ctx.receive("paid", timeout=60)
    except TimeoutError:
        await ctx.receive("paid at last")
    return "later"


@saga("pay")
async def breaks(ctx: Context, order: Order) -> str:
    await ctx.call(inventory, Reserve("o1"), undo=Release("o1"))
    return order.nothing  # type: ignore[attr-defined,no-any-return]  # that is the mistake


CHANGED: list[tuple[Callable[[Driven], Driven], AsyncSaga, int, str, str, str]] = [
    (
        *(lambda d: paid(d, "paid"), sleeps_first, 4, "ReceiveStarted"),
        *("replay: expected operation 2: receive of 'paid', got operation 2: sleep", "await ctx.sleep(1)"),
    ),
    (
        *(paid, returns_early, 4, "ReceiveStarted"),
        *("replay: expected operation 2: receive of 'paid', got the program returned", "await ctx.call(inventory"),
    ),
    (paid, goes_on, 11, "SagaCompleted", "expected the program to return, got a program that goes on", "ctx.sleep(2)"),
    (paid, asks_more, 11, "SagaCompleted", "got operation 5: call of 'payments.Release'", 'kind="pivot"'),
    (undone, forgives, 6, "CompensationStarted", "expected the program to raise: not paid, got", "paid at last"),
    (lambda d: paid(d, "paid"), breaks, 4, "ReceiveStarted", "got the program ended: the program raised Attr", ""),
]


@pytest.mark.parametrize("number", range(len(CHANGED)))
def test_changed_code_differs_at_an_event_and_a_line(number: int) -> None:
    """Expected and got, the number of the event at which they part, and the author's line: also where a saga ended
    otherwise than today's code would."""
    life, today, event, kind, reason, line = CHANGED[number]
    history = recorded(life(Driven(pay)))

    (found,) = differences(today, history)

    assert (found.event, found.kind) == (event, kind)
    assert reason in found.reason
    file, _, at = (found.where or found.reason.rpartition("(")[2].rstrip(")")).rpartition(":")
    assert file == __file__
    assert line in Path(file).read_text().splitlines()[int(at) - 1]
    assert str(found).startswith(f"saga 'order-1' (pay), event {event} ({kind}): ")


def test_a_held_saga_is_asked_whether_it_would_go_on() -> None:
    """Of a saga whose program broke, today's code tells whether it is mended: that is what resume would do."""
    driven = Driven(breaks)
    driven.start()
    driven.reply()
    history = recorded(driven)

    (found,) = differences(breaks, history)

    assert "expected a program that can go on, got the program raised AttributeError" in found.reason
    assert differences(pay, history) == []


def test_a_definition_that_is_gone_is_a_difference() -> None:
    """So is damage; a history is never passed over."""
    history = recorded(paid(Driven(pay)))
    damaged = replace(history, pages=(history.pages[0][:-9], *history.pages[1:]))

    (found,) = differences(CHECKOUT, history)
    assert found.reason == "expected a saga definition 'pay' in this application, got none"
    (found,) = differences(pay, damaged)
    assert "its pages are damaged" in found.reason
    with pytest.raises(DamagedSaga):
        damaged.recorded()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", "file:2: expected a recorded history, as `kompensate history --save` writes it, got '{'"),
        ("[]", "file:2: expected a recorded history"),
        ('{"format": "kompensate history 9"}', "expected format 'kompensate history 1', got 'kompensate history 9'"),
        ('{"format": "kompensate history 1", "pages": ["=="]}', "file:2: expected a recorded history"),
        ('{"format": "kompensate history 1", "pages": [], "other": 1}', "file:2: expected a recorded history"),
    ],
)
def test_lines_that_are_none_are_named(line: str, text: str) -> None:
    """A file that is no recording is told with its line, not taken for an empty one."""
    with pytest.raises(BadRecording) as error:
        list(read_lines(["\n", line], "file"))

    assert text in str(error.value)


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
    assert list(read(file)) == list(read_lines(checkout.file.read_text().splitlines(), file))


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
    """pdb shows the author's frame where it awaits, before the event is told; n steps through the author's code."""
    found = Debugged(checkout, "p order\nn\nn\np reserved\nc\n", "--at", "3")

    assert found.code == 0, found.text
    assert "> before event 3: CallSucceeded(number=1" in found.text
    assert '-> await ctx.call("inventory", Reserve("o1"))' in found.text
    assert "Order(order_id='o1')" in found.text
    assert '-> reserved = "yes"' in found.text
    assert "'yes'" in found.text
    assert "histories replayed: 1, with differences: 0" in found.text


@pytest.mark.slow
def test_the_debugger_stops_before_the_first_line(checkout: Checkout) -> None:
    """Before event 1 the program has not begun; a breakpoint set there is met in the replay."""
    found = Debugged(checkout, "p order.order_id\nb 18\nc\np reserved\nc\n", "--at", "1")

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
    assert too_far.code == 2
    assert "--at: expected an event of the history, which has" in too_far.text
