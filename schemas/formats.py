"""A payload format: how values become the bytes that travel and are stored, and how these are read again.

    PayloadFormat([Zlib(), AesGcm({"2026-11": key}, write="2026-11")], avro=AvroPayloads("schemas", [Charge]))

A value is written as Avro where its type has a schema, else as JSON; then each codec changes the bytes, in the
order given, and reading undoes it. The same object goes to `Application`, `Participant` and `Client`: what one
writes the others read. Plain JSON is read whatever the format, so that codecs can be added to sagas under way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kompensate.schemas import attributes, payloads
from kompensate.schemas.envelope import AVRO_FIRST, MAGIC, NAME_BYTES_MAX, told, unwrap, wrap
from kompensate.schemas.payloads import BadPayload, PayloadUnavailable, check_size, name_of

if TYPE_CHECKING:  # it brings fastavro, which most formats do without
    from kompensate.schemas.avro import AvroPayloads

PLAIN_BYTES_MAX = 64 * 1024 * 1024
"""Of a payload before any codec: what is read, decompressed or fetched for one stays below it."""

ENVELOPES_MAX = 8
"""Codecs on one payload: no format has as many, and bytes that claim more are somebody's joke."""

SOURCE_PREFIX = "kompensate:"
"""Before an application's name in `ce_source`."""


class Owner(NamedTuple):
    """The saga that a payload belongs to. A codec may bind what it writes to it."""

    app: str
    saga_id: str


class PayloadCodec(Protocol):
    """Changes a payload's bytes and changes them back.

    Equal bytes of one owner should become equal bytes: a saga that is replayed writes its payloads again.
    """

    @property
    def name(self) -> str:
        """Stands in the envelope, and says who can read it: never give it to something else."""

    def encode(self, data: bytes, owner: Owner, /) -> bytes | None:
        """The bytes to send, or None to leave these as they are. Raises BadPayload, PayloadUnavailable."""

    def decode(self, data: bytes, owner: Owner, /) -> bytes:
        """What `encode` was given. Raises BadPayload for what nobody can read, PayloadUnavailable for what this
        process cannot read now."""


class PayloadFormat:
    """Codecs in the order in which they write, and the types that are Avro. Raises ValueError for a bad name."""

    def __init__(self, codecs: Sequence[PayloadCodec] = (), *, avro: "AvroPayloads | None" = None) -> None:
        self._codecs = tuple(codecs)
        self._by_name = {codec.name: codec for codec in self._codecs}
        self._avro = avro
        if len(self._by_name) != len(self._codecs) or len(self._codecs) > ENVELOPES_MAX:
            names = ", ".join(codec.name for codec in self._codecs)
            raise ValueError(f"codecs: expected at most {ENVELOPES_MAX}, each name once, got {names}")
        for name in self._by_name:
            if not 0 < len(name.encode()) <= NAME_BYTES_MAX:
                raise ValueError(f"codec: expected a name of 1 to {NAME_BYTES_MAX} bytes, got {name!r}")

    def encode(self, value: object, owner: Owner) -> bytes:
        """`value` as bytes to send and store. Raises BadPayload, PayloadUnavailable."""
        data = None if self._avro is None else self._avro.encode(value)
        if data is None:
            try:
                data = payloads.to_json(value)
            except (TypeError, ValueError, RecursionError) as error:
                raise payloads.unwritable(value, error) from error
        return self.seal(data, owner, name_of(type(value)))

    def seal(self, data: bytes, owner: Owner, name: str = "bytes") -> bytes:
        """JSON or Avro bytes through all codecs. `name` is their type's. Raises BadPayload, PayloadUnavailable."""
        if len(data) > PLAIN_BYTES_MAX:
            raise BadPayload(f"payload {name}: expected at most {PLAIN_BYTES_MAX} bytes, got {len(data)}")
        for codec in self._codecs:
            encoded = codec.encode(data, owner)
            if encoded is not None:
                data = wrap(codec.name, encoded)
        return check_size(data, name)

    def decode(self, data: bytes | None, kind: Any, owner: Owner) -> Any:
        """Read bytes as a `kind`, from whatever codecs and schema they name. Raises BadPayload, PayloadUnavailable."""
        plain = self.open(b"null" if data is None else data, owner)
        try:
            if self._avro is not None and plain.startswith(AVRO_FIRST):
                return self._avro.decode(plain, kind)
            return payloads.decode(plain, kind)
        except BadPayload as error:
            if plain is data or isinstance(error, PayloadUnavailable):
                raise
            # Reasons are stored and logged in the clear: they must not quote what was encrypted.
            place = " - at " + str(error).partition(" - at ")[2].partition(";")[0] if " - at " in str(error) else ""
            raise BadPayload(
                f"payload {name_of(kind)}: expected what reads as one, got something else{place} "
                "(it was encoded, and is not quoted)"
            ) from None

    def open(self, data: bytes, owner: Owner) -> bytes:
        """JSON or Avro bytes as they were before the codecs. Raises BadPayload, PayloadUnavailable."""
        for _ in range(ENVELOPES_MAX):
            try:
                found = unwrap(data)
            except ValueError as error:
                raise BadPayload(f"payload of saga {owner.saga_id!r}: {error}") from error
            if found is None:
                return data
            codec = self._by_name.get(found[0])
            if codec is None:
                names = ", ".join(self._by_name) or "none"
                raise PayloadUnavailable(
                    f"payload of saga {owner.saga_id!r}: expected an encoding of its payload format ({names}), got "
                    f"{told(data)}"
                )
            data = codec.decode(found[1], owner)
        if data.startswith(b"\xf5"):
            raise BadPayload(f"payload of saga {owner.saga_id!r}: expected at most {ENVELOPES_MAX} codecs, got more")
        return data

    def shown(self, data: bytes, owner: Owner) -> bytes:
        """As JSON, for people and to compare. Raises BadPayload, PayloadUnavailable."""
        data = self.open(data, owner)
        if self._avro is not None and data.startswith(AVRO_FIRST):
            return payloads.to_json(self._avro.decode(data, Any))
        return data


class SagaPayloads(Protocol):
    """How the values of one saga become bytes."""

    def encode(self, value: object, /) -> bytes:
        """Raises BadPayload, PayloadUnavailable."""

    def decode(self, data: bytes | None, kind: Any, /) -> Any:
        """Raises BadPayload, PayloadUnavailable."""

    def for_saga(self, saga_id: str, /) -> "SagaPayloads":
        """The same for another saga of the application."""

    def shown(self, data: bytes, /) -> bytes:
        """As JSON, for people and to compare. Raises BadPayload, PayloadUnavailable."""

    def seal(self, data: bytes, name: str, /) -> bytes:
        """Bytes that are JSON already, to send. Raises BadPayload, PayloadUnavailable."""

    def attributes(self, given: Mapping[str, object], before: bytes, /) -> bytes:
        """Attributes `before` with those `given`: whatever the format, they stay in the clear. Raises BadAttributes."""

    def moved(self, data: bytes, saga_id: str, /) -> bytes:
        """A payload of this saga as one of that other. Raises BadPayload, PayloadUnavailable."""


class _Json:
    """Without a format: JSON, whose saga it is does not matter."""

    encode = staticmethod(payloads.encode)
    decode = staticmethod(payloads.decode)
    seal = staticmethod(check_size)
    attributes = staticmethod(attributes.changed)

    def for_saga(self, _: str, /) -> "_Json":
        return self

    def shown(self, data: bytes, /) -> bytes:
        return data

    def moved(self, data: bytes, _: str, /) -> bytes:
        return data


@dataclass(frozen=True, slots=True)
class _Formatted:
    format: PayloadFormat
    owner: Owner

    attributes = staticmethod(attributes.changed)

    def encode(self, value: object, /) -> bytes:
        return self.format.encode(value, self.owner)

    def decode(self, data: bytes | None, kind: Any, /) -> Any:
        return self.format.decode(data, kind, self.owner)

    def for_saga(self, saga_id: str, /) -> "_Formatted":
        return _Formatted(self.format, Owner(self.owner.app, saga_id))

    def shown(self, data: bytes, /) -> bytes:
        return self.format.shown(data, self.owner)

    def seal(self, data: bytes, name: str, /) -> bytes:
        return self.format.seal(data, self.owner, name)

    def moved(self, data: bytes, saga_id: str, /) -> bytes:
        if not data.startswith(MAGIC):
            return data  # no codec has changed it, so it is bound to nobody
        return self.format.seal(self.format.open(data, self.owner), Owner(self.owner.app, saga_id))


PLAIN: SagaPayloads = _Json()


def payloads_of(found: PayloadFormat | None, app: str, saga_id: str = "") -> SagaPayloads:
    """`found` for a saga of application `app` (its name, or what `ce_source` says); None is plain JSON."""
    return PLAIN if found is None else _Formatted(found, Owner(app.removeprefix(SOURCE_PREFIX), saga_id))


def legible(data: bytes, found: SagaPayloads) -> bytes:
    """A payload as JSON for people: its value, or where it cannot be read a text that says what it is and why."""
    try:
        data = found.shown(data)
    except BadPayload as error:
        return payloads.to_json(f"({told(data) or 'a payload'}: {error})")
    what = told(data)
    return data if what is None else payloads.to_json(f"({what}: give --app with its payload format to read it)")
