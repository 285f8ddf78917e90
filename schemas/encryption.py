"""The codec that encrypts payloads: AES-256-GCM, several keys to read and one to write.

Each saga has keys of its own, derived (HKDF-SHA256) from the key by application and saga id, which are
authenticated besides, together with the key's id: a ciphertext that is moved to another saga, or altered in any
bit, does not read. The nonce is an HMAC of the plaintext: equal payloads of one saga become equal bytes (an
observer sees that they are equal, and nothing else), so that a replayed saga writes what it wrote before and
nobody has to count messages lest a random nonce come twice.

    bytes = length of key id, key id, nonce (12 bytes), ciphertext and tag (16 bytes)

Names, ids, times, sizes and the reasons of errors stay readable: put no secrets there.
"""

import hmac
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256

from kompensate.schemas.formats import Owner
from kompensate.schemas.payloads import BadPayload, PayloadUnavailable
from kompensate.schemas.topics import check_name

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
except ImportError as missing:
    raise ImportError(
        "AesGcm: expected the package cryptography, got none: pip install 'kompensate[encryption]'"
    ) from missing

KEY_BYTES = 32
NONCE_BYTES = 12
_SHORTEST = 1 + 1 + NONCE_BYTES + 16


class AesGcm:
    """Encrypts with the key named `write`, and reads what any of `keys` wrote. Raises ValueError.

    `keys` are 32 random bytes each, by an id that stands readable in what they wrote. To rotate: add the new key
    everywhere; then `write` with it; take the old one away when nothing written with it is left.
    """

    name = "aes-gcm"

    def __init__(self, keys: Mapping[str, bytes], *, write: str) -> None:
        for key_id, key in keys.items():
            check_name("key id", key_id)
            if len(key) != KEY_BYTES:
                raise ValueError(f"key {key_id!r}: expected {KEY_BYTES} random bytes, got {len(key)}")
        if write not in keys:
            raise ValueError(f"write: expected one of the keys {', '.join(keys) or '(none)'}, got {write!r}")
        self._keys = dict(keys)
        self._write = write
        self._derived = lru_cache(maxsize=1024)(self._derive)

    def __repr__(self) -> str:
        return f"AesGcm(keys {', '.join(self._keys)}; write={self._write!r})"

    def encode(self, data: bytes, owner: Owner, /) -> bytes:
        cipher, nonce_key = self._derived(self._write, owner)
        nonce = hmac.digest(nonce_key, data, sha256)[:NONCE_BYTES]
        key_id = self._write.encode()
        return b"".join((bytes((len(key_id),)), key_id, nonce, cipher.encrypt(nonce, data, _about(self._write, owner))))

    def decode(self, data: bytes, owner: Owner, /) -> bytes:
        if len(data) < _SHORTEST or len(data) < _SHORTEST - 1 + data[0]:
            raise BadPayload(
                f"payload of saga {owner.saga_id!r}: expected what {self.name} wrote, got {len(data)} bytes"
            )
        end = 1 + data[0]
        key_id = data[1:end].decode(errors="backslashreplace")
        if key_id not in self._keys:
            raise PayloadUnavailable(
                f"payload of saga {owner.saga_id!r}: expected one of the keys {', '.join(self._keys)}, got one "
                f"encrypted with key {key_id!r}: give that key too, to read it"
            )
        cipher, _ = self._derived(key_id, owner)
        try:
            return cipher.decrypt(data[end : end + NONCE_BYTES], data[end + NONCE_BYTES :], _about(key_id, owner))
        except InvalidTag as error:
            raise BadPayload(
                f"payload of saga {owner.saga_id!r}: expected one encrypted for it in application {owner.app!r} with "
                f"key {key_id!r}, got one that is not: it was altered, belongs to another saga, or the key differs"
            ) from error

    def _derive(self, key_id: str, owner: Owner) -> tuple[AESGCM, bytes]:
        derived = HKDFExpand(SHA256(), 2 * KEY_BYTES, _about(key_id, owner)).derive(self._keys[key_id])
        return AESGCM(derived[:KEY_BYTES]), derived[KEY_BYTES:]


def _about(key_id: str, owner: Owner) -> bytes:
    # None of the three may hold a zero byte: names and ids are of letters, digits and a few signs.
    return b"\0".join((b"kompensate payload 1", key_id.encode(), owner.app.encode(), owner.saga_id.encode()))
