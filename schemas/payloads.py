"""Payloads: what stands between a participant and a saga, as JSON.

Dataclasses, msgspec Structs, TypedDicts, pydantic models and plain JSON values go in and out; dates, UUIDs,
Decimals and bytes (base64) travel as text. Both sides of the wire use this module, so that what one writes the
other reads. Unknown fields are ignored on reading: a sender may be newer than its reader. Avro and codecs are
the business of `formats`.
"""

import sys
from functools import lru_cache
from logging import getLogger
from typing import Any, TypeVar

import msgspec

from kompensate.schemas.envelope import told

log = getLogger("kompensate.payloads")

T = TypeVar("T")

# A Kafka record is 1 MiB by default; the rest is for key and headers, and for the page that keeps a reply.
PAYLOAD_BYTES_MAX = 900 * 1024

# From here on there is a line in the log, once for each type: time to think of what grows before it is refused.
PAYLOAD_BYTES_WARN = 256 * 1024

FIELDS_SHOWN_MAX = 20

_warned: set[str] = set()


def is_model(kind: Any) -> bool:
    """Is that a class of pydantic's? Nobody has one who did not import pydantic: we never do."""
    return isinstance(kind, type) and "pydantic" in sys.modules and hasattr(kind, "model_validate_json")


def has_fields(kind: Any) -> bool:
    """Is that a class whose values are messages: a dataclass, a msgspec Struct or a pydantic model?"""
    known = hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__struct_fields__") or is_model(kind)
    return isinstance(kind, type) and known


def write_other(value: Any) -> Any:
    """msgspec's hook for what it does not know: a pydantic model writes itself."""
    if is_model(type(value)):
        return msgspec.Raw(value.model_dump_json().encode())
    raise TypeError(f"a value of type {name_of(type(value))}")


def read_other(kind: Any, found: Any) -> Any:
    """msgspec's hook for what it does not know. A pydantic model reads JSON, which its strict mode takes."""
    if is_model(kind):
        try:
            return kind.model_validate_json(_encoder.encode(found))
        except ValueError as error:
            raise ValueError(_model_error(error)) from error
    raise TypeError(f"expected data, got the type {name_of(kind)}")


def _model_error(error: Any) -> str:
    """Which fields and why: pydantic's own text has the values in it, which belong in no log."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, problem['loc'])) or 'it'}: {problem['msg']}" for problem in problems)


_encoder = msgspec.json.Encoder(decimal_format="string", uuid_format="canonical", enc_hook=write_other)


class BadPayload(ValueError):
    """A payload cannot be written or read; the text names the type, expected and got."""


class PayloadUnavailable(BadPayload):
    """A payload cannot be read here and now: a codec, a key or a blob is missing. It is right to wait for it."""


def encode(value: object) -> bytes:
    """`value` as JSON bytes. Raises BadPayload for what JSON cannot hold and above PAYLOAD_BYTES_MAX."""
    try:
        data = _encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise unwritable(value, error) from error
    if len(data) > PAYLOAD_BYTES_WARN:
        check_size(data, name_of(type(value)))
    return data


def unwritable(value: object, error: Exception) -> BadPayload:
    """The error for a value that is no data."""
    return BadPayload(
        f"payload {name_of(type(value))}: expected a dataclass, Struct, TypedDict, pydantic model or JSON value, "
        f"got {error}"
    )


def check_size(data: bytes, name: str) -> bytes:
    """Return `data`; say once where payloads of that name grow large. Raises BadPayload above PAYLOAD_BYTES_MAX."""
    if len(data) > PAYLOAD_BYTES_MAX:
        raise BadPayload(
            f"payload {name}: expected at most {PAYLOAD_BYTES_MAX} bytes, got {len(data)}: "
            "store it elsewhere and send where it is, or let a ClaimCheck do that"
        )
    if len(data) > PAYLOAD_BYTES_WARN and name not in _warned and len(_warned) < 1024:
        _warned.add(name)
        log.warning(
            "payload %s has %d bytes, more than %d: above %d it is refused (this is said once for each type)",
            *(name, len(data), PAYLOAD_BYTES_WARN, PAYLOAD_BYTES_MAX),
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
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError) as error:
        other = told(data) if data else None
        if other is not None:
            raise PayloadUnavailable(
                f"payload {name_of(kind)}: expected JSON, got {other}: give whoever reads it the payload format "
                "that it was written with (payloads=PayloadFormat(...))"
            ) from error
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
    return msgspec.json.Decoder(kind, dec_hook=read_other)
