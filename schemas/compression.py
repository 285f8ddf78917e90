"""Codecs that make payloads smaller: Zlib is always there, Zstd where Python 3.14 or `zstandard` is.

What would not get smaller is left as it is. Put compression before encryption: ciphertext does not shrink.
"""

import importlib
import zlib
from typing import Any

from kompensate.schemas.formats import PLAIN_BYTES_MAX, Owner
from kompensate.schemas.payloads import BadPayload

COMPRESS_BYTES_MIN = 256
"""Below this an envelope and a header eat what is gained."""


class Zlib:
    """Deflate by the standard library."""

    name = "zlib"

    def __init__(self, level: int = 6) -> None:
        self._level = level

    def encode(self, data: bytes, _: Owner, /) -> bytes | None:
        return None if len(data) < COMPRESS_BYTES_MIN else _smaller(zlib.compress(data, self._level), data)

    def decode(self, data: bytes, owner: Owner, /) -> bytes:
        reader = zlib.decompressobj()
        try:
            found = reader.decompress(data, PLAIN_BYTES_MAX)
        except zlib.error as error:
            raise _damaged(self.name, owner, error) from error
        if not reader.eof:
            raise _damaged(self.name, owner, _cut_or_large(len(found)))
        return found


class Zstd:
    """Zstandard: smaller and several times as quick. Raises ImportError where it is not installed."""

    name = "zstd"

    def __init__(self, level: int = 3) -> None:
        self._compress, self._decompress, self._errors = _zstd(level)

    def encode(self, data: bytes, _: Owner, /) -> bytes | None:
        return None if len(data) < COMPRESS_BYTES_MIN else _smaller(self._compress(data), data)

    def decode(self, data: bytes, owner: Owner, /) -> bytes:
        try:
            found: bytes | None = self._decompress(data)
        except self._errors as error:
            raise _damaged(self.name, owner, error) from error
        if found is None:
            raise _damaged(self.name, owner, _cut_or_large(len(data)))
        return found


def _zstd(level: int) -> tuple[Any, Any, Any]:
    """(compress, decompress to at most PLAIN_BYTES_MAX or None, what they raise) of whichever library is there."""
    try:
        library: Any = importlib.import_module("compression.zstd")
    except ImportError:
        return _zstandard(level)

    def decompress(data: bytes) -> bytes | None:
        reader = library.ZstdDecompressor()
        found: bytes = reader.decompress(data, PLAIN_BYTES_MAX)
        return found if reader.eof else None

    return lambda data: library.compress(data, level), decompress, library.ZstdError


def _zstandard(level: int) -> tuple[Any, Any, Any]:
    try:
        library: Any = importlib.import_module("zstandard")
    except ImportError as error:
        raise ImportError(
            "Zstd: expected Python 3.14 or the package zstandard, got neither: pip install 'kompensate[zstd]'"
        ) from error

    def decompress(data: bytes) -> bytes | None:
        size = library.frame_content_size(data)  # what is allocated for it: -1 where the frame does not say
        if not 0 <= size <= PLAIN_BYTES_MAX:
            return None
        found: bytes = library.ZstdDecompressor().decompress(data, allow_extra_data=False)
        return found

    return library.ZstdCompressor(level=level).compress, decompress, library.ZstdError


def _smaller(made: bytes, data: bytes) -> bytes | None:
    return made if len(made) < len(data) else None


def _cut_or_large(got: int) -> str:
    return f"it ends too early or has more than {PLAIN_BYTES_MAX} bytes (after {got})"


def _damaged(name: str, owner: Owner, problem: object) -> BadPayload:
    return BadPayload(f"payload of saga {owner.saga_id!r}: expected what {name} wrote, got damaged bytes: {problem}")
