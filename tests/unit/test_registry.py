"""Schema ids that no file has, asked of a registry: a small one of the tests' own. Against Apicurio: integration."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import pytest

from kompensate.schemas.avro import AvroPayloads
from kompensate.schemas.payloads import BadPayload, PayloadUnavailable
from kompensate.schemas.registry import UNKNOWN_SECONDS, Registry, RegistryRefused
from tests.unit.test_avro_payloads import CHARGE, VALUE, Charge, without

NEWER: Any = {**CHARGE, "fields": [*CHARGE["fields"], {"name": "tip", "type": "long", "default": 0}]}


class Schemas:
    """A registry that gives what it has; `asked` is every path."""

    def __init__(self) -> None:
        self.by_id: dict[int, Any] = {}
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.authorizations: list[str | None] = []
        schemas = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                schemas.asked.append(self.path)
                schemas.authorizations.append(self.headers["authorization"])
                id_ = int(self.path.rpartition("/")[2])
                found = schemas.answers.get(self.path)
                if found is None and id_ in schemas.by_id:
                    found = json.dumps({"schema": json.dumps(schemas.by_id[id_])}).encode()
                self._answer(200 if found is not None else 404, found or b'{"error_code":40403,"message":"not found"}')

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self._answer(409, b'{"error_code":409,"message":"incompatible"}')

            def _answer(self, code: int, body: bytes) -> None:
                self.send_response(code)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Not into the test's output."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/api"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def schemas() -> Iterator[Schemas]:
    made = Schemas()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "Charge").mkdir()
    (tmp_path / "Charge" / "7.avsc").write_text(json.dumps(CHARGE))
    return tmp_path


def written(schema: Any, id_: int, **more: object) -> bytes:
    out = BytesIO(b"\0" + id_.to_bytes(4, "big"))
    out.seek(5)
    record = {"id": VALUE.id, "at": VALUE.at, "total": VALUE.total, "lines": [{"sku": "a", "count": 2}], **more}
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema, named_schemas={}), record)
    return out.getvalue()


def test_an_id_without_a_file_is_asked_for_once(schemas: Schemas, folder: Path) -> None:
    """A writer that is newer than its reader is read, by Avro's rules; what files have is never asked for."""
    schemas.by_id[12] = NEWER
    payloads = AvroPayloads(folder, [Charge], registry=Registry(schemas.url, authorization="Bearer x"))

    assert [payloads.decode(written(NEWER, 12, note=None, tip=5), Charge) for _ in range(3)] == [VALUE] * 3
    assert payloads.decode(written(CHARGE, 7, note=None), Charge) == VALUE
    assert schemas.asked == ["/api/schemas/ids/12"]
    assert schemas.authorizations == ["Bearer x"]


def test_a_registry_that_is_away_makes_the_payload_wait(folder: Path) -> None:
    """Not a bad payload: it is read when the registry is back."""
    gone = Schemas()
    gone.close()
    payloads = AvroPayloads(folder, [Charge], registry=Registry(gone.url))

    with pytest.raises(
        PayloadUnavailable, match=r"registry 127\.0\.0\.1: expected the Avro schema of id 12, got .*efused"
    ):
        payloads.decode(written(NEWER, 12, tip=5), Charge)


def test_an_id_that_is_not_there_is_not_asked_for_again_at_once(schemas: Schemas, folder: Path) -> None:
    """Messages may name any id; a registry that lags behind is asked again a little later."""
    now = [100.0]
    payloads = AvroPayloads(folder, [Charge], registry=Registry(schemas.url, clock=lambda: now[0]))
    for _ in range(3):
        with pytest.raises(PayloadUnavailable, match="404"):
            payloads.decode(written(NEWER, 12, tip=5), Charge)
    assert len(schemas.asked) == 1

    schemas.by_id[12] = NEWER
    now[0] += UNKNOWN_SECONDS

    assert payloads.decode(written(NEWER, 12, tip=5), Charge) == VALUE


HOSTILE = {
    "another type": ({"type": "record", "name": "Other", "fields": []}, "keep the name, or add it to aliases"),
    "a field gone": (without("total"), "total: is new, and has no default"),
    "a field of another type": (
        {**CHARGE, "fields": [*CHARGE["fields"][:4], {"name": "note", "type": "long"}]},
        "note: long is none of union",
    ),
    "itself within": (
        {"type": "record", "name": "Charge", "fields": [{"name": "x", "type": ["null", "Charge"]}]},
        "Charge is within itself",
    ),
    "items of no size": (
        {"type": "record", "name": "Charge", "fields": [{"name": "x", "type": {"type": "array", "items": "null"}}]},
        "its items have no size",
    ),
    "no record": ("string", "to be a record's, got another"),
    "no schema": ({"type": "reccord"}, "expected Avro as schema 12 of the registry"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_registry_gives_is_looked_at_like_a_file(schemas: Schemas, folder: Path, case: str) -> None:
    """A schema that does not read as the type, or with which a few bytes could fill the memory, is refused."""
    schema, complaint = HOSTILE[case]
    schemas.by_id[12] = schema
    payloads = AvroPayloads(folder, [Charge], registry=Registry(schemas.url))

    with pytest.raises(BadPayload, match=complaint) as found:
        payloads.decode(b"\0\0\0\0\x0c" + bytes(20), Charge)

    assert not isinstance(found.value, PayloadUnavailable)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"<html>", "Expecting value"),
        (b"[]", "list instead of an object"),
        (b"{}", "'schema'"),
        (b'{"schema": "{", "schemaType": "PROTOBUF"}', "one of type PROTOBUF"),
        (b'{"schema": 3}', "must be str"),
        (b'"' + b"x" * 1_100_000 + b'"', "more than 1048576 bytes"),
    ],
)
def test_answers_that_are_none_make_the_payload_wait(
    schemas: Schemas, folder: Path, answer: bytes, complaint: str
) -> None:
    """A proxy's page in between, another kind of schema, too much: the registry's trouble, not the message's."""
    schemas.answers["/api/schemas/ids/12"] = answer
    payloads = AvroPayloads(folder, [Charge], registry=Registry(schemas.url))

    with pytest.raises(PayloadUnavailable, match=complaint):
        payloads.decode(written(NEWER, 12, tip=5), Charge)


def test_a_refusal_says_what_the_registry_said(schemas: Schemas) -> None:
    with pytest.raises(RegistryRefused, match=r"409 .*incompatible"):
        Registry(schemas.url).register("Charge", CHARGE)


@pytest.mark.parametrize("url", ["registry:8080", "ftp://registry", "https://user:secret@registry", "http://"])
def test_a_registrys_address_is_one(url: str) -> None:
    """And has no password in it, which would be logged."""
    with pytest.raises(ValueError, match="expected https://HOST/… without a name in it") as found:
        Registry(url)
    assert "secret" not in str(found.value)
