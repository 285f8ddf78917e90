"""Payloads: what stands between a participant and a saga, as JSON.

Dataclasses, msgspec Structs, TypedDicts and plain JSON values go in and out; dates, UUIDs, Decimals and bytes
(base64) travel as text. Both sides of the wire use this module, so that what one writes the other reads.
Unknown fields are ignored on reading: a sender may be newer than its reader.
"""

from functools import lru_cache
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

# A Kafka record is 1 MiB by default; the rest is for key and headers, and for the page that keeps a reply.
PAYLOAD_BYTES_MAX = 900 * 1024

FIELDS_SHOWN_MAX = 20

_encoder = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical")


class BadPayload(ValueError):
    """A payload cannot be written or read; the text names the type, expected and got."""


def encode(value: object) -> bytes:
    """`value` as JSON bytes. Raises BadPayload for what JSON cannot hold and above PAYLOAD_BYTES_MAX."""
    try:
        data = to_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadPayload(
            f"payload {name_of(type(value))}: expected a dataclass, Struct, TypedDict or JSON value, got {error}"
        ) from error
    if len(data) > PAYLOAD_BYTES_MAX:
        raise BadPayload(
            f"payload {name_of(type(value))}: expected at most {PAYLOAD_BYTES_MAX} bytes, got {len(data)}: "
            "store it elsewhere and send where it is"
        )
    return data


def to_json(value: object) -> bytes:
    """`value` as JSON bytes without limit or explanation: for what does not travel as a payload."""
    return _encoder.encode(value)


def decode(data: bytes | None, kind: type[T]) -> T:
    """Read JSON bytes as a `kind`; no value at all reads as null. Raises BadPayload."""
    hashable: Any = kind
    try:
        found: T = _decoder(hashable).decode(b"null" if data is None else data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadPayload(f"payload {name_of(kind)}: {error}; got {_shape(data)}") from error
    return found


def _shape(data: bytes | None) -> str:
    """What was sent instead, in a few words: an object's fields show a misspelt one."""
    if data is None:
        return "no value"
    try:
        fields = ", ".join(list(msgspec.json.decode(data, type=dict[str, msgspec.Raw]))[:FIELDS_SHOWN_MAX])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return f"{len(data)} bytes beginning {data[:40]!r}"
    return f"an object with {fields[:200] or 'no fields'}"


def check_type(kind: Any) -> None:
    """Raise BadPayload where `decode` could never make a `kind`."""
    try:
        _decoder(kind)
    except TypeError as error:
        raise BadPayload(f"payload {name_of(kind)}: expected a type that JSON can be read as, got {error}") from error


def name_of(kind: Any) -> str:
    """A type's own name, as contracts and errors show it."""
    return getattr(kind, "__name__", None) or str(kind)


@lru_cache(maxsize=1024)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)
