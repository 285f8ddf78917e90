"""A service that knows nothing of Kafka as a participant: each command is one HTTP request, made as an outside call.

    mailer = HttpParticipant("mailer", "https://mail.internal", headers={"Authorization": "Bearer …"})
    mailer.route("Send", "POST /messages")
    mailer.route("Unsend", "DELETE /messages/{id}", timeout=3)

What an answer says of the request is HTTP's (RFC 9110, section 15); where it leaves open whether something was done,
the guards of outside calls decide (`participants/outside`). `ask` alone is for handlers of your own.
"""

import json
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

from kompensate.participants.outcome import Failed, OutsideCall, Refused, Retry
from kompensate.participants.participant import BadHandler, Participant

ANSWER_BYTES_MAX = 256 * 1024
REASON_CHARACTERS = 500
REFUSED = frozenset({402, 404, 410, 422})
"""Statuses by which the business says no; others from 400 to 499 say that the request is wrong, but for IN_DOUBT."""
IN_DOUBT = frozenset({408, 409, 425})
"""The server gave up waiting, or is at work on the same key (draft-ietf-httpapi-idempotency-key-header)."""
_ROUTE = re.compile(r"(POST|PUT|PATCH|DELETE) (/[^\s?#]*)")
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said; `headers` by their names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(
    method: str, url: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None, seconds: float
) -> Answer:
    """Make one request, within `seconds`. Raises Retry where it was not sent, OSError and others where nobody knows.

    It follows no redirect, checks certificate and name, and reads at most ANSWER_BYTES_MAX of an answer. A connection
    is used once: one that the server has closed meanwhile would leave open what became of the request.
    """
    until = time.monotonic() + seconds
    parts = urlsplit(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=seconds)
    try:
        try:
            connection.connect()
        except OSError as error:
            raise Retry(f"no connection to {parts.netloc}, so nothing was sent: {error}") from error
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path, body, {**(headers or {}), "Connection": "close"})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, _read(connection, response, until))
    finally:
        connection.close()


def _read(connection: HTTPConnection, response: HTTPResponse, until: float) -> bytes:
    """All of the answer. A socket's time-out alone would wait for ever for one that comes byte by byte."""
    found = bytearray()
    while len(found) <= ANSWER_BYTES_MAX:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("expected an end of the answer in time, got none")
        socket: Any = connection.sock
        if socket is not None:  # the last part is read, and http.client has let go of it
            socket.settimeout(left)
        part = response.read1(16 * 1024)
        if not part:
            return bytes(found)
        found += part
    raise OSError(f"expected an answer of at most {ANSWER_BYTES_MAX} bytes, got more")


class HttpParticipant(Participant):
    """A participant whose commands are requests to one server. Its payloads and results are JSON objects.

    `base` is the operator's and never a message's: http(s)://host[:port][/path]. `headers` go with every request.
    `refused` are the statuses that are a business's no, where the service means others than REFUSED. Raises ValueError.
    """

    def __init__(
        self, name: str, base: str, *, headers: Mapping[str, str] | None = None, refused: Collection[int] = REFUSED
    ) -> None:
        super().__init__(name)
        parts = urlsplit(base)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"participant {name}: expected a base of http(s)://host[:port][/path], got {base!r}")
        self._base = base.rstrip("/")
        self._headers = dict(headers or {})
        self._refused = frozenset(refused)

    def route(self, command: str, request: str, **guards: Any) -> None:
        """Have `command` made as `request`: POST, PUT, PATCH or DELETE and a path, whose {fields} are the payload's.

        The payload goes as JSON, but with DELETE; the command's id as Idempotency-Key, its trace as traceparent. A
        service that ignores that header knows no keys: give it `window=0`, and a call that may have arrived is not
        repeated. `guards` are those of `Participant.external`. Raises BadHandler, ValueError.
        """
        match = _ROUTE.fullmatch(request)
        if match is None:
            raise BadHandler(f"{self.name}.{command}: expected 'POST /path/{{field}}' or so, got {request!r}")
        self.external(command, **guards)(self._request(*match.groups()))

    def _request(self, method: str, path: str) -> Callable[..., dict[str, Any]]:
        def request(command: dict[str, Any], call: OutsideCall) -> dict[str, Any]:
            url = self._base + _FIELD.sub(lambda field: _segment(command, field[1]), path)
            headers = {"Accept": "application/json", "Idempotency-Key": call.id, **self._headers}
            if call.trace.parent is not None:
                headers["traceparent"] = call.trace.parent
            body = None
            if method != "DELETE":
                headers["Content-Type"] = "application/json"
                body = json.dumps(command).encode()
            answer = ask(method, url, body=body, headers=headers, seconds=call.timeout)
            if method == "DELETE" and answer.status in (404, 410):
                return {}  # it is gone, by this call, one before, or somebody else
            return _result(answer, self._refused)

        request.__qualname__ = f"{method} {path}"
        return request


def _segment(command: Mapping[str, Any], field: str) -> str:
    """A field as one part of the path. Raises Failed for one that is not there, or would lead elsewhere."""
    value = command.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int) or str(value) in ("", ".", ".."):
        raise Failed(f"payload: expected a text or a number as {field}, which is part of the path, got {value!r}")
    return quote(str(value), safe="")


def _result(answer: Answer, refused: Collection[int]) -> dict[str, Any]:
    """What the service gave. Raises Refused, Failed and Retry where nothing was done, OSError where nobody knows."""
    status = answer.status
    if 200 <= status < 300:
        return _object(answer)
    text = f"status {status}: {answer.body.decode(errors='replace')[:REASON_CHARACTERS]}"
    if status == 429:
        raise Retry(text)
    if status in refused:
        raise Refused(text, status=status)
    if 400 <= status < 500 and status not in IN_DOUBT:
        raise Failed(text)
    raise OSError(f"expected a status that says what became of the request, got {text}")


def _object(answer: Answer) -> dict[str, Any]:
    """The body; nothing is an empty object. It was done, whatever the body looks like."""
    if not answer.body:
        return {}
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {"body": answer.body.decode(errors="replace")}
    return found if isinstance(found, dict) else {"body": found}
