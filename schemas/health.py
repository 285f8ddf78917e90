"""A small HTTP endpoint that says how a process stands: /live and /ready as JSON, /metrics as text; on loopback."""

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Protocol

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format ("Exposition formats")."""


class Health(Protocol):
    """A dataclass: `live` is whether the loop turns, `ready` whether the work is being done."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def live(self) -> bool: ...

    @property
    def ready(self) -> bool: ...


class HealthEndpoint:
    """Serves health on 127.0.0.1 until it is closed; /metrics only where there are some."""

    def __init__(self, port: int, health: Callable[[], Health], metrics: Callable[[], str] | None = None) -> None:
        """Port 0 is any free one, see `port`. Raises OSError where it is taken."""
        paths = ["/live", "/ready", *(["/metrics"] if metrics else [])]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if metrics is not None and self.path == "/metrics":
                    self._answer(200, METRICS_TYPE, metrics())
                    return
                found = health()
                good = {"/live": found.live, "/ready": found.ready}.get(self.path)
                status = 404 if good is None else 200 if good else 503
                self._answer(
                    status, "application/json", json.dumps({"paths": paths} if good is None else asdict(found))
                )

            def _answer(self, status: int, kind: str, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it)
                """Asked every few seconds: not worth a line."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise OSError(f"health: expected port {port} of 127.0.0.1 to be free, got: {error.strerror}") from error
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="kompensate-health", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
