"""The envelope around a payload that a codec has changed, and what any payload's first byte says of it.

    payload  = JSON | zero byte, schema id, Avro | F5 "KP" 01, length of name, name of the codec, what it made

What a codec made may be an envelope's content again: one envelope a codec, the last that wrote outermost.
JSON is UTF-8, and no UTF-8 text begins with a zero byte or F5: so bytes tell what they are wherever they
stand, in a record, in the state topic or in an inbox. Nobody who lacks the codec takes them for data.
"""

from kompensate.schemas.messages import JSON

MAGIC = b"\xf5KP\x01"
AVRO_FIRST = b"\0"
"""Confluent's wire format begins so."""

ENCODED = "application/vnd.kompensate.encoded"
AVRO = "application/avro"

NAME_BYTES_MAX = 100


def wrap(name: str, data: bytes) -> bytes:
    """`data` as the codec `name` made it, in its envelope."""
    text = name.encode()
    assert 0 < len(text) <= NAME_BYTES_MAX, name
    return b"".join((MAGIC, bytes((len(text),)), text, data))


def unwrap(data: bytes) -> tuple[str, bytes] | None:
    """(codec, what it made), or None for what stands in no envelope. Raises ValueError for a damaged one."""
    if not data.startswith(MAGIC):
        return None
    end = len(MAGIC) + 1 + (data[len(MAGIC)] if len(data) > len(MAGIC) else 0)
    name = data[len(MAGIC) + 1 : end]
    if not name or len(data) < end or len(name) > NAME_BYTES_MAX:
        raise ValueError(f"envelope: expected a codec's name of 1 to {NAME_BYTES_MAX} bytes, got {data[:20]!r}")
    return name.decode(errors="backslashreplace"), data[end:]


def content_type(payload: bytes | None) -> str:
    """What the header `content-type` says of a payload."""
    if not payload or payload[0] not in b"\0\xf5":
        return JSON
    return ENCODED if payload.startswith(MAGIC) else AVRO


def told(payload: bytes) -> str | None:
    """In a few words what a payload is that is no JSON; None for what claims to be JSON."""
    if payload.startswith(MAGIC):
        try:
            found = unwrap(payload)
        except ValueError:
            found = None
        return f"{len(payload)} bytes encoded by {found[0] if found else 'an unknown codec'}"
    if payload.startswith(AVRO_FIRST) and len(payload) > 5:
        return f"{len(payload)} bytes of Avro, schema {int.from_bytes(payload[1:5], 'big')}"
    return None
