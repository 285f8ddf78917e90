"""`kompensate simulate` on an application file, and the values that it makes up."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from random import Random
from typing import Literal, TypedDict

import pytest
from click.testing import CliRunner, Result

from kompensate.orchestrator.cli import main
from kompensate.schemas.payloads import decode, encode
from kompensate.simulator import rest
from kompensate.simulator.campaign import add_plan, read_plans
from kompensate.simulator.plan import Plan
from kompensate.simulator.run import Outcome, Run
from kompensate.simulator.samples import sample
from kompensate.simulator.violation import Violation

APPLICATION = """
from dataclasses import dataclass
from kompensate.orchestrator import Application, Saga, Service, Step

@dataclass
class Order:
    order_id: str

@dataclass
class Reserve:
    order_id: str

app = Application("{name}", [Saga("order", Order, [Step("reserve", Service("stock"), Reserve, kind="pivot")])])
"""


def simulate(directory: Path, name: str, *arguments: str, source: str = APPLICATION, returns: str = "Price") -> Result:
    text = source.replace("{name}", name.replace("_", "-")).replace("{returns}", returns)
    (directory / f"{name}.py").write_text(text, encoding="utf-8")
    files = ["--app-dir", str(directory), "--regressions", str(directory / "kept.jsonl")]
    return CliRunner().invoke(main, ["simulate", f"{name}:app", *files, *arguments])


@pytest.mark.slow
def test_an_application_file_is_all_it_needs(tmp_path: Path) -> None:
    """One run: counts, faults and ends are printed; nothing is kept of a run that held."""
    result = simulate(tmp_path, "simulated_shop", "--minutes", "0", "--seed", "3", "--sagas", "20")

    assert result.exit_code == 0, result.output
    assert "runs 1, sagas 20" in result.output
    assert "from seed 3 on" in result.output
    assert not (tmp_path / "kept.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--faults", "meteor"), "expected some of kill, raise"),
        (("--plan", "nonsense"), "expected a plan as JSON, got 'nonsense'"),
    ],
)
def test_wrong_usage_says_expected_and_got(tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    """Exit code 2."""
    result = simulate(tmp_path, "simulated_shop_misused", *arguments)

    assert result.exit_code == 2
    assert text in result.output


@pytest.fixture
def nothing_holds(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Every run breaks where it has come to rest; the plans that were run."""
    ran: list[Plan] = []

    def check(run: Run) -> None:
        ran.append(run.plan)
        raise Violation("I1", f"{run.load.started[0]} (completed): made up")

    monkeypatch.setattr(rest, "check", check)
    return ran


def test_a_failure_is_told_and_kept_before_it_is_made_small(
    tmp_path: Path, nothing_holds: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the plan as it was run, and the history of the saga it is about; Ctrl-C then loses nothing."""
    kept: list[Plan] = []

    def interrupted(failure: Outcome, *_: object, **__: object) -> Outcome:
        kept.extend(read_plans(tmp_path / "kept.jsonl"))
        return failure

    monkeypatch.setattr("kompensate.orchestrator.cli.simulate.shrink", interrupted)
    result = simulate(tmp_path, "simulated_broken", "--minutes", "0", "--seed", "3", "--sagas", "5")

    assert result.exit_code == 1, result.output
    assert kept == nothing_holds
    told, _, rest_of_it = result.output.partition("making it smaller: at most 150 runs, for 10 minutes at most")
    assert "broken: I1: order-0 (completed): made up" in told
    assert f"--plan '{kept[0].to_json()}'" in told
    assert "history of order-0:" in told
    assert "SagaStarted" in told
    assert "no smaller plan was found" in rest_of_it
    assert read_plans(tmp_path / "kept.jsonl") == kept


BREAKS = """
from kompensate.simulator import rest
from kompensate.simulator.violation import Violation

def check(run):
    raise Violation("I1", f"{run.load.started[0]} (completed): made up")

rest.check = check
"""


@pytest.mark.slow
def test_a_failure_in_a_process_of_a_campaign_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them, with its history, which came from there; the campaign ends."""
    monkeypatch.setattr(rest, "check", rest.check)  # the application breaks it in this process too
    monkeypatch.setattr("kompensate.orchestrator.cli.simulate.shrink", lambda failure, *_, **__: failure)
    arguments = ("--minutes", "5", "--seed", "3", "--sagas", "5", "--processes", "2")
    result = simulate(tmp_path, "simulated_campaign", *arguments, source=APPLICATION + BREAKS)

    assert result.exit_code == 1, result.output
    assert result.output.count("broken: I1: order-0 (completed): made up") == 1
    assert "SagaStarted" in result.output
    assert len(read_plans(tmp_path / "kept.jsonl")) == 1


@pytest.mark.slow
def test_a_smaller_failure_takes_its_place(tmp_path: Path, nothing_holds: list[Plan]) -> None:
    """In the file, and at the end of what is printed."""
    result = simulate(tmp_path, "simulated_smaller", "--minutes", "0", "--seed", "3", "--sagas", "5")

    assert result.exit_code == 1, result.output
    (small,) = read_plans(tmp_path / "kept.jsonl")
    assert small.sagas == 1
    assert small in nothing_holds
    assert f"--plan '{small.to_json()}'" in result.output.partition("smaller, and in ")[2]


def test_a_plan_is_run_once(tmp_path: Path, nothing_holds: list[Plan]) -> None:
    """It breaks as it did; nothing is made smaller and nothing is kept."""
    plan = Plan(3, sagas=5, width=5)
    result = simulate(tmp_path, "simulated_again", "--plan", plan.to_json())

    assert result.exit_code == 1, result.output
    assert nothing_holds == [plan]
    assert "broken: I1: order-0 (completed): made up" in result.output
    assert "smaller" not in result.output
    assert not (tmp_path / "kept.jsonl").exists()


def test_a_plan_of_the_file_that_still_fails_is_not_made_smaller(tmp_path: Path, nothing_holds: list[Plan]) -> None:
    """It was known, and no seed is run before it holds."""
    plan = Plan(3, sagas=5, width=5)
    add_plan(tmp_path / "kept.jsonl", plan)
    result = simulate(tmp_path, "simulated_known", "--minutes", "0")

    assert result.exit_code == 1, result.output
    assert nothing_holds == read_plans(tmp_path / "kept.jsonl") == [plan]


HOLDING = """
from dataclasses import dataclass
from kompensate.orchestrator import Application, Context, saga

@dataclass
class Order:
    number: int

@saga("order")
async def order(ctx: Context, order: Order) -> None:
    raise RuntimeError(f"no room for {ctx.saga_id} of {order.number}")

app = Application("{name}", [order])
"""


def test_holds_are_no_failures_and_are_counted_by_kind(tmp_path: Path) -> None:
    """However many sagas give the same reason, with their own ids in it."""
    arguments = ("--minutes", "0", "--seed", "3", "--sagas", "5")
    result = simulate(tmp_path, "simulated_holding", *arguments, source=HOLDING)

    assert result.exit_code == 0, result.output
    held = [line for line in result.output.splitlines() if line.startswith("held: ")]
    assert len(held) == 2, result.output
    assert held[0] == "held: 5 sagas in all"
    assert held[1].startswith("held: 5 sagas: ")
    assert "no room for order-# of #" in held[1]


TYPED = """
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict
from msgspec import Struct
from kompensate.orchestrator import Application, Context, Service, saga

@dataclass
class Order:
    order_id: str

@dataclass
class Quote:
    order_id: str

@dataclass
class Price:
    cents: int
    discounts: list[int]

class Answer(Struct):
    by: str

class Address(TypedDict):
    street: str

@saga("order")
async def order(ctx: Context, order: Order) -> str:
    price = await ctx.call(stock, Quote(order.order_id), returns={returns})
    answer = await ctx.receive("answer", type=Answer)
    moved = await ctx.receive("moved", type=Address)
    if price.cents < 0 or not answer.by or not moved["street"]:
        raise AssertionError(price)
    return str(sum(price.discounts))

stock = Service("stock")
app = Application("{name}", [order], services=[stock])
"""


@pytest.mark.slow
def test_types_that_programs_expect_are_enough(tmp_path: Path) -> None:
    """`returns` and `type` of an `async def`: results and signals are made of them, and no saga is held."""
    result = simulate(tmp_path, "simulated_typed", "--minutes", "0", "--seed", "4", "--sagas", "40", source=TYPED)

    assert result.exit_code == 0, result.output
    assert "held:" not in result.output
    ends = next(line for line in result.output.splitlines() if line.startswith("ends: "))
    assert int(ends.partition("completed ")[2].partition(",")[0]) > 5, ends


def test_a_result_that_cannot_be_made_up_is_asked_for(tmp_path: Path) -> None:
    """Wrong usage: it names the command, the type and the function that would help."""
    arguments = ("--minutes", "0", "--seed", "4", "--sagas", "5")
    result = simulate(tmp_path, "simulated_untyped", *arguments, source=TYPED, returns="Path")

    assert result.exit_code == 2
    text = " ".join(result.output.split())
    assert "the result of stock.Quote: expected a dataclass, Struct, TypedDict or plain type" in text
    assert "by a function simulated_reply" in text


class Colour(Enum):
    RED = "red"


class Place(TypedDict):
    street: str


@dataclass
class Parcel:
    weight: float
    to: Place
    colours: list[Colour]
    kind: Literal["a", "b"]
    note: str | None = None


def test_a_value_of_a_type_reads_back_as_it() -> None:
    """Whatever chance makes of a type, its JSON is one of that type. Seeds 0 to 49."""
    for seed in range(50):
        made = sample(Parcel, Random(seed))

        assert isinstance(decode(encode(made), Parcel), Parcel), f"seed {seed}: {made}"


def test_a_type_of_which_nothing_can_be_made_is_named() -> None:
    """Not guessed."""
    with pytest.raises(TypeError, match="expected a dataclass, Struct, TypedDict or plain type"):
        sample(Path, Random(0))
