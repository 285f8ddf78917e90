"""The small examples as their readers find them: in the guide, and by their one command."""

import subprocess
import sys
from pathlib import Path

import pytest

from kompensate.compose.local.stack import Stack

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "examples.md"
DEADLINE_SECONDS = 150.0


def test_every_example_is_in_the_guide() -> None:
    """With its folder; and where it has a demo, with the command that runs it."""
    guide = GUIDE.read_text(encoding="utf-8")
    folders = [path for path in sorted((ROOT / "examples").iterdir()) if path.is_dir() and any(path.glob("*.py"))]
    missing = [f.name for f in folders if f.name != "common" and f"(../../examples/{f.name})" not in guide]
    commands = [
        f"-m examples.{f.name}.demo" for f in folders if (f / "README.md").exists() and (f / "demo.py").exists()
    ]

    assert len(commands) >= 3
    assert missing == []
    assert [command for command in commands if command not in guide] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("transfer", "nothing was lost: 10000 cents before and after"),
        ("agent", "t-2, denied: I am sorry, o-2 cannot be refunded."),
    ],
)
def test_the_command_tells_its_story(stack: Stack, name: str, said: str) -> None:
    """It ends by itself, with status 0."""
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}.demo", "--stack", str(stack.directory)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
