"""The pytest plugin, as a user's project has it: its fixture, its modes, its report, a failed test's story.

Each test runs pytest over a small project in a process of its own.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = "kompensate.orchestrator.testing.pytest_plugin"
pytestmark = pytest.mark.slow

PROJECT = """
from dataclasses import dataclass

import pytest
from kompensate.orchestrator import NOTHING, Application, Saga, Service, Step
from kompensate.orchestrator.testing import refused


@dataclass
class Order:
    order_id: str


@dataclass
class Charge:
    order_id: str


app = Application("shop", [Saga("checkout", Order, [Step("charge", Service("payments"), Charge, undo=NOTHING)])])


def test_completes(saga_test):
    shop = saga_test(app)
    order = shop.start("checkout", Order("o-1"))
    shop.run()
    order.assert_completed()


def test_refused(saga_test):
    shop = saga_test(app)
    shop.on(Charge, refused("no money"))
    order = shop.start("checkout", Order("o-1"))
    shop.run()
    assert order.commands == EXPECTED
"""


def run(directory: Path, *arguments: str, expected: str = '["payments.Charge"]', ini: str = "") -> str:
    """What pytest prints for the project; the plugin is named, not found, so that an old installation does too."""
    (directory / "pytest.ini").write_text(f"[pytest]\n{ini}\n", encoding="utf-8")
    (directory / "test_shop.py").write_text(PROJECT.replace("EXPECTED", expected), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-Im", "pytest", "-p", PLUGIN, "-p", "no:cacheprovider", "-v", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    return done.stdout + done.stderr


def test_a_test_runs_once_unless_more_modes_are_asked_for(tmp_path: Path) -> None:
    """The mode stands in the test's name."""
    said = run(tmp_path)

    assert "test_completes[cached] PASSED" in said
    assert "2 passed" in said


@pytest.mark.parametrize("how", ["option", "ini"])
def test_all_modes(tmp_path: Path, how: str) -> None:
    """By option or by ini file; and the report at the end counts them all."""
    wanted = {"option": ("--kompensate-modes=all", ""), "ini": ("-v", "kompensate_modes = all")}[how]
    said = run(tmp_path, wanted[0], "--kompensate-coverage", ini=wanted[1])

    assert "12 passed" in said
    for mode in ("cached", "always-replay", "evict-after-every-step", "crash-at-every-commit", "reorder"):
        assert f"test_refused[{mode}] PASSED" in said
    assert "sagas: what the tests took, and what never" in said
    assert "  charge               done 6, refused 6\n" in said
    assert "never: failed, tried again, in doubt, cancelled while out" in said


def test_a_failed_test_tells_the_story_with_its_seed(tmp_path: Path) -> None:
    """Whatever kind of assertion failed."""
    said = run(tmp_path, "--kompensate-modes=reorder", "--kompensate-seed=4711", expected="[]")

    assert "1 failed, 1 passed" in said
    assert "kompensate: modes reorder; seed 4711" in said
    assert "saga 'checkout-1' (checkout), compensated; mode reorder, seed 4711" in said
    assert "call refused: charge (no money)" in said
    assert "saga compensated" in said


def test_a_mode_that_is_none(tmp_path: Path) -> None:
    """The names there are, and the one got."""
    said = run(tmp_path, "--kompensate-modes=cached,chaos")

    assert "--kompensate-modes: mode: expected one of cached, always-replay" in said
    assert "got 'chaos'" in said


def test_without_sagas_it_costs_nothing(tmp_path: Path) -> None:
    """pytest loads it for every project in the environment: nothing but pytest and the standard library with it."""
    code = (
        f"import sys, pytest; before = set(sys.modules); import {PLUGIN}; "
        "print([m for m in ('fastavro', 'msgspec', 'confluent_kafka', 'sqlalchemy') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-Ic", code], capture_output=True, text=True, check=False)

    assert (said.stdout.strip(), said.stderr) == ("[]", "")


def test_pytest_finds_it() -> None:
    """The entry point names the module."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    assert pyproject["project"]["entry-points"]["pytest11"] == {"kompensate": PLUGIN}
