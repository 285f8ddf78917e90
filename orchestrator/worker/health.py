"""How a worker or an intake stands, and a small HTTP endpoint that says so: /live and /ready, as JSON, on loopback."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kompensate.orchestrator.errors import Fatal
from kompensate.orchestrator.worker.loop import Loop, Status

STALL_SECONDS = 60.0
"""A loop that has made no step for so long hangs: longer than a transaction and its repetitions may take."""


@dataclass(frozen=True, slots=True)
class Health:
    """`live`: the loop turns. `ready`: it has joined, restores nothing and has no stopped partition."""

    live: bool
    ready: bool
    running: tuple[int, ...]
    restoring: tuple[int, ...]
    stopped: dict[str, str]
    commits: int
    last_commit_seconds: float | None
    """Since the last commit; None before the first."""
    limits: dict[str, dict[str, int]] = field(default_factory=dict)
    """By limit how many commands are `out` under it, and how many are `queued`; children in a line of their own."""

    @classmethod
    def of(
        cls,
        loop: Loop | None,
        now: float,
        *,
        alive: bool,
        stopping: bool,
        limits: Mapping[str, tuple[int, int]] | None = None,
    ) -> "Health":
        status = loop.status if loop is not None else Status()
        turning = loop is None or now - loop.stepped_at < STALL_SECONDS
        return cls(
            live=alive and turning,
            ready=alive and turning and not stopping and status.joined and not (status.restoring or status.stopped),
            running=status.running,
            restoring=status.restoring,
            stopped={str(number): reason for number, reason in status.stopped},
            commits=loop.commits if loop is not None else 0,
            last_commit_seconds=round(now - loop.committed_at, 3) if loop is not None and loop.commits else None,
            limits={name: {"out": out, "queued": queued} for name, (out, queued) in (limits or {}).items()},
        )


@dataclass(frozen=True, slots=True)
class IntakeHealth:
    """`live`: the loop turns. `ready`: it has joined its group."""

    live: bool
    ready: bool
    handled: int
    """Source records committed since it began."""


class HealthServer:
    """Serves health on 127.0.0.1 until it is closed. Raises Fatal where the port is taken."""

    def __init__(self, port: int, health: Callable[[], Health | IntakeHealth]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = health()
                good = {"/live": found.live, "/ready": found.ready}.get(self.path)
                body = json.dumps(asdict(found) if good is not None else {"paths": ["/live", "/ready"]}).encode()
                self.send_response(404 if good is None else 200 if good else 503)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it)
                """Asked every few seconds: not worth a line."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise Fatal(f"health: expected port {port} of 127.0.0.1 to be free, got: {error.strerror}") from error
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="kompensate-health", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
