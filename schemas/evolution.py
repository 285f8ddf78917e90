"""Compares Avro schemas: what of one version's data another version could not read, by Avro's resolution rules.

`breaks` is pure and knows no files; `kompensate.schemas.avro` has the project's. Schemas here are as fastavro
parses them: names in full, and each defined before it is named again.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

Parsed: TypeAlias = Any

DEPTH_MAX = 32
"""Of a schema's nesting: readers go as deep as it does."""

_PROMOTIONS = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}
"""What a writer's type may be read as (Avro 1.12 specification, "Schema Resolution")."""

_LOGICAL = ("logicalType", "precision", "scale")


def breaks(reader: Parsed, writer: Parsed) -> list[str]:
    """Why data of `writer` cannot all be read by `reader`, a sentence each naming the place; empty: it can."""
    return list(_breaks("", _Kind(reader, _named(reader)), _Kind(writer, _named(writer))))


def hazards(schema: Parsed) -> list[str]:
    """What makes a schema dangerous to read untrusted bytes with: no end of its depth, or items of no size."""
    return list(_hazards("", _Kind(schema, _named(schema)), ()))


def _named(schema: Parsed) -> dict[str, Parsed]:
    """Every type that a schema defines, by its name."""
    if isinstance(schema, list):
        return {name: found for branch in schema for name, found in _named(branch).items()}
    if not isinstance(schema, dict):
        return {}
    found = {schema["name"]: schema} if "name" in schema else {}
    for inner in (schema.get("items"), schema.get("values"), *(field["type"] for field in schema.get("fields", ()))):
        found |= _named(inner)
    return found


class _Kind:
    """A schema where it stands, with all named types of the whole."""

    def __init__(self, schema: Parsed, names: dict[str, Parsed]) -> None:
        self.names = names
        if isinstance(schema, str) and schema in names:
            schema = names[schema]
        self.schema = schema
        self.is_union = isinstance(schema, list)
        self.type: str = "union" if self.is_union else schema["type"] if isinstance(schema, dict) else schema

    def get(self, key: str, default: Any = None) -> Any:
        return self.schema.get(key, default) if isinstance(self.schema, dict) else default

    def inner(self, schema: Parsed) -> "_Kind":
        return _Kind(schema, self.names)

    @property
    def branches(self) -> list["_Kind"]:
        return [self.inner(branch) for branch in self.schema] if self.is_union else [self]

    @property
    def fields(self) -> dict[str, Any]:
        return {field["name"]: field for field in self.get("fields", ())}

    def __str__(self) -> str:
        if self.is_union:
            return "union of " + ", ".join(map(str, self.branches))
        logical = self.get("logicalType")
        name = self.get("name")
        return f"{self.type} {name}" if name else f"{self.type} ({logical})" if logical else self.type


def _breaks(path: str, reader: _Kind, writer: _Kind) -> Iterator[str]:
    where = path or "the whole"
    if writer.is_union:
        for branch in writer.branches:
            yield from _breaks(path, reader, branch)
    elif reader.is_union:
        yield from _union_breaks(path, reader, writer)
    elif reader.type != writer.type and reader.type not in _PROMOTIONS.get(writer.type, ()):
        yield f"{where}: {writer} is not read as {reader}"
    else:
        yield from _same_breaks(path, reader, writer)


def _union_breaks(path: str, reader: _Kind, writer: _Kind) -> Iterator[str]:
    found = [list(_breaks(path, branch, writer)) for branch in reader.branches]
    if all(found):
        same = [problems for kind, problems in zip(reader.branches, found, strict=True) if kind.type == writer.type]
        yield from same[0] if same else [f"{path or 'the whole'}: {writer} is none of {reader}"]


def _same_breaks(path: str, reader: _Kind, writer: _Kind) -> Iterator[str]:
    """Where the two are of one type, or the writer's is promoted."""
    where = path or "the whole"
    if any(reader.get(key) != writer.get(key) for key in _LOGICAL):
        yield f"{where}: {_logical(writer)} is not read as {_logical(reader)}"
    if "name" in (reader.schema if isinstance(reader.schema, dict) else ()):
        yield from _name_breaks(where, reader, writer)
    match reader.type:
        case "record":
            yield from _record_breaks(path, reader, writer)
        case "enum":
            missing = [symbol for symbol in writer.get("symbols") if symbol not in reader.get("symbols")]
            if missing and reader.get("default") is None:
                yield f"{where}: symbols {', '.join(missing)} are gone, and there is no default for them"
        case "fixed":
            if reader.get("size") != writer.get("size"):
                yield f"{where}: {writer.get('size')} bytes are not read as {reader.get('size')}"
        case "array":
            yield from _breaks(f"{path}[]", reader.inner(reader.get("items")), writer.inner(writer.get("items")))
        case "map":
            yield from _breaks(f"{path}{{}}", reader.inner(reader.get("values")), writer.inner(writer.get("values")))


def _record_breaks(path: str, reader: _Kind, writer: _Kind) -> Iterator[str]:
    theirs = writer.fields
    for name, field in reader.fields.items():
        known = next((n for n in (name, *field.get("aliases", ())) if n in theirs), None)
        here = f"{path}.{name}" if path else name
        if known is not None:
            yield from _breaks(here, reader.inner(field["type"]), writer.inner(theirs[known]["type"]))
        elif "default" not in field:
            yield f"{here}: is new, and has no default for what was written without it"


def _name_breaks(where: str, reader: _Kind, writer: _Kind) -> Iterator[str]:
    names = (reader.get("name"), *reader.get("aliases", ()))
    if writer.get("name").rpartition(".")[2] not in [name.rpartition(".")[2] for name in names]:
        yield f"{where}: {writer} is not read as {reader}: keep the name, or add it to aliases"


def _logical(kind: _Kind) -> str:
    found = [f"{key} {kind.get(key)}" for key in _LOGICAL if kind.get(key) is not None]
    return f"{kind.type} with {', '.join(found)}" if found else f"plain {kind.type}"


def _hazards(path: str, kind: _Kind, above: tuple[str, ...]) -> Iterator[str]:
    where = path or "the whole"
    name = kind.get("name")
    if name in above:
        yield f"{where}: {name} is within itself"
        return
    if path.count(".") + path.count("[") > DEPTH_MAX:
        yield f"{where}: is deeper than {DEPTH_MAX}"
        return
    above = (*above, name) if name else above
    if kind.is_union:
        for branch in kind.branches:
            yield from _hazards(path, branch, above)
    elif kind.type == "array":
        items = kind.inner(kind.get("items"))
        if not _has_size(items):
            yield f"{where}: its items have no size, so that a few bytes could be billions of them"
        yield from _hazards(f"{path}[]", items, above)
    elif kind.type == "map":
        yield from _hazards(f"{path}[]", kind.inner(kind.get("values")), above)
    for field_name, field in kind.fields.items():
        yield from _hazards(f"{path}.{field_name}" if path else field_name, kind.inner(field["type"]), above)


def _has_size(kind: _Kind) -> bool:
    """Does each value take at least a byte? A recursive one is refused elsewhere."""
    if kind.type == "record":
        return any(_has_size(kind.inner(field["type"])) for field in kind.fields.values())
    return kind.type != "null" and not (kind.type == "fixed" and kind.get("size") == 0)
