"""What the HTTP fronts of the examples share: a client that does not block the event loop, and errors as statuses.

A front listens on 127.0.0.1:$PORT and finds Kafka where the `kompensate` command does, in $KOMPENSATE_BOOTSTRAP.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kompensate.orchestrator import Application
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.client_errors import ClientError, NotFound
from kompensate.orchestrator.reading.outcomes import Outcome
from kompensate.orchestrator.reading.status import SagaView
from kompensate.schemas import payloads


class Sagas:
    """The verbs of `Client` that a front needs, awaited."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._reading = threading.Lock()  # a client's reader serves one thread at a time

    async def start(self, saga: str, input: object, *, saga_id: str) -> None:  # noqa: A002  # as in Client
        """Returns when Kafka has it. The same again is harmless."""
        await run_in_threadpool(self._client.start, saga, input, saga_id=saga_id)

    async def signal(self, saga_id: str, name: str, payload: object, *, signal_id: str) -> Outcome:
        """What became of it: `accepted` is false where the saga has ended. The same again is harmless."""
        return await run_in_threadpool(self._signal, saga_id, name, payload, signal_id)

    def _signal(self, saga_id: str, name: str, payload: object, signal_id: str) -> Outcome:
        sent = self._client.signal(saga_id, name, payload, signal_id=signal_id)
        with self._reading:
            return self._client.outcome(sent)

    async def view(self, saga_id: str) -> SagaView:
        """Where it stands. Raises NotFound."""
        return await run_in_threadpool(self._view, saga_id)

    def _view(self, saga_id: str) -> SagaView:
        with self._reading:
            return self._client.lookup.view(saga_id)


async def body(request: Request, kind: type[Any]) -> Any:
    """The request's JSON as that type. Raises BadPayload, which is answered with 400."""
    return payloads.decode(await request.body(), kind)


def serve(application: Application, routes: Callable[[Sagas], list[Route]]) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    bootstrap, prefix = os.environ["KOMPENSATE_BOOTSTRAP"], os.environ.get("KOMPENSATE_PREFIX", "")
    with Client(bootstrap, application.name, prefix=prefix) as client:
        errors: dict[Any, Any] = {payloads.BadPayload: _says(400), NotFound: _says(404), ClientError: _says(503)}
        web = Starlette(routes=routes(Sagas(client)), exception_handlers=errors)
        uvicorn.run(web, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")


def _says(status: int) -> Callable[[Request, Exception], Response]:
    def answer(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status)

    return answer
