"""Payload formats: what one writes the same one reads, and nobody takes an encoded payload for data."""

import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kompensate.schemas import payloads
from kompensate.schemas.claim_check import ClaimCheck
from kompensate.schemas.compression import Zlib, Zstd
from kompensate.schemas.encryption import AesGcm
from kompensate.schemas.envelope import AVRO, ENCODED, MAGIC, content_type, wrap
from kompensate.schemas.formats import (
    PLAIN,
    PLAIN_BYTES_MAX,
    Owner,
    PayloadFormat,
    SagaPayloads,
    legible,
    payloads_of,
)
from kompensate.schemas.messages import JSON
from kompensate.schemas.payloads import PAYLOAD_BYTES_MAX, BadPayload, PayloadUnavailable

KEYS = {"2025": b"\x01" * 32, "2026": b"\x02" * 32}
OWNER = Owner("shop", "order-1")
SECRET = "4111-1111-1111-1111"


@dataclass
class Card:
    number: str
    notes: str = ""


def bound(*codecs: Any, app: str = "shop", saga_id: str = "order-1") -> SagaPayloads:
    return payloads_of(PayloadFormat(codecs), app, saga_id)


def blobs(path: Path) -> list[Path]:
    return sorted(found for found in path.rglob("*") if found.is_file())


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), lambda inner: st.lists(inner, max_size=5)
)
_chains = st.permutations([Zlib(), Zstd(), AesGcm(KEYS, write="2026"), ClaimCheck("memory://blobs", above=64)])


@given(_values | st.text(min_size=400), _chains, st.integers(0, 4))
def test_what_goes_through_codecs_comes_out(value: Any, chain: list[Any], count: int) -> None:
    """Any value, any codecs in any order; and the same bytes each time, for a saga that is replayed writes again."""
    found = bound(*chain[:count])
    data = found.encode(value)

    assert found.decode(data, Any) == value
    assert found.encode(value) == data
    assert found.shown(data) == PLAIN.encode(value)


def test_a_format_reads_what_was_plain() -> None:
    """Codecs can be added to sagas under way: JSON of before reads on."""
    assert bound(Zlib(), AesGcm(KEYS, write="2026")).decode(PLAIN.encode(Card("1")), Card) == Card("1")


@pytest.mark.parametrize(
    ("data", "expected"),
    [(None, JSON), (b"", JSON), (b'{"a":1}', JSON), (b"\0\0\0\0\7x", AVRO), (wrap("zlib", b"x"), ENCODED)],
)
def test_the_content_type_says_what_bytes_are(data: bytes | None, expected: str) -> None:
    """The header is made from the first bytes, which no JSON text begins with."""
    assert content_type(data) == expected


def test_who_lacks_the_codec_is_told() -> None:
    """Without a format, and with another: expected and got, and that it is worth waiting for."""
    data = bound(AesGcm(KEYS, write="2026")).encode(Card(SECRET))

    with pytest.raises(PayloadUnavailable, match=r"payload Card: expected JSON, got \d+ bytes encoded by aes-gcm"):
        PLAIN.decode(data, Card)
    with pytest.raises(PayloadUnavailable, match=r"expected an encoding of its payload format \(zlib\), got \d+ bytes"):
        bound(Zlib()).decode(data, Card)
    assert b"(49 bytes encoded by aes-gcm: give --app" in legible(data[:49], PLAIN)


def test_ciphertext_shows_nothing() -> None:
    """The payload's text is not in the bytes; the key's id is."""
    data = bound(AesGcm(KEYS, write="2026")).encode(Card(SECRET))

    assert SECRET.encode() not in data
    assert b"2026" in data


@pytest.mark.parametrize("value", [SECRET, {"number": [SECRET]}, {"number": "1", "notes": {SECRET: 1}}, [SECRET]])
def test_no_error_quotes_what_was_encrypted(value: object) -> None:
    """Reasons are stored in the clear: they name type and place, and leave out the rest, causes too."""
    found = bound(AesGcm(KEYS, write="2026"))

    with pytest.raises(BadPayload, match=r"payload Card: expected what reads as one, got something else.*") as raised:
        found.decode(found.encode(value), Card)
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_keys_rotate() -> None:
    """Old and new are read while both are there; once the old one is gone the error names it."""
    old = bound(AesGcm(KEYS, write="2025"))
    new = bound(AesGcm(KEYS, write="2026"))
    retired = bound(AesGcm({"2026": KEYS["2026"]}, write="2026"))

    for writer in (old, new):
        for reader in (old, new):
            assert reader.decode(writer.encode(Card("1")), Card) == Card("1")
    assert retired.decode(new.encode(Card("1")), Card) == Card("1")
    with pytest.raises(PayloadUnavailable, match=r"expected one of the keys 2026, got one encrypted with key '2025'"):
        retired.decode(old.encode(Card("1")), Card)


def test_a_ciphertext_cannot_be_moved() -> None:
    """Into another saga, another application, or under another key's id."""
    codec = AesGcm(KEYS, write="2025")
    data = bound(codec).encode(Card("1"))

    for other in (bound(codec, saga_id="order-2"), bound(codec, app="bank")):
        with pytest.raises(BadPayload, match="expected one encrypted for it in application"):
            other.decode(data, Card)
    with pytest.raises(BadPayload, match="key '2026', got one that is not"):
        bound(codec).decode(data.replace(b"2025", b"2026"), Card)


@given(st.data())
def test_a_flipped_bit_is_found(data: st.DataObject) -> None:
    """Any bit of what was encrypted: an error, and never another value."""
    codec = AesGcm(KEYS, write="2026")
    encrypted = bytearray(codec.encode(b'{"number":"1"}', OWNER))
    at = data.draw(st.integers(0, len(encrypted) * 8 - 1))
    encrypted[at // 8] ^= 1 << at % 8

    with pytest.raises(BadPayload):
        codec.decode(bytes(encrypted), OWNER)


def test_two_sagas_do_not_encrypt_alike() -> None:
    """Equal payloads look equal within a saga only."""
    codec = AesGcm(KEYS, write="2026")

    assert bound(codec).encode(Card("1"))[-30:] != bound(codec, saga_id="order-2").encode(Card("1"))[-30:]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: AesGcm({"a": b"short"}, write="a"), "key 'a': expected 32 random bytes, got 5"),
        (lambda: AesGcm(KEYS, write="2027"), "expected one of the keys 2025, 2026, got '2027'"),
        (lambda: AesGcm({"a b": b"x" * 32}, write="a b"), "key id: expected"),
        (lambda: PayloadFormat([Zlib(), Zlib()]), "each name once, got zlib, zlib"),
    ],
)
def test_a_wrong_format_is_refused_when_it_is_made(make: Callable[[], object], told: str) -> None:
    """Before any saga has used it; no key is in the text."""
    with pytest.raises(ValueError, match=told):
        make()


def test_a_codec_does_not_show_its_keys() -> None:
    """Its repr, which tracebacks and debuggers print, names them only."""
    assert repr(AesGcm(KEYS, write="2026")) == "AesGcm(keys 2025, 2026; write='2026')"


@pytest.mark.parametrize("codec", [Zlib(), Zstd()], ids=["zlib", "zstd"])
def test_compression_makes_smaller_or_nothing(codec: Zlib | Zstd) -> None:
    """What is short, or would grow, stays as it is."""
    made = codec.encode(b"a" * 10_000, OWNER)

    assert made is not None
    assert len(made) < 200
    assert codec.encode(b"a" * 100, OWNER) is None
    assert codec.encode(AesGcm(KEYS, write="2026").encode(b"a" * 10_000, OWNER), OWNER) is None


@pytest.mark.parametrize("codec", [Zlib(), Zstd()], ids=["zlib", "zstd"])
@pytest.mark.parametrize(
    "change", [lambda d: d[:-3], lambda d: b"", lambda d: b"\x77" * 40, lambda d: d[: len(d) // 2]]
)
def test_damaged_compression_is_told(codec: Zlib | Zstd, change: Callable[[bytes], bytes]) -> None:
    """Cut or garbled: an error that names the codec."""
    made = codec.encode(bytes(range(256)) * 20, OWNER)
    assert made is not None

    with pytest.raises(BadPayload, match=f"expected what {codec.name} wrote"):
        codec.decode(change(made), OWNER)


@pytest.mark.slow
@pytest.mark.parametrize("codec", [Zlib(9), Zstd()], ids=["zlib", "zstd"])
def test_a_bomb_does_not_go_off(codec: Zlib | Zstd) -> None:
    """A few bytes that would fill the memory end at the limit."""
    bomb = codec.encode(bytes(PLAIN_BYTES_MAX + 1), OWNER)
    assert bomb is not None

    with pytest.raises(BadPayload, match=f"more than {PLAIN_BYTES_MAX} bytes"):
        codec.decode(bomb, OWNER)


def test_without_a_library_zstd_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the start, not when a payload arrives."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)

    with pytest.raises(ImportError, match=r"pip install 'kompensate\[zstd\]'"):
        Zstd()


WITHOUT_EXTRAS = """
import sys
for name in ("cryptography", "fsspec", "pydantic", "zstandard"):
    sys.modules[name] = None
import kompensate.orchestrator.main, kompensate.orchestrator.client, kompensate.participants.main
from kompensate.schemas import avro, compression, formats
found = formats.payloads_of(formats.PayloadFormat([compression.Zlib()]), "shop", "order-1")
assert found.decode(found.encode(["x" * 1000]), list) == ["x" * 1000]
for module in ("encryption", "claim_check"):
    try:
        __import__(f"kompensate.schemas.{module}")
    except ImportError as error:
        print(error)
"""


@pytest.mark.slow
def test_nothing_but_the_codecs_needs_their_packages() -> None:
    """Worker, client and participant run without any; a codec whose package is not there says what to install."""
    done = subprocess.run([sys.executable, "-Ic", WITHOUT_EXTRAS], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "pip install 'kompensate[encryption]'" in done.stdout
    assert "pip install 'kompensate[claim-check]'" in done.stdout


def test_envelopes_within_envelopes_end() -> None:
    """More than any format writes are refused."""
    data = b"1"
    for _ in range(9):
        data = wrap("zlib", zlib.compress(data))

    with pytest.raises(BadPayload, match="expected at most 8 codecs, got more"):
        bound(Zlib()).decode(data, Any)


@given(st.binary(max_size=60))
def test_hostile_bytes_are_an_error(data: bytes) -> None:
    """Whatever comes behind an envelope's beginning is read, or is a BadPayload."""
    found = bound(Zlib(), Zstd(), AesGcm(KEYS, write="2026"), ClaimCheck("memory://blobs"))
    for start in (MAGIC, MAGIC + b"\4zlib", MAGIC + b"\4zstd", MAGIC + b"\7aes-gcm", MAGIC + b"\x0bclaim-check"):
        with pytest.raises(BadPayload):
            found.decode(start + data, Card)


# -- claim check


def test_a_large_payload_leaves_its_hash(tmp_path: Path) -> None:
    """The blob is written before anything is sent, named by its content; what travels is its hash and size."""
    found = bound(AesGcm(KEYS, write="2026"), ClaimCheck(f"file://{tmp_path}", above=1000))
    card = Card(SECRET, "x" * 2 * PAYLOAD_BYTES_MAX)

    small, large = found.encode(Card(SECRET)), found.encode(card)

    assert len(large) < 100
    assert found.decode(large, Card) == card
    assert found.decode(small, Card) == Card(SECRET)
    [blob] = blobs(tmp_path)
    assert blob.name in large.hex()
    assert SECRET.encode() not in blob.read_bytes()


def test_a_blob_is_written_once(tmp_path: Path) -> None:
    """Trying again, and every replay, finds it; one that a crash cut short is written anew."""
    found = bound(AesGcm(KEYS, write="2026"), ClaimCheck(f"file://{tmp_path}", above=10))
    data = found.encode(Card(SECRET))
    [blob] = blobs(tmp_path)
    written = blob.stat().st_mtime_ns

    assert found.encode(Card(SECRET)) == data
    assert blob.stat().st_mtime_ns == written
    blob.write_bytes(b"cut")
    assert found.encode(Card(SECRET)) == data
    assert found.decode(data, Card) == Card(SECRET)
    assert blobs(tmp_path) == [blob]


@pytest.mark.parametrize("content", [None, b"", b"other"])
def test_a_missing_blob_is_worth_waiting_for(tmp_path: Path, content: bytes | None) -> None:
    """Gone or damaged: the error names saga, place and hash, and nobody takes it for a bad message."""
    found = bound(ClaimCheck(f"file://{tmp_path}", above=10))
    data = found.encode(Card(SECRET))
    [blob] = blobs(tmp_path)
    blob.unlink()
    if content is not None:
        blob.write_bytes(content)

    with pytest.raises(PayloadUnavailable, match=f"saga 'order-1' at file://{tmp_path}: expected blob {blob.name}"):
        found.decode(data, Card)


def test_a_store_that_does_not_take_it(tmp_path: Path) -> None:
    """Then nothing is sent: the error is the store's."""
    (tmp_path / "file").write_text("in the way")
    found = bound(ClaimCheck(f"file://{tmp_path}/file", above=10))

    with pytest.raises(PayloadUnavailable, match=r"expected its \d+ bytes to be written, got NotADirectoryError"):
        found.encode(Card(SECRET))


# -- limits


@pytest.mark.parametrize("found", [PLAIN, bound(), bound(AesGcm(KEYS, write="2026"))])
def test_large_payloads_are_told_once_a_type(
    found: SagaPayloads, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 256 KB there is a line in the log, once; above 900 KB it is refused."""
    monkeypatch.setattr(payloads, "_warned", set())
    for _ in range(3):
        found.encode(Card("1", "x" * 256 * 1024))

    [line] = caplog.messages
    assert line.startswith("payload Card has 262")
    with pytest.raises(BadPayload, match=f"payload Card: expected at most {PAYLOAD_BYTES_MAX} bytes, got"):
        found.encode(Card("1", "x" * PAYLOAD_BYTES_MAX))


def test_what_compresses_below_the_limit_is_sent() -> None:
    """The limit is of what travels."""
    found = bound(Zlib())

    data = found.encode(Card("1", "x" * 2 * PAYLOAD_BYTES_MAX))
    assert len(data) < 10_000
    assert found.decode(data, Card).notes == "x" * 2 * PAYLOAD_BYTES_MAX
