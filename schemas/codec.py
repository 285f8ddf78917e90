"""Avro of the state topic: Confluent's wire format, written by closures made from the schemas, read by fastavro.

A value is a zero byte, the schema's id as four big-endian bytes, and the Avro body. The ids are ours and
stable: a changed schema gets a new id and the old one stays readable for ever. The writer is our own
because a page is written by joining blocks and because it is the hot path; a test holds it to fastavro
byte for byte.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from io import BytesIO
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeAlias

import fastavro

Encode: TypeAlias = Callable[[Any], bytes]
Schema: TypeAlias = Any

PAGE, SUMMARY, WATERMARK, PLAN = 1, 2, 3, 4

KNOWN_MAX = 1024
"""Policies whose bytes are remembered."""

FILES = {
    PAGE: "saga_page.avsc",
    SUMMARY: "saga_summary.avsc",
    WATERMARK: "watermark.avsc",
    PLAN: "saga_plan.avsc",
}
"""Schema id → its file. An id is never given to another schema."""


LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1


class BadRecord(ValueError):
    """Bytes are not the record they should be; the text names expected and got."""


def prefix(schema_id: int) -> bytes:
    """What a value of that schema begins with."""
    return b"\0" + schema_id.to_bytes(4, "big")


def schema_id(value: bytes) -> int:
    """Which schema a value says it has. Raises BadRecord."""
    if len(value) < 6 or value[0] != 0:
        raise BadRecord(f"expected a zero byte, a schema id and an Avro body, got {value[:8]!r}")
    found = int.from_bytes(value[1:5], "big")
    if found not in FILES:
        raise BadRecord(f"expected a schema id of {sorted(FILES)}, got {found}: was it written by a newer version?")
    return found


@cache
def raw_schema(id_: int) -> Schema:
    """The schema as its file has it."""
    return json.loads(files("kompensate.schemas").joinpath(FILES[id_]).read_text())


@cache
def _parsed(id_: int) -> Schema:
    return fastavro.parse_schema(raw_schema(id_))


def decode(value: bytes, expected: int) -> dict[str, Any]:
    """Read a value as a record of that schema; unions of records come as (name, fields). Raises BadRecord."""
    found = schema_id(value)
    if found != expected:
        raise BadRecord(f"expected schema {FILES[expected]} ({expected}), got {FILES[found]} ({found})")
    body = BytesIO(value)
    body.seek(5)
    try:
        record: dict[str, Any] = fastavro.schemaless_reader(body, _parsed(found), None, return_record_name=True)  # type: ignore[assignment]  # a record schema reads as a dict
    except Exception as error:  # fastavro raises what it stumbles over: EOFError, IndexError, ...
        raise BadRecord(
            f"expected a whole {FILES[found]} record, got {len(value)} bytes that do not read ({error})"
        ) from error
    if body.read(1):
        raise BadRecord(f"expected {FILES[found]} to end after {body.tell() - 1} bytes, got {len(value)}")
    return record


def encode(id_: int, record: Mapping[str, Any]) -> bytes:
    """`record` as a value of that schema, by fastavro: for what is not on the hot path."""
    out = BytesIO()
    out.write(prefix(id_))
    fastavro.schemaless_writer(out, _parsed(id_), dict(record))
    return out.getvalue()


def _long(number: int) -> bytes:
    if not LONG_MIN <= number <= LONG_MAX:
        raise ValueError(f"long: expected {LONG_MIN} to {LONG_MAX}, got {number}")
    n = (number << 1) ^ (number >> 63)
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


_SMALL = [_long(n) for n in range(4096)]


def encode_long(number: int) -> bytes:
    """An Avro long: zig-zag, seven bits a byte."""
    return _SMALL[number] if 0 <= number < 4096 else _long(number)


def encode_bytes(value: bytes) -> bytes:
    """Avro bytes: length and the bytes."""
    length = len(value)
    return (_SMALL[length] if length < 4096 else _long(length)) + value


@lru_cache(maxsize=16_384)
def encode_string(text: str) -> bytes:
    """An Avro string. Cached: names of steps, services, topics and types come again and again."""
    data = text.encode()
    return encode_long(len(data)) + data


def writer(schema: Schema, named: dict[str, Encode] | None = None) -> Encode:
    """A function from an object to its Avro body: a record's fields are read as attributes.

    A union is null and one other type, or records told apart by their class's name.
    """
    named = {} if named is None else named
    if isinstance(schema, list):
        return _union(schema, named)
    kind = schema["type"] if isinstance(schema, dict) else schema
    match kind:
        case "record":
            return _record(schema, named)
        case "long":
            return encode_long
        case "string":
            return encode_string
        case "bytes":
            return encode_bytes
        case "array":
            return _array(writer(schema["items"], named))
        case str() if kind in named:
            return named[kind]
    raise TypeError(f"schema: expected a record, union, array, long, string or bytes, got {schema!r}")


def _array(encode_item: Encode) -> Encode:
    def encode_array(values: Sequence[Any]) -> bytes:
        if not values:
            return b"\0"
        return b"".join([encode_long(len(values)), *map(encode_item, values), b"\0"])

    return encode_array


def _record(schema: Schema, named: dict[str, Encode]) -> Encode:
    parts: list[tuple[Callable[[Any], Any], Encode]] = []
    for texts, group in groupby(schema["fields"], lambda field: field["type"] in _TEXTS):
        fields = list(group)
        names = [field["name"] for field in fields]
        encoders = [writer(field["type"], named) for field in fields]
        if texts and len(fields) > 1:
            parts.append((attrgetter(*names), _together(encoders)))
        else:
            parts += zip(map(attrgetter, names), encoders, strict=True)

    def encode_record(value: Any) -> bytes:
        return b"".join([encode_part(get(value)) for get, encode_part in parts])

    found = _two(*parts) if len(parts) == 2 else encode_record  # two: as the commonest event has
    if schema["name"] == "Policy":  # a frozen part of a record that comes again and again is encoded once
        found = _once_each(encode_record)
    named[schema["name"]] = found
    return found


def _two(first: tuple[Callable[[Any], Any], Encode], second: tuple[Callable[[Any], Any], Encode]) -> Encode:
    (get_first, encode_first), (get_second, encode_second) = first, second
    return lambda value: encode_first(get_first(value)) + encode_second(get_second(value))


_TEXTS = ("string", ["null", "string"])


def _together(encoders: list[Encode]) -> Encode:
    """Texts that stand side by side (step, service, type, kind) come again and again together."""

    @lru_cache(maxsize=4096)
    def encode_texts(values: tuple[str | None, ...]) -> bytes:
        return b"".join([encode_text(value) for encode_text, value in zip(encoders, values, strict=True)])

    return encode_texts


def _once_each(encode_value: Encode) -> Encode:
    """A cache by identity: to hash an object and compare it takes longer than to find it."""
    known: dict[int, tuple[Any, bytes]] = {}

    def encode_known(value: Any) -> bytes:
        found = known.get(id(value))
        if found is None:
            if len(known) >= KNOWN_MAX:
                known.clear()
            # Kept with its bytes, so that its id is nobody else's.
            found = known[id(value)] = value, encode_value(value)
        return found[1]

    return encode_known


def _union(branches: list[Schema], named: dict[str, Encode]) -> Encode:
    if branches[0] == "null":
        encode_other = writer(branches[1], named)

        def encode_optional(value: Any) -> bytes:
            return b"\0" if value is None else b"\2" + encode_other(value)

        return encode_optional

    by_name = {branch["name"]: (encode_long(n), writer(branch, named)) for n, branch in enumerate(branches)}

    def encode_union(value: Any) -> bytes:
        index, encode_branch = by_name[value.__class__.__name__]
        return index + encode_branch(value)

    return encode_union
