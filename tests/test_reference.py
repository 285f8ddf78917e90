"""The reference pages that are made from the code are what the code would make of them."""

import runpy
from pathlib import Path

import pytest

MAKER = Path(__file__).parent.parent / "docs" / "make_reference.py"
PAGES: dict[Path, str] = runpy.run_path(str(MAKER))["pages"]()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.name))
def test_made_pages_are_up_to_date(path: Path) -> None:
    """A page that differs was written by hand, or the code changed: run the script and commit what it makes."""
    assert path.exists(), f"run `python docs/make_reference.py`, which makes {path.name}"
    assert path.read_text(encoding="utf-8") == PAGES[path], f"{path.name} is old: run `python docs/make_reference.py`"
