"""Asks the provider over HTTP, and says of every end what is known: it was done, it was not, or who can tell.

The address is the operator's and never a message's. Nothing is followed (redirects), nothing is waited for without an
end, and an answer may be 64 KiB: what a provider sends is input like any other. Over the internet it would be
`HTTPSConnection`, whose default context checks certificate and name.
"""

import json
import time
from http.client import HTTPConnection, HTTPResponse
from typing import Any

from kompensate.participants import Failed, Refused, Retry

ANSWER_BYTES_MAX = 64 * 1024


def charge(address: str, cents: int, key: str | None, seconds: float) -> str:
    """Charge under `key`; the charge's id. Raises Refused, Failed, Retry where nothing was charged, else anything."""
    headers = {"Content-Type": "application/json", **({} if key is None else {"Idempotency-Key": key})}
    status, replayed, body = _ask(address, "POST", "/charges", json.dumps({"cents": cents}), headers, seconds)
    match status:
        case 200:
            return str(json.loads(body)["charge"])
        case 402:
            raise Refused(str(json.loads(body)["error"]))
        case 503:
            raise Retry("the provider is busy")
        case 500 if replayed:
            # Its documentation: a failure is kept with its key, and no key that failed has charged.
            raise Failed("the provider answers this key with the failure that it has kept")
        case _:
            raise OSError(f"expected status 200, 402 or 503, got {status}")


def find(address: str, key: str, seconds: float) -> str:
    """The id of the charge that was made under `key`. Raises Failed where there is none, else anything."""
    status, _, body = _ask(address, "GET", f"/charges/{key}", None, {}, seconds)
    if status == 404:
        raise Failed("the provider knows no such charge")
    if status != 200:
        raise OSError(f"expected status 200 or 404, got {status}")
    return str(json.loads(body)["charge"])


def _ask(
    address: str, method: str, path: str, body: str | None, headers: dict[str, str], seconds: float
) -> tuple[int, bool, bytes]:
    until = time.monotonic() + seconds
    host, _, port = address.partition(":")
    connection = HTTPConnection(host, int(port), timeout=seconds)
    try:
        try:
            connection.connect()
        except OSError as error:
            raise Retry(f"no connection, so nothing was sent: {error}") from error
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.getheader("Idempotent-Replayed") == "true", _read(connection, response, until)
    finally:
        connection.close()


def _read(connection: HTTPConnection, response: HTTPResponse, until: float) -> bytes:
    """All of the answer, or an error: a socket's time-out alone would wait for ever for one that comes byte by byte."""
    found = bytearray()
    while len(found) <= ANSWER_BYTES_MAX:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("expected an end of the answer in time, got none")
        socket: Any = connection.sock
        if socket is not None:  # the last part is read, and http.client has let go of it
            socket.settimeout(left)
        part = response.read1(4096)
        if not part:
            return bytes(found)
        found += part
    raise OSError(f"expected an answer of at most {ANSWER_BYTES_MAX} bytes, got more")
