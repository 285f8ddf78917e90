"""Search attributes: small values under names, by which operators find sagas.

They travel and are stored as one JSON object, its names sorted, in the clear: in a header of a start, in the saga's
history, and in a header of its records in the state topic. No payload format touches them.
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, TypeAlias

Value: TypeAlias = str | int | float | bool

NAMES_MAX = 16
"""They are read by people, and stand beside every version of a saga's page."""
BYTES_MAX = 1024
"""Of all of them as JSON: each record of the saga in the state topic carries them."""
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
NONE = b""
"""No attributes, as bytes."""


class BadAttributes(ValueError):
    """Attributes that cannot be; the text names the attribute, expected and got."""


def changed(given: Mapping[str, object], before: bytes = NONE) -> bytes:
    """The attributes `before` with those `given` set, and those that are given as None removed. Raises BadAttributes.

    A datetime becomes its text in UTC, which sorts as time does.
    """
    if not isinstance(given, Mapping):
        raise BadAttributes(f"attributes: expected a mapping of names to values, got {type(given).__name__}")
    found: dict[str, Value] = read(before)
    for name, value in given.items():
        if not isinstance(name, str) or NAME.match(name) is None:
            raise BadAttributes(
                f"attribute: expected a name of 1 to 64 of A-Z a-z 0-9 _ not beginning with a digit, got {name!r:.80}"
            )
        if value is None:
            found.pop(name, None)
        else:
            found[name] = _value(name, value)
    return _written(found)


def checked(data: bytes) -> bytes:
    """Attributes as somebody else wrote them, as we write them. Raises BadAttributes."""
    return changed(read(data))


def read(data: bytes) -> dict[str, Any]:
    """The attributes by name, of bytes that `changed` or `checked` gave. Raises BadAttributes for what is no object."""
    if not data:
        return {}
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadAttributes(f"attributes: expected a JSON object, got {data[:80]!r} ({error})") from error
    if not isinstance(found, dict):
        raise BadAttributes(f"attributes: expected a JSON object, got {data[:80]!r}")
    return found


def _value(name: str, value: object) -> Value:
    match value:
        case str():
            text = str.__str__(value)
            if not text.isascii():
                _encodable(name, text)
            return text
        case bool():
            return value
        case int():
            if not -(2**63) <= value < 2**63:
                bits = value.bit_length() + 1
                raise BadAttributes(f"attribute {name!r}: expected a whole number of 64 bits, got one of {bits}")
            return int(value)
        case float():
            if not isfinite(value):
                raise BadAttributes(f"attribute {name!r}: expected a finite number, got {value}")
            return float(value)
        case datetime() if value.tzinfo is not None:
            return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case datetime():
            raise BadAttributes(f"attribute {name!r}: expected a datetime with a time zone, got {value.isoformat()}")
    raise BadAttributes(
        f"attribute {name!r}: expected str, int, float, bool, a datetime with a time zone or None, "
        f"got {type(value).__name__}"
    )


def _encodable(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadAttributes(f"attribute {name!r}: expected text that UTF-8 can hold, got {text[:40]!r}") from error


def _written(found: Mapping[str, Value]) -> bytes:
    if not found:
        return NONE
    if len(found) > NAMES_MAX:
        raise BadAttributes(f"attributes: expected at most {NAMES_MAX}, got {len(found)}: {', '.join(sorted(found))}")
    data = json.dumps(found, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()
    if len(data) > BYTES_MAX:
        longest = max(found, key=lambda name: len(str(found[name])))
        raise BadAttributes(
            f"attributes: expected at most {BYTES_MAX} bytes of JSON in all, got {len(data)}, most for {longest!r}"
        )
    return data
