"""Histories out of real topics: saved to a file, replayed from it and from the topics themselves."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import Result

from kompensate.schemas.topics import partition_of
from tests.fixtures.fix_shell import Shell
from tests.fixtures.stage import Stage, silent_at

CHANGED = """
from tests.fixtures.stage import CHECKOUT, Order
from kompensate.orchestrator import Application, Context, Service, saga

@saga("approval")
async def approval(ctx: Context, order: Order) -> str:
    await ctx.sleep(1)
    return "at once"

app = Application("shop", [CHECKOUT, approval])
"""
SAME = """
from tests.fixtures.stage import CHECKOUT, approval
from kompensate.orchestrator import Application

app = Application("shop", [CHECKOUT, approval])
"""


class Code:
    """Today's code, as it was when the sagas began or changed since, and `kompensate replay` with it."""

    def __init__(self, shell: Shell, directory: Path) -> None:
        self._shell = shell
        self._directory = directory

    def replay(self, source: str, *words: str) -> Result:
        (self._directory / "todays_code.py").write_text(source)
        sys.modules.pop("todays_code", None)
        return self._shell.run("replay", "--app", "todays_code:app", "--app-dir", str(self._directory), *words)


@pytest.fixture
def code(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Code:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Code(shell, tmp_path)


def test_a_topic_is_replayed(peopled: Stage, code: Code) -> None:
    """--all takes sagas under way from the state topic and ended ones from the history; --id one of either."""
    same = code.replay(SAME, "--all")
    changed = code.replay(CHANGED, "--all", "-o", "json")
    other = code.replay(CHANGED, "--id", "wait-1", "--id", "done-1")
    nobody = code.replay(SAME, "--id", "nobody")

    assert (same.exit_code, same.stdout) == (0, ""), same.output
    assert same.stderr == "histories replayed: 4, with differences: 0\n"
    assert changed.exit_code == 1
    (found,) = json.loads(changed.stdout)
    assert (found["saga_id"], found["event"], found["kind"]) == ("held-1", 2, "ReceiveStarted")
    assert found["expected"] == "operation 1: receive of 'approved'"
    assert found["where"].endswith("todays_code.py:7")
    assert (other.exit_code, other.stderr) == (0, "histories replayed: 2, with differences: 0\n")
    assert nobody.exit_code == 3


def test_what_was_saved_is_replayed_without_kafka(peopled: Stage, shell: Shell, code: Code, tmp_path: Path) -> None:
    """history --save writes whole runs, plans included; a file is replayed with no broker to be reached."""
    everything, some = tmp_path / "all.jsonl", tmp_path / "some.jsonl"
    saved = shell.run("history", "--all", "--save", str(everything))
    missing = shell.run("history", "-", "--save", str(some), stdin="held-1\nnobody\nback-1\n")

    assert (saved.exit_code, saved.stdout, saved.stderr) == (0, "", "histories saved: 4\n")
    assert missing.exit_code == 3
    assert [json.loads(line)["saga_id"] for line in some.read_text().splitlines()] == ["held-1", "back-1"]
    nowhere = ("--bootstrap", "127.0.0.1:1")
    assert code.replay(SAME, str(everything), str(some), *nowhere).stderr.startswith("histories replayed: 6, ")
    assert code.replay(CHANGED, str(everything), *nowhere).exit_code == 1


def test_a_run_is_saved_whole_or_not_at_all(stage: Stage, shell: Shell, tmp_path: Path) -> None:
    """A run whose first pages the history has lost is no history to replay: it is left out, and said so."""
    place = (stage.topics.history, partition_of("gone", 2))
    stage.overwrite(*place, "gone", b"\0", [("run", b"0.99"), ("page", b"1")])

    result = shell.run("history", "gone", "--save", str(tmp_path / "all.jsonl"))

    assert result.exit_code == 3
    assert "saga 'gone': expected a whole run in state or history topic, got none" in result.stderr


@pytest.mark.parametrize("words", [["a", "b"], [], ["a", "--all", "--save", "-"], ["--all"]])
def test_a_table_is_of_one_saga(shell: Shell, words: list[str]) -> None:
    """history prints one saga; more of them, or all, only into a file."""
    result = shell.run("history", *words)

    assert result.exit_code == 2
    assert "expected one saga id, or with --save ids or --all" in result.stderr


def test_sagas_under_way_carry_their_plan(stage: Stage, shell: Shell, tmp_path: Path) -> None:
    """A saved declared saga names the plan that it follows, as the state topic has it."""
    shell.ok("start", "checkout", "--id", "o-1", "--input", '{"order_id": "1"}')
    stage.play(silent_at("charge"))

    shell.ok("history", "o-1", "--save", str(tmp_path / "one.jsonl"))

    found = json.loads((tmp_path / "one.jsonl").read_text())
    (plan,) = found["plans"].values()
    assert [step["name"] for step in json.loads(plan)["steps"]] == ["reserve", "charge", "ship"]
    assert (found["definition"], found["status"], found["events"]) == ("checkout", "running", 4)
