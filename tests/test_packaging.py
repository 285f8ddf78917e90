"""What people install is what is in the repository: every package, module and data file."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("orchestrator", "participants", "outbox", "schemas", "compose", "simulator")
DATA = (".py", ".avsc", ".sql", ".yaml", ".json", ".toml", ".properties", ".conf", ".typed")


def _listed() -> list[str]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages: list[str] = pyproject["tool"]["setuptools"]["packages"]
    return packages


def test_every_package_is_listed() -> None:
    """pyproject.toml names exactly the folders with an `__init__.py`: a forgotten one is not installed."""
    on_disk = {
        ".".join(["kompensate", *path.parent.relative_to(ROOT).parts])
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }

    assert sorted(on_disk) == sorted(_listed()), "make [tool.setuptools] packages equal to the folders on disk"


@pytest.mark.slow
def test_a_wheel_made_from_the_sdist_is_whole(tmp_path: Path) -> None:
    """The wheel built from the source distribution holds every module and data file of the product."""
    built = subprocess.run(
        [sys.executable, "-Im", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    expected = {
        f"kompensate/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in DATA and "__pycache__" not in path.parts
    }
    assert sorted(expected - packed) == [], "add the package or the file's pattern to pyproject.toml"
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as source:
        assert any(name.endswith("/LICENSE") for name in source.getnames())
