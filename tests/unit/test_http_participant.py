"""A plain HTTP service as a participant: what each answer comes to, and what its guards make of a lost one."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from kompensate.participants import Failed, Refused, Retry
from kompensate.participants.database import connect
from kompensate.participants.http import ANSWER_BYTES_MAX, HttpParticipant, ask
from kompensate.participants.participant import BadHandler
from kompensate.schemas.messages import Command, Trace
from tests.fixtures.outside import Process, Stage, charge


@dataclass
class Mail:
    """A server that answers as its script says, then with 200; and what it was asked."""

    base: str = ""
    script: list[tuple[int, bytes] | str] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def mail() -> Iterator[Mail]:
    told = Mail()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            told.asked.append((self.command, self.path, headers, body))
            what = told.script.pop(0) if told.script else (200, b'{"number": 7}')
            if what == "hangs up":
                self.close_connection = True
                return
            assert isinstance(what, tuple)
            self.send_response(what[0])
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(what[1])

        do_POST = do_DELETE = do_GET = answer  # noqa: N815  # http.server's names

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        told.base = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield told
        server.shutdown()
        thread.join()


def mailer(base: str, **guards: Any) -> HttpParticipant:
    service = HttpParticipant("mailer", base, headers={"Authorization": "Bearer secret"})
    service.route("Send", "POST /messages", **guards)
    service.route("Unsend", "DELETE /messages/{number}", **guards)
    return service


def command(payload: object, kind: str = "Send", command_id: str = "c1") -> Command:
    trace = Trace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None)
    return replace(charge(command_id), type=f"mailer.{kind}", payload=json.dumps(payload).encode(), trace=trace)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    engine = connect(f"sqlite:///{tmp_path}/mailer.db", "mailer")
    yield Stage(engine)
    engine.dispose()


def handled(stage: Stage, process: Process, command_id: str = "c1") -> tuple[str, Any]:
    process.until(lambda: command_id in stage.replies())
    return stage.replies()[command_id][0], stage.payload(command_id)


def test_a_command_is_a_request_under_its_id(mail: Mail, stage: Stage) -> None:
    process = Process(mailer(mail.base), stage.engine, stage.clock)

    process.send(command({"to": "ann"}))

    assert handled(stage, process) == ("done", {"number": 7})
    [(method, path, headers, body)] = mail.asked
    assert (method, path, json.loads(body)) == ("POST", "/messages", {"to": "ann"})
    assert headers["idempotency-key"] == "c1"
    assert headers["traceparent"] == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert headers["authorization"] == "Bearer secret"


def test_a_lost_answer_is_asked_for_again_under_the_same_id(mail: Mail, stage: Stage) -> None:
    mail.script = ["hangs up", (500, b"oops"), (429, b"slowly")]
    process = Process(mailer(mail.base), stage.engine, stage.clock)

    process.send(command({"to": "ann"}))

    assert handled(stage, process) == ("done", {"number": 7})
    assert [headers["idempotency-key"] for _, _, headers, _ in mail.asked] == ["c1"] * 4


def test_what_may_have_arrived_is_not_repeated_where_keys_are_unknown(mail: Mail, stage: Stage) -> None:
    mail.script = ["hangs up"]
    process = Process(mailer(mail.base, window=0), stage.engine, stage.clock)

    process.send(command({"to": "ann"}))
    process.until(lambda: process.grave.letters)

    assert len(mail.asked) == 1
    assert stage.replies() == {}, "nobody knows, so nothing is said"


@pytest.mark.parametrize(
    ("status", "error"),
    [(402, Refused), (404, Refused), (422, Refused), (429, Retry), (400, Failed), (401, Failed), (403, Failed)]
    + [(status, OSError) for status in (301, 304, 408, 409, 425, 500, 502, 503)],
)
def test_what_a_status_says(mail: Mail, stage: Stage, status: int, error: type[Exception]) -> None:
    """Refused, Failed and Retry: nothing was done. Anything else: nobody knows; a redirect is not followed."""
    mail.script = [(status, b"because")] * 50
    process = Process(mailer(mail.base, window=0), stage.engine, stage.clock)

    process.send(command({"to": "ann"}))
    if error is OSError:
        process.until(lambda: process.grave.letters)
        assert (len(mail.asked), stage.replies()) == (1, {})
    else:
        outcome, payload = handled(stage, process)
        assert outcome == ("refused" if error is Refused else "failed")
        assert "because" in payload["reason"]
        assert (len(mail.asked) > 1) == (error is Retry)


def test_fields_of_the_path(mail: Mail, stage: Stage) -> None:
    """They are quoted, and none leads elsewhere. What is gone already is deleted."""
    mail.script = [(204, b""), (404, b"")]
    process = Process(mailer(mail.base), stage.engine, stage.clock)

    process.send(
        command({"number": "7/../8?x"}, "Unsend", "odd"),
        command({"number": 7}, "Unsend", "gone"),
        *(command({"number": bad}, "Unsend", f"bad{n}") for n, bad in enumerate(("..", "", None, True, [1]))),
    )
    process.until(lambda: len(stage.replies()) == 7)

    assert [path for _, path, _, _ in mail.asked] == ["/messages/7%2F..%2F8%3Fx", "/messages/7"]
    outcomes = {command_id: outcome for command_id, [outcome] in stage.replies().items()}
    assert outcomes == {"odd": "done", "gone": "done", **{f"bad{n}": "failed" for n in range(5)}}
    assert "expected a text or a number as number" in stage.payload("bad0")["reason"]


def test_an_answer_that_has_no_end(mail: Mail) -> None:
    mail.script = [(200, b"x" * (ANSWER_BYTES_MAX + 1))]
    with pytest.raises(OSError, match="at most 262144 bytes"):
        ask("GET", f"{mail.base}/", seconds=30)


def test_a_server_that_is_not_there() -> None:
    """Nothing was sent: so much is certain."""
    with pytest.raises(Retry, match="nothing was sent"):
        ask("GET", "http://127.0.0.1:1/", seconds=30)


@pytest.mark.parametrize("request_", ["GET /x", "POST x", "POST /x?y=1", "POST", "POST http://other/x"])
def test_a_route_that_is_none(request_: str) -> None:
    with pytest.raises(BadHandler, match=r"mailer\.Send: expected 'POST /path"):
        HttpParticipant("mailer", "http://mail").route("Send", request_)


@pytest.mark.parametrize("base", ["mail", "ftp://mail", "http://", "http://mail?x=1"])
def test_a_base_that_is_none(base: str) -> None:
    with pytest.raises(ValueError, match="participant mailer: expected a base"):
        HttpParticipant("mailer", base)
