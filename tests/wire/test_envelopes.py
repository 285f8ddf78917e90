"""Golden payloads: what codecs once wrote stays readable for ever, and is still what is written today.

`golden/payloads/*.json` are never changed or removed; `python -m tests.wire.test_envelopes` writes missing ones.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from kompensate.schemas.avro import AvroPayloads
from kompensate.schemas.claim_check import ClaimCheck
from kompensate.schemas.compression import Zlib, Zstd
from kompensate.schemas.encryption import AesGcm
from kompensate.schemas.formats import PayloadFormat as Format
from kompensate.schemas.formats import SagaPayloads, payloads_of

GOLDEN = Path(__file__).parent / "golden" / "payloads"
FILES = sorted(GOLDEN.glob("*.json"))


@dataclass
class Note:
    """The value in all of them."""

    id: int
    text: str


NOTE = Note(7, "Zürich " * 60)
AVRO = AvroPayloads(GOLDEN / "schemas", [Note])
AES = AesGcm({"2025": bytes(range(32)), "2026": bytes(range(32, 64))}, write="2026")
CLAIM = ClaimCheck("memory://golden", above=100)
FORMATS = {
    "json": Format(),
    "avro": Format(avro=AVRO),
    "zlib": Format([Zlib()]),
    "zstd": Format([Zstd()]),
    "encrypted": Format([AES]),
    "claimed": Format([CLAIM]),
    "encrypted_claimed": Format([AES, CLAIM]),
    "compressed_encrypted_avro": Format([Zlib(), AES], avro=AVRO),
}
MADE_BY_LIBRARIES = ("zlib", "zstd", "compressed_encrypted_avro")
"""Another version of zlib or zstd may compress otherwise: these are only read."""


def bound(name: str) -> SagaPayloads:
    return payloads_of(FORMATS[name], "shop", "order-1")


def test_every_format_has_its_file() -> None:
    assert {path.stem for path in FILES} == set(FORMATS), "run `python -m tests.wire.test_envelopes`"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_golden_payloads_read_as_they_did(path: Path) -> None:
    """Every later version reads them."""
    found = bound(path.stem)
    found.encode(NOTE)  # the blobs are in memory: put there what the claim checks refer to

    value = bytes.fromhex(json.loads(path.read_text())["value"])
    assert found.decode(value, Note) == NOTE
    assert json.loads(found.shown(value)) == {"id": NOTE.id, "text": NOTE.text}


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - set(MADE_BY_LIBRARIES)))
def test_what_is_written_is_what_was_written(name: str) -> None:
    """Byte for byte: encryption and claim checks too, for a replayed saga writes the same."""
    file = json.loads((GOLDEN / f"{name}.json").read_text())

    assert bound(name).encode(NOTE).hex() == file["value"]


if __name__ == "__main__":
    for missing in FORMATS.keys() - {path.stem for path in FILES}:
        made = bound(missing).encode(NOTE)
        (GOLDEN / f"{missing}.json").write_text(json.dumps({"value": made.hex()}, indent=1) + "\n")
        print(f"{missing}.json")
