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
from kompensate.simulator.samples import sample

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


def simulate(directory: Path, name: str, *arguments: str) -> Result:
    (directory / f"{name}.py").write_text(APPLICATION.format(name=name.replace("_", "-")), encoding="utf-8")
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
