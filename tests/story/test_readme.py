"""The README's first application: what it tells a newcomer to paste is pasted, in order, and must work."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"^(?:`(?P<file>[\w.]+)`:[^\n]*\n\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
DEADLINE_SECONDS = 180.0

# Run before the README's last block, which takes everything down.
LOOK = """
python - "$flights_db" "$hotels_db" <<'END'
import sys, psycopg
for dsn, query in zip(sys.argv[1:], ("SELECT trip_id FROM seat", "SELECT trip_id FROM stay")):
    print("rows", query, psycopg.connect(dsn).execute(query).fetchall())
END
"""


def blocks(text: str) -> tuple[dict[str, str], list[str]]:
    """The files, by name, and the shell commands of a Markdown text."""
    files, commands = {}, []
    for found in BLOCK.finditer(text):
        if found["language"] == "python":
            assert found["file"], f"a python block without its file's name before it: {found['text'][:60]}"
            files[found["file"]] = found["text"]
        elif found["language"] == "sh":
            commands.append(found["text"])
    return files, commands


def test_files_and_commands_are_found() -> None:
    """The blocks of the README are what the other test believes them to be."""
    files, commands = blocks(README.read_text(encoding="utf-8"))

    assert list(files) == ["trips.py", "flights.py", "hotels.py"]
    assert "pip install" in commands[0]
    assert "kompensate dev up" in commands[1]
    assert "kompensate dev down" in commands[-1]


@pytest.mark.slow
@pytest.mark.stack
def test_the_first_application_works_as_written(stack_directory: Path) -> None:
    """Pasted into an empty directory: one trip completes, the other is undone, and everything goes down again."""
    files, commands = blocks(README.read_text(encoding="utf-8"))
    for name, text in files.items():
        (stack_directory / name).write_text(text, encoding="utf-8")
    script = "\n".join(["set -eu", *commands[1:-1], LOOK, commands[-1]])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KOMPENSATE_")}
    environment["PATH"] = f"{sysconfig.get_path('scripts')}:{environment['PATH']}"

    done = subprocess.run(
        ["bash", "-c", script],
        cwd=stack_directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )

    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "rows SELECT trip_id FROM seat [('t1',)]" in said
    assert "rows SELECT trip_id FROM stay [('t1',)]" in said
    assert "no trip" in done.stdout
    assert re.search(r"t2 .*compensated", done.stdout), said
