"""Payloads as Avro, in Confluent's wire format, for the types that have a schema.

Schemas are files of the project, every version that was ever used, so that what was written is read for ever:

    schemas/Charge/7.avsc        a folder for each type, named after it; the number is the schema's id: the
    schemas/Charge/12.avsc       registry's, or one of your own, rising. The highest is written, all are read

A schema is never taken from a message; an id that no file has may be asked of a registry. One that could not read what
an earlier one wrote is refused when it is loaded, as is one with which a few bytes could fill the memory.
"""

import json
from collections.abc import Iterable
from datetime import date, datetime, time
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import fastavro
import msgspec

from kompensate.schemas.evolution import breaks, hazards
from kompensate.schemas.payloads import BadPayload, PayloadUnavailable, has_fields, is_model, name_of, read_other
from kompensate.schemas.registry import Registry

ID_MAX = 2**31 - 1
"""Confluent's wire format has four bytes for it."""

_NATIVE = (bytes, date, datetime, time, Decimal, UUID)
"""What fastavro writes itself, where the schema has the logical type for it."""


class BadSchema(ValueError):
    """A schema cannot be used; the text names the file, expected and got."""


class Schema(NamedTuple):
    """One version of a type's schema, as fastavro parses it."""

    type_name: str
    id: int
    parsed: Any


class AvroPayloads:
    """The schemas of `types` (dataclasses, Structs, pydantic models), read from folders below `directory`.

    `registry` is asked for ids that no file has: what it gives has to read as the type's newest schema.
    Raises BadSchema for what cannot be used, a version that breaks an earlier one among it.
    """

    def __init__(self, directory: str | Path, types: Iterable[type], *, registry: Registry | None = None) -> None:
        self._registry = registry
        self._newest: dict[Any, Schema] = {}
        self._by_id: dict[int, Schema] = {}
        for kind in types:
            if not has_fields(kind):
                raise BadSchema(f"type {name_of(kind)}: expected a dataclass, Struct or pydantic model, got {kind!r}")
            versions = load(Path(directory) / kind.__name__)
            for schema in versions:
                known = self._by_id.setdefault(schema.id, schema)
                if known is not schema:
                    raise BadSchema(
                        f"schema {schema.id}: expected one type, got {known.type_name} and {schema.type_name}"
                    )
            self._newest[kind] = versions[-1]
            _check_fields(kind, versions[-1])

    def encode(self, value: object) -> bytes | None:
        """`value` by its type's newest schema; None where the type has none. Raises BadPayload."""
        schema = self._newest.get(type(value))
        if schema is None:
            return None
        out = BytesIO()
        out.write(b"\0" + schema.id.to_bytes(4, "big"))
        try:
            record = msgspec.to_builtins(value, builtin_types=_NATIVE, enc_hook=_dumped)
            fastavro.schemaless_writer(out, schema.parsed, record, strict_allow_default=True)
        except Exception as error:  # fastavro raises what it stumbles over
            raise BadPayload(
                f"payload {schema.type_name}: expected what schema {schema.id} can hold, got {type(error).__name__}: "
                f"{error}"
            ) from error
        return out.getvalue()

    def decode(self, data: bytes, kind: Any) -> Any:
        """Read a value as `kind`, by the schema it was written with. Raises BadPayload, PayloadUnavailable."""
        name = name_of(kind)
        if len(data) < 5 or data[0] != 0:
            raise BadPayload(f"payload {name}: expected a zero byte, a schema id and Avro, got {len(data)} bytes")
        id_ = int.from_bytes(data[1:5], "big")
        reader = self._newest.get(kind)
        writer = self._by_id.get(id_) or self._registered(name, id_, reader)
        if reader is not None and reader.type_name != writer.type_name:
            raise BadPayload(f"payload {name}: expected a schema of {name}, got {id_}, of {writer.type_name}")
        found = _read(data, writer, reader)
        try:
            return msgspec.convert(found, kind, builtin_types=_NATIVE, dec_hook=read_other)
        except msgspec.MsgspecError as error:
            raise BadPayload(f"payload {name}: {error}; got a {writer.type_name} of schema {id_}") from error

    def _registered(self, name: str, id_: int, reader: Schema | None) -> Schema:
        """What the registry has under an id that no file has. Raises BadPayload, PayloadUnavailable."""
        if self._registry is None:
            known = ", ".join(map(str, sorted(self._by_id)))
            raise PayloadUnavailable(
                f"payload {name}: expected a schema id of {known}, got {id_}: add its file, before those that write it"
            )
        try:
            parsed: Any = fastavro.parse_schema(self._registry.schema(id_), named_schemas={})
        except PayloadUnavailable:
            raise
        except Exception as error:  # fastavro raises what it stumbles over
            raise BadPayload(
                f"payload {name}: expected Avro as schema {id_} of the registry, got {type(error).__name__}: {error}"
            ) from error
        if not isinstance(parsed, dict) or parsed.get("type") != "record":
            raise BadPayload(f"payload {name}: expected schema {id_} of the registry to be a record's, got another")
        problems = hazards(parsed) or ([] if reader is None else breaks(reader.parsed, parsed))
        if problems:
            raise BadPayload(
                f"payload {name}: expected schema {id_} of the registry to read as a {name}, got: {'; '.join(problems)}"
            )
        type_name = parsed["name"].rpartition(".")[2] if reader is None else reader.type_name
        return self._by_id.setdefault(id_, Schema(type_name, id_, parsed))


def load(folder: Path) -> list[Schema]:
    """All versions of a type's schema, the newest last, each checked against those before. Raises BadSchema."""
    versions: list[Schema] = []
    for path in sorted(folder.glob("*.avsc"), key=lambda path: path.stem.zfill(20)):
        schema = _load_file(path)
        for earlier in versions:
            problems = breaks(schema.parsed, earlier.parsed)
            if problems:
                raise BadSchema(
                    f"{path}: expected a schema that reads what {earlier.id}.avsc wrote, got: {'; '.join(problems)}"
                )
        versions.append(schema)
    if not versions:
        raise BadSchema(f"{folder}: expected files named by schema id, as in 7.avsc, got none")
    return versions


def _load_file(path: Path) -> Schema:
    if not (path.stem.isascii() and path.stem.isdigit() and 0 < int(path.stem) <= ID_MAX):
        raise BadSchema(f"{path}: expected a schema id as its name, 1 to {ID_MAX}, got {path.stem!r}")
    try:
        parsed: Any = fastavro.parse_schema(json.loads(path.read_text(encoding="utf-8")), named_schemas={})
    except Exception as error:  # of json, of fastavro, of the file system
        raise BadSchema(f"{path}: expected an Avro schema, got {type(error).__name__}: {error}") from error
    if not isinstance(parsed, dict) or parsed.get("type") != "record":
        raise BadSchema(f"{path}: expected a record's schema, got {parsed!r}")
    problems = hazards(parsed)
    if problems:
        raise BadSchema(f"{path}: expected a schema that bounds what it reads, got: {'; '.join(problems)}")
    return Schema(path.parent.name, int(path.stem), parsed)


def _check_fields(kind: Any, schema: Schema) -> None:
    if is_model(kind):
        names = {field.alias or name for name, field in kind.model_fields.items()}
    else:
        info: Any = msgspec.inspect.type_info(kind)
        names = {field.encode_name for field in info.fields}
    given = {field["name"] for field in schema.parsed["fields"]}
    if names != given:
        raise BadSchema(
            f"type {kind.__name__}: expected the fields of schema {schema.id} ({', '.join(sorted(given))}), got "
            f"{', '.join(sorted(names))}"
        )


def _read(data: bytes, writer: Schema, reader: Schema | None) -> Any:
    body = BytesIO(data)
    body.seek(5)
    try:
        found: Any = fastavro.schemaless_reader(body, writer.parsed, None if reader is None else reader.parsed)
    except Exception as error:  # fastavro raises what it stumbles over: EOFError, IndexError, ...
        raise BadPayload(
            f"payload {writer.type_name}: expected Avro of schema {writer.id}, got {len(data)} bytes that do not read "
            f"({type(error).__name__})"
        ) from error
    if body.read(1):
        raise BadPayload(
            f"payload {writer.type_name}: expected it to end after {body.tell() - 1} bytes, got {len(data)}"
        )
    return found


def _dumped(value: Any) -> Any:
    if is_model(type(value)):
        return value.model_dump(by_alias=True)
    raise TypeError(f"a value of type {name_of(type(value))}")
