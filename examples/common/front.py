"""What the HTTP fronts of the examples share: a client that lives as long as the front, and errors as statuses.

A front listens on 127.0.0.1:$PORT and finds Kafka where the `kompensate` command does, in $KOMPENSATE_BOOTSTRAP.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kompensate.orchestrator import Application
from kompensate.orchestrator.async_client import AsyncClient
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.client_errors import ClientError, NotFound
from kompensate.orchestrator.reading.status import SagaView
from kompensate.schemas import payloads


class Sagas(AsyncClient):
    """The client, and where a saga stands."""

    def __init__(self, bootstrap: str, app: str, *, prefix: str = "") -> None:
        super().__init__(bootstrap, app, prefix=prefix)
        self._reader = Client(bootstrap, app, prefix=prefix)
        self._reading = threading.Lock()  # a client's reader serves one thread at a time

    async def view(self, saga_id: str) -> SagaView:
        """Its status, and what it publishes. Raises NotFound."""
        return await asyncio.to_thread(self._view, saga_id)

    def _view(self, saga_id: str) -> SagaView:
        with self._reading:
            return self._reader.lookup.view(saga_id)

    async def aclose(self) -> None:
        await super().aclose()
        await asyncio.to_thread(self._reader.close)


async def body(request: Request, kind: type[Any]) -> Any:
    """The request's JSON as that type. Raises BadPayload, a ValueError: answered with 400."""
    return payloads.decode(await request.body(), kind)


def serve(application: Application, routes: Callable[[Sagas], list[Route]]) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    prefix = os.environ.get("KOMPENSATE_PREFIX", "")
    sagas = Sagas(os.environ["KOMPENSATE_BOOTSTRAP"], application.name, prefix=prefix)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with sagas:
            yield

    errors: dict[Any, Any] = {ValueError: _says(400), NotFound: _says(404), ClientError: _says(503)}
    web = Starlette(routes=routes(sagas), exception_handlers=errors, lifespan=lifespan)
    uvicorn.run(web, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")


def _says(status: int) -> Callable[[Request, Exception], Response]:
    def answer(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status)

    return answer
