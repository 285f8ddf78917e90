"""docs/behaviours.md: every behaviour has its row, and every test that a row names is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
PAGE = (ROOT.parent / "docs" / "behaviours.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| (S?\d+) \| (.*) \|$", PAGE, re.MULTILINE))
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
EXPECTED = {str(n) for n in range(1, 52)} | {f"S{n}" for n in (*range(1, 8), *range(19, 25), *range(31, 37))}
SAID = ("**not built**", "**not held**", "**does not apply**")


def functions_of(path: str) -> set[str]:
    """The names of a file's tests; empty where it is not there."""
    file = ROOT / path
    if not file.exists():
        return set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_behaviour_has_its_row() -> None:
    """Each number once."""
    assert set(ROWS) == EXPECTED
    assert len(ROWS) == len(re.findall(r"^\| S?\d+ \|", PAGE, re.MULTILINE))


@pytest.mark.parametrize("number", sorted(EXPECTED))
def test_a_row_names_its_tests_or_says_why_not(number: str) -> None:
    """Neither a row without anything, nor one with tests that are gone."""
    behaviour = ROWS[number].partition(" | ")[0].lower()
    named = NAMED.findall(ROWS[number])

    assert named or any(word in behaviour for word in SAID), f"row {number}: expected a test, or one of {SAID}"
    for path, name in named:
        assert name in functions_of(path), f"row {number}: expected tests/{path} to have {name}, got none"
