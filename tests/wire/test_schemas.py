"""The schemas of the state topic: every field documented, and all that a released version wrote reads today.

`released/<version>/` holds the schemas as that version had them; `python -m tests.wire.test_schemas` puts today's there
under pyproject's version, at each release. Values are read by today's schema of their id, so within one id nothing but
documentation may change, and a union may get branches at its end; whatever else changes takes a new id.
"""

import json
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from kompensate.schemas import codec

RELEASED = Path(__file__).parent / "released"
FILES = sorted(RELEASED.glob("*/*.avsc"))
PROSE = ("doc", "aliases")


def undocumented(schema: Any, path: str) -> Iterator[str]:
    """Every named type and field without a text of its own."""
    if isinstance(schema, list):
        for branch in schema:
            yield from undocumented(branch, path)
    if not isinstance(schema, dict):
        return
    here = f"{path}.{schema['name']}" if "name" in schema else path
    if "name" in schema and not schema.get("doc", "").strip():
        yield here
    for field in schema.get("fields", ()):
        if not field.get("doc", "").strip():
            yield f"{here}.{field['name']}"
        yield from undocumented(field["type"], f"{here}.{field['name']}")
    for inner in ("items", "values", "type"):
        yield from undocumented(schema.get(inner), here)


def changes(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Why a value that was written by `old` does not read by `new`, taken for its own schema."""
    where = path or "the whole"
    if isinstance(old, list) and isinstance(new, list):
        if len(new) < len(old):
            yield f"{where}: {len(old)} branches, now {len(new)}"
        for number, (before, after) in enumerate(zip(old, new, strict=False)):
            yield from changes(before, after, f"{path}[{number}]")
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in sorted((old.keys() | new.keys()) - {*PROSE, "fields"}):
            yield from changes(old.get(key), new.get(key), f"{path}.{key}")
        before, after = old.get("fields", []), new.get("fields", [])
        if [field["name"] for field in before] != [field["name"] for field in after]:
            yield f"{where}: fields {[f['name'] for f in before]}, now {[f['name'] for f in after]}"
        else:
            for field, later in zip(before, after, strict=True):
                yield from changes(field, later, f"{path}.{field['name']}")
    elif old != new:
        yield f"{where}: {old!r}, now {new!r}"


@pytest.mark.parametrize("id_", codec.FILES)
def test_every_field_is_documented(id_: int) -> None:
    """docs/reference/events.md is made from these texts."""
    assert list(undocumented(codec.raw_schema(id_), codec.FILES[id_])) == []


def test_a_missing_text_is_found() -> None:
    """Of a field, of a type within a union within an array, of one with blanks alone."""
    inner = {"type": "record", "name": "B", "fields": [{"name": "x", "type": "long", "doc": " "}]}
    outer = {
        "type": "record",
        "name": "A",
        "doc": "A.",
        "fields": [{"name": "b", "type": {"type": "array", "items": ["null", inner]}}],
    }

    assert list(undocumented(outer, "f")) == ["f.A.b", "f.A.b.B", "f.A.b.B.x"]


def test_a_version_is_released() -> None:
    """Without one the next test would hold nothing."""
    assert {path.name for path in FILES} == set(codec.FILES.values())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_a_released_version_wrote_is_read(path: Path) -> None:
    """Today's schema of the same id reads it, byte for byte."""
    (id_,) = [id_ for id_, name in codec.FILES.items() if name == path.name]

    assert list(changes(json.loads(path.read_text()), codec.raw_schema(id_))) == []


def _page() -> Any:
    return deepcopy(codec.raw_schema(codec.PAGE))


def _kinds(page: Any) -> Any:
    return page["fields"][-1]["type"]["items"]["fields"][-1]["type"]["items"]


def test_what_may_change_within_an_id() -> None:
    """Texts, and events that are added behind the others."""
    newer = _page()
    newer["doc"] = newer["fields"][0]["doc"] = "Other words."
    _kinds(newer).append({"type": "record", "name": "Later", "doc": "New.", "fields": []})

    assert list(changes(_page(), newer)) == []


def _field_added(page: Any) -> None:
    page["fields"].append({"name": "more", "type": "long", "default": 0})


def _field_retyped(page: Any) -> None:
    page["fields"][0]["type"] = "bytes"


def _event_between(page: Any) -> None:
    _kinds(page).insert(3, {"type": "record", "name": "Between", "fields": []})


def _event_gone(page: Any) -> None:
    del _kinds(page)[-1]


def _events_field(page: Any) -> None:
    _kinds(page)[0]["fields"].pop()


def _checksum_longer(page: Any) -> None:
    page["fields"][3]["type"]["size"] = 8


@pytest.mark.parametrize(
    "change", [_field_added, _field_retyped, _event_between, _event_gone, _events_field, _checksum_longer]
)
def test_what_takes_a_new_id_is_found(change: Any) -> None:
    """A default does not help: values are read by today's schema as if it had written them."""
    newer = _page()
    change(newer)

    assert list(changes(_page(), newer)) != []


def freeze() -> list[Path]:
    """Put today's schemas beside those of other versions; which were written. A version is never written again."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    folder = RELEASED / tomllib.loads(project.read_text())["project"]["version"]
    folder.mkdir(parents=True)
    written = []
    for id_, name in codec.FILES.items():
        path = folder / name
        path.write_text(json.dumps(codec.raw_schema(id_), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    print("\n".join(map(str, freeze())))
