"""The house rules, checked: floors, doors and edges between folders, sizes, docstrings, the changelog."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fixtures import tidy

ROOT = Path(__file__).parent.parent
PRODUCT = tuple(tidy.EDGES)
CHECKED = (*PRODUCT, "tests", "bench", "examples")


def _sources(folders: tuple[str, ...] = CHECKED) -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.stat().st_size  # an empty file (a namespace's marker) has nothing to say
    }


@pytest.mark.parametrize("check", tidy.CHECKS, ids=lambda check: check.__name__)
def test_every_file_keeps_the_rule(check: Callable[[str, str], list[str]]) -> None:
    """No file of the repository breaks the rule."""
    complaints = [line for path, source in _sources().items() for line in check(path, source)]

    assert not complaints, "\n".join(complaints)


def test_packages_load_light() -> None:
    """Importing a package for its names costs nothing: no third-party module is loaded."""
    complaints = tidy.packages_load_light(_sources(PRODUCT))

    assert not complaints, "\n".join(complaints)


LONG_FUNCTION = '"""Doc."""\ndef f():\n' + "    x = 1\n" * tidy.FUNCTION_LINES_MAX
LONG_FILE = '"""Doc."""\n' + "x = 1\n" * tidy.FILE_LINES_MAX

BAD = [
    (tidy.kernel_is_pure, "orchestrator/kernel/a.py", "import time"),
    (tidy.kernel_is_pure, "orchestrator/kernel/a.py", "def f():\n    from random import random"),
    (tidy.kernel_is_pure, "orchestrator/kernel/a.py", "import msgspec"),
    (tidy.kernel_is_pure, "orchestrator/kernel/sub/a.py", "from kompensate.orchestrator import settings"),
    (tidy.folders_keep_their_edges, "outbox/a.py", "from kompensate.participants import unit"),
    (tidy.folders_keep_their_edges, "outbox/a.py", "from kompensate import participants"),
    (tidy.folders_keep_their_edges, "schemas/a.py", "def f():\n    import kompensate.outbox.tables"),
    (tidy.folders_keep_their_edges, "compose/local/a.py", "import kompensate.schemas.topics"),
    (tidy.rooms_keep_their_edges, "orchestrator/worker/a.py", "from kompensate.orchestrator.sagas import partition"),
    (tidy.rooms_keep_their_edges, "orchestrator/sagas/a.py", "from kompensate.orchestrator import client"),
    (tidy.wiring_is_on_top, "outbox/relay.py", "from kompensate.outbox.main import run"),
    (tidy.wiring_is_on_top, "orchestrator/worker/loop.py", "from kompensate.orchestrator.cli import dev"),
    (tidy.libraries_keep_to_their_doors, "orchestrator/worker/loop.py", "import confluent_kafka"),
    (tidy.libraries_keep_to_their_doors, "participants/unit.py", "from psycopg.rows import dict_row"),
    (tidy.libraries_keep_to_their_doors, "schemas/a.py", "import orjson"),
    (tidy.has_a_docstring, "schemas/a.py", "x = 1"),
    (tidy.is_short, "schemas/a.py", LONG_FUNCTION),
    (tidy.is_short, "schemas/a.py", LONG_FILE),
]


@pytest.mark.parametrize(("check", "path", "source"), BAD)
def test_a_check_finds_what_it_is_for(check: Callable[[str, str], list[str]], path: str, source: str) -> None:
    """A file that breaks one rule gets one or more complaints that begin with its place."""
    complaints = check(path, source)

    assert complaints
    assert all(line.startswith(path) for line in complaints)


GOOD = [
    (
        "orchestrator/kernel/a.py",
        '"""D."""\nimport hashlib\nfrom kompensate.orchestrator.kernel import state',
    ),
    ("orchestrator/kafka/log.py", '"""D."""\nimport confluent_kafka\nfrom kompensate.schemas import topics'),
    ("orchestrator/cli/a.py", '"""D."""\nimport click\nfrom kompensate.compose.local import stack'),
    ("participants/main.py", '"""D."""\nfrom kompensate.outbox.main import run'),
]


@pytest.mark.parametrize(("path", "source"), GOOD)
def test_what_is_allowed_is_not_complained_of(path: str, source: str) -> None:
    """A file that keeps all rules gets no complaint."""
    assert [line for check in tidy.CHECKS for line in check(path, source)] == []


def test_a_heavy_package_is_found() -> None:
    """A third-party module behind two of ours is found, one behind a function or a type check is not."""
    light = "if TYPE_CHECKING:\n    import msgspec\ndef f():\n    import msgspec"
    sources = {
        "outbox/__init__.py": "from kompensate.outbox.tables import TABLES",
        "outbox/tables.py": "from kompensate.outbox import base",
        "outbox/base.py": "import sqlalchemy",
        "schemas/__init__.py": light,
    }

    complaints = tidy.packages_load_light(sources)

    assert len(complaints) == 1
    assert complaints[0].startswith("outbox/__init__.py: importing it loads sqlalchemy (outbox/base.py:1)")


LOADED = """
import json, sys
before = set(sys.modules)
import {package}
tops = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(tops - set(sys.stdlib_module_names) - {{"kompensate"}})))
"""


@pytest.mark.slow
@pytest.mark.parametrize("package", ["kompensate.orchestrator.kernel", "kompensate.orchestrator"])
def test_importing_loads_no_third_party_module(package: str) -> None:
    """In a fresh interpreter the import leaves only the standard library and ourselves in sys.modules."""
    shown = subprocess.run(
        [sys.executable, "-I", "-c", LOADED.format(package=package)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(shown.stdout) == []


def test_the_changelog_is_kept() -> None:
    """CHANGELOG.md exists and has a section for what is not released yet."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert "## [Unreleased]" in text, "CHANGELOG.md: expected a section '## [Unreleased]'; add one on top"
