"""The codec that keeps large payloads elsewhere: a blob wherever fsspec can write, and its SHA-256 in its place.

    bytes = SHA-256 (32 bytes), the blob's size (8 bytes, big-endian)

A blob is named by its content and written before the transaction that refers to it: trying again writes the same
one, and what is aborted leaves at most a blob that nobody asks for. Where blobs are is the reader's knowledge, not
the message's: no message makes anybody open a URL. Put it last, so that the store sees what the others made.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from kompensate.schemas.formats import PLAIN_BYTES_MAX, Owner
from kompensate.schemas.payloads import BadPayload, PayloadUnavailable

try:
    import fsspec
except ImportError as missing:
    raise ImportError(
        "ClaimCheck: expected the package fsspec, got none: pip install 'kompensate[claim-check]'"
    ) from missing

CLAIM_BYTES_MIN = 128 * 1024
"""By default: several such payloads still fit a saga's page and a Kafka record."""


class ClaimCheck:
    """Payloads of more than `above` bytes are written below `url`; `options` are the file system's.

    Blobs are never deleted: let the store expire them once no topic keeps what refers to them.
    """

    name = "claim-check"

    def __init__(self, url: str, *, above: int = CLAIM_BYTES_MIN, options: Mapping[str, Any] | None = None) -> None:
        files, base = fsspec.core.url_to_fs(url, **(options or {}))
        self._files: Any = files
        self._base = str(base).rstrip("/")
        self._url = url
        self._above = above

    def encode(self, data: bytes, owner: Owner, /) -> bytes | None:
        if len(data) <= self._above:
            return None
        digest = sha256(data)
        path = self._path(digest.hexdigest())
        try:
            if not self._stands(path, len(data)):
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._files.pipe_file(path, data)
        except Exception as error:  # each file system raises its own
            raise self._trouble(owner, f"its {len(data)} bytes to be written", error) from error
        return digest.digest() + len(data).to_bytes(8, "big")

    def decode(self, data: bytes, owner: Owner, /) -> bytes:
        size = int.from_bytes(data[32:], "big")
        if len(data) != 40 or size > PLAIN_BYTES_MAX:
            raise BadPayload(
                f"payload of saga {owner.saga_id!r}: expected a blob's SHA-256 and its size up to {PLAIN_BYTES_MAX}, "
                f"got {len(data)} bytes"
            )
        digest = data[:32].hex()
        try:
            found: bytes = self._files.cat_file(self._path(digest), start=0, end=size + 1)
        except Exception as error:
            raise self._trouble(owner, f"blob {digest} of {size} bytes", error) from error
        if len(found) != size or sha256(found).digest() != data[:32]:
            raise self._trouble(owner, f"blob {digest} of {size} bytes", f"{len(found)} bytes of other content")
        return found

    def _path(self, digest: str) -> str:
        return f"{self._base}/{digest[:2]}/{digest}"

    def _stands(self, path: str, size: int) -> bool:
        """Is it there in full? One that a crash cut short is written again."""
        try:
            found: bool = self._files.size(path) == size
        except FileNotFoundError:
            return False
        return found

    def _trouble(self, owner: Owner, expected: str, got: object) -> PayloadUnavailable:
        found = f"{type(got).__name__}: {got}" if isinstance(got, Exception) else got
        return PayloadUnavailable(f"payload of saga {owner.saga_id!r} at {self._url}: expected {expected}, got {found}")
