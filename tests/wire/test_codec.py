"""The writer is fastavro's equal byte for byte, and the schemas are the dataclasses' equals field by field."""

from dataclasses import asdict, fields, is_dataclass
from io import BytesIO
from typing import Any, get_type_hints

import fastavro
import pytest
from hypothesis import given

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.policy import Policy
from kompensate.schemas import codec
from kompensate.schemas.codec import LONG_MAX, LONG_MIN, BadRecord
from tests.fixtures import samples

EVENT_SCHEMA = codec.raw_schema(codec.PAGE)["fields"][-1]["type"]["items"]["fields"][-1]["type"]["items"]
PARSED = fastavro.parse_schema(EVENT_SCHEMA)
encode_event = codec.writer(EVENT_SCHEMA)


def _by_fastavro(schema: Any, value: Any) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, schema, value)
    return out.getvalue()


@given(samples.events)
def test_events_are_written_as_fastavro_writes_them(event: e.Event) -> None:
    """Every kind, with longs from end to end, empty and Unicode strings, nulls."""
    assert encode_event(event) == _by_fastavro(PARSED, (type(event).__name__, asdict(event)))


@given(samples.longs)
def test_longs_are_zig_zag(number: int) -> None:
    """As fastavro has them."""
    assert codec.encode_long(number) == _by_fastavro("long", number)


@pytest.mark.parametrize("number", [LONG_MIN - 1, LONG_MAX + 1, 10**30])
def test_a_number_that_is_no_long(number: int) -> None:
    """It is told, not written as something else."""
    with pytest.raises(ValueError, match="long: expected -9223372036854775808 to 9223372036854775807, got"):
        codec.encode_long(number)


@given(samples.texts)
def test_strings_are_utf8(text: str) -> None:
    """As fastavro has them."""
    assert codec.encode_string(text) == _by_fastavro("string", text)


def test_the_union_is_the_kinds_of_events_in_order() -> None:
    """The order is the wire's: a kind moved or taken out would read as another."""
    assert [branch["name"] for branch in EVENT_SCHEMA] == [kind.__name__ for kind in e.EVENTS]


AVRO: dict[Any, Any] = {
    int: "long",
    str: "string",
    bytes: "bytes",
    int | None: ["null", "long"],
    str | None: ["null", "string"],
    bytes | None: ["null", "bytes"],
    list[str]: {"type": "array", "items": "string"},
}


@pytest.mark.parametrize("schema", EVENT_SCHEMA, ids=lambda schema: str(schema["name"]))
def test_a_schema_has_its_dataclass_fields(schema: Any) -> None:
    """Names, order and types; each schema and field tells what it is for, the record in the class's own words."""
    kind = next(kind for kind in e.EVENTS if kind.__name__ == schema["name"])

    _check_fields(schema, kind)

    assert schema["doc"] == " ".join((kind.__doc__ or "").split("\n")[0].split())


def _check_fields(schema: Any, kind: type) -> None:
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    assert [field["name"] for field in schema["fields"]] == [field.name for field in fields(kind)]
    for field in schema["fields"]:
        assert field["doc"], f"{schema['name']}.{field['name']} has no doc"
        hint, type_ = hints[field["name"]], field["type"]
        if hint is Policy:
            if isinstance(type_, dict):
                _check_fields(type_, Policy)
        else:
            assert type_ == AVRO[hint]


@pytest.mark.parametrize("id_", codec.FILES)
def test_every_field_is_documented(id_: int) -> None:
    """Records, fixed types and fields of every schema have a doc: other languages read them."""

    def walk(schema: Any) -> None:
        if isinstance(schema, list):
            for branch in schema:
                walk(branch)
        elif isinstance(schema, dict):
            if schema["type"] in ("record", "fixed"):
                assert schema["doc"], schema["name"]
            for field in schema.get("fields", ()):
                assert field["doc"], field["name"]
                walk(field["type"])
            walk(schema.get("items"))

    walk(codec.raw_schema(id_))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"", "expected a zero byte, a schema id and an Avro body, got b''"),
        (b"\x01\x00\x00\x00\x01\x00", "expected a zero byte"),
        (
            b"\x00\x00\x00\x00\x09\x00",
            r"expected a schema id of \[1, 2, 3, 4\], got 9: was it written by a newer version",
        ),
        (b"\x00\x00\x00\x00\x02\x00", r"expected schema watermark.avsc \(3\), got saga_summary.avsc \(2\)"),
        (b"\x00\x00\x00\x00\x03\x02", "expected a whole watermark.avsc record, got 6 bytes that do not read"),
        (b"\x00\x00\x00\x00\x03\x00\x02\x00\x00\x01", "expected watermark.avsc to end after 9 bytes, got 10"),
    ],
)
def test_bytes_that_are_not_the_record(value: bytes, told: str) -> None:
    """Each tells expected and got."""
    with pytest.raises(BadRecord, match=told):
        codec.decode(value, codec.WATERMARK)


def test_a_schema_that_the_writer_does_not_know() -> None:
    """A type beyond what we use is refused when the writer is made, not when a record is written."""
    with pytest.raises(TypeError, match="expected a record, union, array, long, string or bytes, got 'double'"):
        codec.writer("double")
