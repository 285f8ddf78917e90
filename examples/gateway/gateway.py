"""A payment provider: real HTTP, a ledger file of its own, and every way of going wrong that providers know.

    python -m examples.gateway.gateway PORT LEDGER [WINDOW_SECONDS]

POST /charges with an `Idempotency-Key` charges once for each key that it remembers; GET /charges/KEY tells whether it
did. POST /script with a JSON list of words says what becomes of the requests to come, one word each:

    ok, slow         charges and answers, at once or after a second
    decline          402, nothing charged
    busy             503, nothing charged
    500-after        charges, and answers 500
    500-cached       answers 500 without charging, and so it does to this key for ever
    drop-after       charges, and closes the connection without a word
    timeout-after    charges, and does not answer
    reset            closes the connection before it charges
    garbage          charges, and answers what is no JSON
    endless          charges, and sends an answer that never ends
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HANG_SECONDS = 3600.0


class Ledger:
    """What was charged, each entry on the disk before anybody is answered."""

    def __init__(self, path: Path, window: float) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._window = window
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}
        self._failed: set[str] = set()

    def charge(self, key: str | None, cents: int) -> bool:
        """Charge, unless this key did within the window. True where money moved."""
        with self._lock:
            now = time.monotonic()
            if key is not None and now - self._seen.get(key, float("-inf")) <= self._window:
                return False
            if key is not None:
                self._seen[key] = now
            self._file.write(json.dumps({"key": key, "cents": cents}) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            return True

    def close(self) -> None:
        self._file.close()

    def fail(self, key: str | None) -> None:
        if key is not None:
            self._failed.add(key)

    def failed(self, key: str | None) -> bool:
        return key in self._failed

    def found(self, key: str) -> bool:
        """Whether a charge carries this key, however long ago: the books forget nothing."""
        with self._lock:
            return key in self._seen


def entries(path: Path) -> list[tuple[str | None, int]]:
    """Every charge in a ledger: its key and its cents."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(entry["key"], entry["cents"]) for entry in map(json.loads, lines)]


class Gateway(ThreadingHTTPServer):
    """The server; `requests` counts what it was asked to charge."""

    daemon_threads = True

    def __init__(self, port: int, ledger: Path, window: float = 86_400.0) -> None:
        super().__init__(("127.0.0.1", port), _Request)
        self.ledger = Ledger(ledger, window)
        self.script: list[str] = []
        self.requests = 0
        self.ends = threading.Event()

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def server_close(self) -> None:
        """Let go of port and ledger."""
        super().server_close()
        self.ledger.close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that went away is his own affair."""


class _Request(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/script":
            self.server.script = list(json.loads(body))
            self._answer(200, {})
            return
        self.server.requests += 1
        word = self.server.script.pop(0) if self.server.script else "ok"
        self._charge(word, self.headers.get("Idempotency-Key"), json.loads(body)["cents"])

    def do_GET(self) -> None:
        key = self.path.removeprefix("/charges/")
        if self.server.ledger.found(key):
            self._answer(200, {"charge": f"ch_{key}"})
        else:
            self._answer(404, {"error": "no such charge"})

    def _charge(self, word: str, key: str | None, cents: int) -> None:  # noqa: C901  # a case a way
        ledger = self.server.ledger
        if ledger.failed(key):
            self._answer(500, {"error": "as before"}, replayed=True)
            return
        match word:
            case "decline":
                self._answer(402, {"error": "card declined"})
            case "busy":
                self._answer(503, {"error": "later"})
            case "500-cached":
                ledger.fail(key)
                self._answer(500, {"error": "internal"})
            case "reset":
                self.close_connection = True
            case "500-after":
                ledger.charge(key, cents)
                self._answer(500, {"error": "internal"})
            case "drop-after":
                ledger.charge(key, cents)
                self.close_connection = True
            case "timeout-after":
                ledger.charge(key, cents)
                self.server.ends.wait(HANG_SECONDS)
            case "garbage":
                ledger.charge(key, cents)
                self._send(200, b"<html>it works</html>")
            case "endless":
                ledger.charge(key, cents)
                self._never_end()
            case _:
                replayed = not ledger.charge(key, cents)
                self.server.ends.wait(1.0 if word == "slow" else 0)
                self._answer(200, {"charge": f"ch_{key}"}, replayed=replayed)

    def _answer(self, status: int, body: dict[str, str], *, replayed: bool = False) -> None:
        self._send(status, json.dumps(body).encode(), replayed=replayed)

    def _send(self, status: int, body: bytes, *, replayed: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if replayed:
            self.send_header("Idempotent-Replayed", "true")
        self.end_headers()
        self.wfile.write(body)

    def _never_end(self) -> None:
        self.send_response(200)
        self.end_headers()
        while not self.server.ends.wait(0.05):
            self.wfile.write(b" ")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's name
        """Nothing: the ledger is what counts."""


if __name__ == "__main__":
    port, path, *window = sys.argv[1:]
    Gateway(int(port), Path(path), *map(float, window)).serve_forever()
