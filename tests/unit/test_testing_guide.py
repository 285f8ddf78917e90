"""docs/guides/testing.md: its examples run, in every mode, and its figures are theirs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kompensate.orchestrator.testing import MODES

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "testing.md"
BLOCK = re.compile(r"```python file=(\S+)\n(.*?)```", re.DOTALL)


@pytest.mark.slow
def test_the_guides_examples_run_in_every_mode(tmp_path: Path) -> None:
    """As a project of one's own, and the coverage report is the one that is printed there."""
    text = GUIDE.read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    assert [name for name, _ in blocks] == ["shop.py", "test_shop.py", "test_histories.py"]
    for name, code in blocks:
        (tmp_path / name).write_text(code, encoding="utf-8")
    plugin = "kompensate.orchestrator.testing.pytest_plugin"
    done = subprocess.run(
        [
            *(sys.executable, "-Im", "pytest", "-p", plugin, "-p", "no:cacheprovider", "-c", "/dev/null"),
            *("--rootdir", str(tmp_path), "--kompensate-modes=all", "--kompensate-coverage", str(tmp_path)),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )

    assert f"{4 * len(MODES) + 1} passed" in done.stdout, done.stdout + done.stderr
    report = re.search(r"shop/checkout\n(?:  .*\n)*", done.stdout)
    assert report is not None
    assert "".join(f"    {line}\n" for line in report[0].splitlines()) in text


def test_every_mode_is_in_the_guide() -> None:
    """Named, with what it finds."""
    text = GUIDE.read_text(encoding="utf-8")

    assert [mode for mode in MODES if f"| `{mode}` |" not in text] == []
