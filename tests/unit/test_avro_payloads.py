"""Avro payloads: types with a schema, every version of it kept, and nothing that breaks an earlier one."""

import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kompensate.schemas.avro import AvroPayloads, BadSchema
from kompensate.schemas.envelope import AVRO, content_type
from kompensate.schemas.evolution import breaks, hazards
from kompensate.schemas.formats import PLAIN, PayloadFormat, payloads_of
from kompensate.schemas.payloads import BadPayload, PayloadUnavailable


@dataclass
class Line:
    sku: str
    count: int


@dataclass
class Charge:
    id: UUID
    at: datetime
    total: Decimal
    lines: list[Line]
    note: str | None = None


CHARGE = {
    "type": "record",
    "name": "Charge",
    "fields": [
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {
            "name": "lines",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "Line",
                    "fields": [{"name": "sku", "type": "string"}, {"name": "count", "type": "long"}],
                },
            },
        },
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
VALUE = Charge(UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC), Decimal("12.50"), [Line("a", 2)])


def without(name: str) -> Any:
    """The schema before it had that field."""
    return {**CHARGE, "fields": [field for field in CHARGE["fields"] if field["name"] != name]}  # type: ignore[index]  # a list


def write(folder: Path, **versions: Any) -> Path:
    """Schema files: `Charge_7={...}` is Charge/7.avsc."""
    for name, schema in versions.items():
        type_name, _, number = name.partition("_")
        (folder / type_name).mkdir(exist_ok=True)
        (folder / type_name / f"{number}.avsc").write_text(json.dumps(schema))
    return folder


def bound(folder: Path, *types: type) -> Any:
    return payloads_of(PayloadFormat(avro=AvroPayloads(folder, types)), "shop", "order-1")


def test_a_type_with_a_schema_travels_as_avro(tmp_path: Path) -> None:
    """In Confluent's wire format, which any consumer of a registry reads; and comes back as it was."""
    found = bound(write(tmp_path, Charge_7=CHARGE), Charge)

    data = found.encode(VALUE)

    assert data[:5] == b"\0\0\0\0\7"
    assert content_type(data) == AVRO
    body = fastavro.schemaless_reader(BytesIO(data[5:]), CHARGE, None)
    assert body["total"] == Decimal("12.50")  # type: ignore[index,call-overload]  # a record
    assert found.decode(data, Charge) == VALUE
    assert found.decode(data, Any)["lines"] == [{"sku": "a", "count": 2}]
    assert json.loads(found.shown(data))["lines"] == [{"sku": "a", "count": 2}]


def test_other_types_stay_json(tmp_path: Path) -> None:
    """Errors, signals and results without a schema are what they were."""
    found = bound(write(tmp_path, Charge_7=CHARGE), Charge)

    assert found.encode(Line("a", 1)) == b'{"sku":"a","count":1}'
    assert found.decode(PLAIN.encode(VALUE), Charge) == VALUE


def test_structs_and_models_have_schemas_too(tmp_path: Path) -> None:
    """Whatever has fields."""

    class Struct(msgspec.Struct):
        sku: str
        count: int

    class Model(pydantic.BaseModel):
        sku: str
        count: int

    fields = [{"name": "sku", "type": "string"}, {"name": "count", "type": "long"}]
    write(tmp_path, Struct_1={"type": "record", "name": "Struct", "fields": fields})
    write(tmp_path, Model_2={"type": "record", "name": "Model", "fields": fields})
    found = bound(tmp_path, Struct, Model)

    for value in (Struct("a", 1), Model(sku="a", count=1)):
        assert found.encode(value)[0] == 0
        assert found.decode(found.encode(value), type(value)) == value


def test_every_version_is_read_the_newest_written(tmp_path: Path) -> None:
    """What was written without the field has its default."""
    old = bound(write(tmp_path, Charge_7=CHARGE), Charge).encode(VALUE)
    newer = deepcopy(CHARGE)
    newer["fields"].append({"name": "currency", "type": "string", "default": "EUR"})  # type: ignore[attr-defined]  # a list
    write(tmp_path, Charge_12=newer)

    @dataclass
    class Priced(Charge):
        currency: str = "EUR"

    Priced.__name__ = "Charge"
    found = bound(tmp_path, Priced)

    assert found.encode(Priced(**vars(VALUE), currency="CHF"))[4] == 12
    assert found.decode(old, Priced) == Priced(**vars(VALUE), currency="EUR")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            Charge(UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC), Decimal("1.234"), []),
            "schema 7 can hold, got ValueError",
        ),
        (Charge(UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC), Decimal(1), [Line("a", "b")]), "can hold, got"),  # type: ignore[arg-type]  # that is the mistake
    ],
)
def test_what_a_schema_cannot_hold_is_told(tmp_path: Path, value: Charge, told: str) -> None:
    """Before anything is sent."""
    with pytest.raises(BadPayload, match=f"payload Charge: expected what {told}|payload Charge: .*{told}"):
        bound(write(tmp_path, Charge_7=CHARGE), Charge).encode(value)


def test_an_unknown_schema_is_worth_waiting_for(tmp_path: Path) -> None:
    """Its file may come with the next release: the error says which, and what is there."""
    found = bound(write(tmp_path, Charge_7=CHARGE), Charge)

    with pytest.raises(PayloadUnavailable, match="payload Charge: expected a schema id of 7, got 9: add its file"):
        found.decode(b"\0\0\0\0\x09abc", Charge)
    with pytest.raises(PayloadUnavailable, match="payload Charge: expected JSON, got 8 bytes of Avro, schema 9"):
        PLAIN.decode(b"\0\0\0\0\x09abc", Charge)


@pytest.mark.parametrize(
    "change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[:5], lambda d: d[:6] + b"\xff" * 9]
)
def test_damaged_avro_is_told(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    """Cut, longer, garbled: a bad payload."""
    found = bound(write(tmp_path, Charge_7=CHARGE), Charge)

    with pytest.raises(BadPayload, match="payload Charge: expected"):
        found.decode(change(found.encode(VALUE)), Charge)


def test_a_schema_of_another_type_is_told(tmp_path: Path) -> None:
    """A payload that is no Charge is not read as one."""
    line = CHARGE["fields"][3]["type"]["items"]  # type: ignore[index]  # the schema of Line
    found = bound(write(tmp_path, Charge_7=CHARGE, Line_8=line), Charge, Line)

    with pytest.raises(BadPayload, match="payload Charge: expected a schema of Charge, got 8, of Line"):
        found.decode(found.encode(Line("a", 1)), Charge)


RECURSIVE = {"type": "record", "name": "Charge", "fields": [{"name": "next", "type": ["null", "Charge"]}]}
EMPTY_ITEMS = {
    "type": "record",
    "name": "Charge",
    "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}],
}


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ({}, "expected files named by schema id, as in 7.avsc, got none"),
        ({"Charge_x": CHARGE}, "expected a schema id as its name, 1 to 2147483647, got 'x'"),
        ({"Charge_0": CHARGE}, "expected a schema id as its name"),
        ({"Charge_7": "text"}, "expected an Avro schema, got UnknownType"),
        ({"Charge_7": "string"}, "expected a record's schema, got 'string'"),
        ({"Charge_7": RECURSIVE}, "got: next: Charge is within itself"),
        ({"Charge_7": EMPTY_ITEMS}, "got: a: its items have no size"),
        (
            {"Charge_7": without("note")},
            r"expected the fields of schema 7 \(at, id, lines, total\), got at, id, lines, note",
        ),
        ({"Charge_7": CHARGE, "Charge_12": without("note"), "Charge_13": {**CHARGE, "name": "Other"}}, "keep the name"),
        (
            {"Charge_7": without("at"), "Charge_12": CHARGE},
            "12.avsc: expected a schema that reads what 7.avsc wrote, got: at: is new, and has no default",
        ),
    ],
)
def test_schemas_are_refused_when_they_are_loaded(tmp_path: Path, versions: dict[str, Any], told: str) -> None:
    """At the start of whatever would use them, naming file, expected and got."""
    with pytest.raises(BadSchema, match=told):
        AvroPayloads(write(tmp_path, **versions), [Charge])


def test_an_id_is_of_one_type(tmp_path: Path) -> None:
    """Two types that claim it would read each other's payloads."""
    line = CHARGE["fields"][3]["type"]["items"]  # type: ignore[index]  # the schema of Line
    with pytest.raises(BadSchema, match="schema 7: expected one type, got Charge and Line"):
        AvroPayloads(write(tmp_path, Charge_7=CHARGE, Line_7=line), [Charge, Line])


# -- evolution

_names = st.sampled_from(["a", "b", "c", "d"])


def _schemas(depth: int) -> st.SearchStrategy[Any]:
    flat: st.SearchStrategy[Any] = st.sampled_from(["null", "int", "long", "double", "string"])
    flat |= st.builds(lambda s: {"type": "enum", "name": "E", "symbols": sorted(s)}, st.sets(_names, min_size=1))
    if not depth:
        return flat
    inner = _schemas(depth - 1)
    return (
        flat
        | st.builds(lambda i: {"type": "array", "items": i}, inner)
        | st.builds(lambda i: {"type": "map", "values": i}, inner)
        | st.builds(lambda i: ["null", i], inner.filter(lambda s: s != "null" and not isinstance(s, list)))
        | _records(inner)
    )


def _records(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda fields: {"type": "record", "name": "R", "fields": [{"name": n, "type": t} for n, t in fields.items()]},
        st.dictionaries(_names, inner, max_size=3),
    )


def _renamed(schema: Any, counter: list[int]) -> Any:
    """Names are given to one type each: by where they stand, so that two versions agree."""
    if isinstance(schema, list):
        return [_renamed(branch, counter) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    found = {**schema}
    if "name" in found:
        found["name"] = f"{found['name']}{'_'.join(map(str, counter))}"
    for key in ("items", "values"):
        if key in found:
            found[key] = _renamed(found[key], [*counter, 0])
    if "fields" in found:
        found["fields"] = [{**f, "type": _renamed(f["type"], [*counter, ord(f["name"])])} for f in found["fields"]]
    return found


def _parsed(schema: Any) -> Any:
    return fastavro.parse_schema(_renamed(schema, [0]), named_schemas={})


def _datum(schema: Any) -> Any:
    """A strategy for values of a schema."""
    if isinstance(schema, list):
        return st.one_of([_datum(branch) for branch in schema])
    kind = schema["type"] if isinstance(schema, dict) else schema
    match kind:
        case "array":
            return st.lists(_datum(schema["items"]), max_size=2)
        case "map":
            return st.dictionaries(_names, _datum(schema["values"]), max_size=2)
        case "enum":
            return st.sampled_from(schema["symbols"])
        case "record":
            return st.fixed_dictionaries({f["name"]: _datum(f["type"]) for f in schema["fields"]})
    flat: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**53), 2**53),
        "double": st.floats(allow_nan=False),
        "string": st.text(max_size=5),
    }
    return flat[kind]


@st.composite
def _newer(draw: st.DrawFn, schema: Any) -> Any:
    """The schema after somebody worked on it: here and there another type, null allowed, fields gone."""
    what = draw(st.sampled_from(["keep"] * 4 + ["other", "nullable"]))
    if what == "other":
        return draw(_schemas(0))
    if isinstance(schema, list):
        return ["null", draw(_newer(schema[1]).filter(lambda s: s != "null" and not isinstance(s, list)))]
    found = {**schema} if isinstance(schema, dict) else schema
    for key in ("items", "values"):
        if key in found and isinstance(found, dict):
            found[key] = draw(_newer(found[key]))
    if isinstance(found, dict) and "fields" in found:
        kept = [field for field in found["fields"] if draw(st.integers(0, 5))]
        found["fields"] = [{"name": field["name"], "type": draw(_newer(field["type"]))} for field in kept]
    return ["null", found] if what == "nullable" and found != "null" else found


@pytest.mark.slow
@settings(max_examples=1_000)
@given(_records(_schemas(1)), st.data())
def test_what_is_called_compatible_is_read(older: Any, data: st.DataObject) -> None:
    """Where `breaks` finds nothing, fastavro reads whatever the older schema wrote by the newer one."""
    writer, reader = _parsed(older), _parsed(data.draw(_newer(older)))
    assert breaks(writer, writer) == []
    if breaks(reader, writer):
        return
    out = BytesIO()
    fastavro.schemaless_writer(out, writer, data.draw(_datum(writer)))
    out.seek(0)
    found = fastavro.schemaless_reader(out, writer, reader)
    assert fastavro.validate(found, reader)


def record(*fields: Any, name: str = "R") -> Any:
    return {"type": "record", "name": name, "fields": [{"name": f"f{n}", "type": f} for n, f in enumerate(fields)]}


DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
ENUM = {"type": "enum", "name": "E", "symbols": ["a", "b"]}
FIXED = {"type": "fixed", "name": "F", "size": 4}


@pytest.mark.parametrize(
    ("reader", "writer", "told"),
    [
        ("long", "int", None),
        ("int", "long", "f0: long is not read as int"),
        ("bytes", "string", None),
        (["null", "long"], "int", None),
        ("long", ["null", "long"], "f0: null is not read as long"),
        (["null", "string"], "boolean", "f0: boolean is none of union of null, string"),
        (
            {"type": "array", "items": "string"},
            {"type": "array", "items": "long"},
            r"f0\[\]: long is not read as string",
        ),
        ({"type": "map", "values": "string"}, {"type": "map", "values": "long"}, r"f0\{\}: long is not read as string"),
        ({**ENUM, "symbols": ["a"]}, ENUM, "f0: symbols b are gone, and there is no default"),
        ({**ENUM, "symbols": ["a"], "default": "a"}, ENUM, None),
        ({**ENUM, "name": "G"}, ENUM, "f0: enum E is not read as enum G: keep the name"),
        ({**ENUM, "name": "G", "aliases": ["E"]}, ENUM, None),
        ({**FIXED, "size": 8}, FIXED, "f0: 4 bytes are not read as 8"),
        ({**DECIMAL, "scale": 3}, DECIMAL, "f0: bytes with .* scale 2 is not read as bytes with .* scale 3"),
        ("bytes", DECIMAL, "f0: bytes with logicalType decimal, .* is not read as plain bytes"),
        (record("string", "long", name="I"), record("string", name="I"), "f0.f1: is new, and has no default"),
    ],
)
def test_what_breaks_is_named(reader: Any, writer: Any, told: str | None) -> None:
    """By its place in the record, in the words of the schema."""
    found = breaks(
        fastavro.parse_schema(record(reader), named_schemas={}), fastavro.parse_schema(record(writer), named_schemas={})
    )

    if told is None:
        assert found == []
    else:
        [line] = found
        assert re.match(told, line), line


def test_a_type_that_is_named_again_is_the_same() -> None:
    """A schema may name what it defined before, in whatever field that was."""
    twice = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "a", "type": {"type": "array", "items": ENUM}}, {"name": "b", "type": "E"}],
    }
    fewer = deepcopy(twice)
    fewer["fields"][0]["type"]["items"]["symbols"] = ["a"]  # type: ignore[index]  # a list

    old = fastavro.parse_schema(twice, named_schemas={})
    assert hazards(old) == []
    assert [line[:4] for line in breaks(fastavro.parse_schema(fewer, named_schemas={}), old)] == ["a[]:", "b: s"]
