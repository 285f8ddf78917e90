"""Golden files: bytes once written stay readable for ever, and are still what is written today.

`golden/*.json` hold one record or message each: its bytes, and what they read as. A released file is never
changed or removed. A new kind gets its file by `python -m tests.wire.test_golden`, which writes those that are
missing and touches no other; a changed format gets a sample of a new name, and the old file stays.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kompensate.orchestrator.definitions.plan import Plan
from kompensate.orchestrator.kernel.events import EVENTS
from kompensate.orchestrator.sagas.journal import read_page, read_watermark
from kompensate.schemas import codec
from kompensate.schemas.messages import Command, Reply, Request
from tests.fixtures import samples

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*.json"))
MESSAGES: dict[str, type[Command] | type[Reply] | type[Request]] = {
    "command": Command,
    "reply": Reply,
    "request": Request,
}


def _plain(value: Any) -> Any:
    """As JSON has it: bytes in hexadecimal, tuples as lists."""
    return json.loads(
        json.dumps(value, default=lambda found: found.hex() if isinstance(found, bytes) else asdict(found))
    )


def _read_record(value: bytes) -> Any:
    match codec.schema_id(value):
        case codec.PAGE:
            page = read_page(value)
            events = [[r.sequence, type(r.event).__name__, asdict(r.event), r.origin._asdict()] for r in page.events]
            return {**page._asdict(), "events": events}
        case codec.WATERMARK:
            return read_watermark(value)._asdict()
        case codec.PLAN:
            plan: bytes = codec.decode(value, codec.PLAN)["plan"]
            return json.loads(Plan.decode(plan, Plan.hash_of(plan)).encode())
        case codec.SUMMARY:
            return codec.decode(value, codec.SUMMARY)
    raise AssertionError("every schema has its case")


def _read(name: str, file: dict[str, Any]) -> Any:
    if "value" in file:
        return _plain(_read_record(bytes.fromhex(file["value"])))
    headers = [(header, None if text is None else text.encode()) for header, text in file["headers"]]
    payload = None if file["payload"] is None else bytes.fromhex(file["payload"])
    return _plain(MESSAGES[name.partition("_")[0]].parse(headers, payload))


def made_today() -> dict[str, dict[str, Any]]:
    """What today's code writes for each sample, without what it reads as."""
    found: dict[str, dict[str, Any]] = {name: {"value": value.hex()} for name, value in samples.records().items()}
    for name, message in samples.messages().items():
        headers = [[header, None if value is None else value.decode()] for header, value in message.headers()]
        found[name] = {"headers": headers, "payload": None if message.payload is None else message.payload.hex()}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_golden_files_read_as_they_did(path: Path) -> None:
    """Every later version reads them, and reads the same."""
    file = json.loads(path.read_text())

    found = _read(path.stem, file)
    newer = found.keys() - file["reads"].keys() if "headers" in file else set()
    assert {name: value for name, value in found.items() if name not in newer} == file["reads"]
    assert all(found[name] is None for name in newer), "a field that the message was written without"


@pytest.mark.parametrize("name", made_today())
def test_what_is_written_is_what_was_written(name: str) -> None:
    """Byte for byte, header for header. If it has to change: a new sample with a new name."""
    path = GOLDEN / f"{name}.json"
    assert path.exists(), f"no golden file for {name!r}: run `python -m tests.wire.test_golden`"
    file = json.loads(path.read_text())

    assert {key: value for key, value in file.items() if key != "reads"} == made_today()[name]


def test_every_kind_has_a_sample() -> None:
    """Every event, schema and type of message is in some file."""
    text = "".join(path.read_text() for path in FILES)

    later = (*samples.LATER_EVENTS, *samples.CONTINUED_EVENTS, *samples.ATTRIBUTES_EVENTS, *samples.LIMITED_EVENTS)
    sampled = (*samples.EVENTS, *later, *samples.FORKED_EVENTS, *samples.KEYED_EVENTS)
    assert {type(event) for event in sampled} == set(EVENTS)
    assert {codec.schema_id(value) for value in samples.records().values()} == set(codec.FILES)
    assert all(f'"{kind.__name__}"' in text for kind in EVENTS)


def write_missing() -> list[str]:
    """Write the golden files that do not exist; which they were."""
    written = []
    for name, file in made_today().items():
        path = GOLDEN / f"{name}.json"
        if not path.exists():
            whole = {**file, "reads": _read(name, file)}
            path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            written.append(path.name)
    return written


if __name__ == "__main__":
    print("\n".join(write_missing()) or "nothing was missing")
