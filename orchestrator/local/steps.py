"""Local steps: runs the functions that sagas ask for, outside the loop's thread, under named limits.

One thread runs an asyncio loop: `async def` functions run on it, others on a thread of their own each, at most
`threads` at a time. What becomes of a job is told by calling `answer` from whatever thread it ended on. Nothing here
is waited for when the process ends: what was not answered is begun again by whoever takes the saga over.
"""

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial
from heapq import heappop, heappush
from itertools import count
from json import dumps
from typing import Any

from kompensate.orchestrator.definitions.application import Limit
from kompensate.orchestrator.kernel.errors import NotDone, Refuse
from kompensate.orchestrator.ports import Job, Ran
from kompensate.orchestrator.worker.aside import aside

logger = logging.getLogger(__name__)

KEY = "idempotency_key"
REASON_CHARS_MAX = 2_000
Answer = Callable[[Ran], None]


class Steps:
    """Runs jobs. `limits` are the application's; `threads` bounds all functions that are not `async def`."""

    def __init__(self, limits: Mapping[str, Limit], threads: int) -> None:
        self._limits = limits
        self._threads = threads
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gates: dict[str, _Gate] = {}
        self._free = asyncio.Semaphore(threads)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, job: Job, answer: Answer) -> None:
        """Run it as soon as its limit allows; `answer` hears of its end. Returns at once."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="kompensate-steps", daemon=True).start()
        self._loop.call_soon_threadsafe(self._begin, job, answer)

    def _begin(self, job: Job, answer: Answer) -> None:
        assert self._loop is not None
        task = self._loop.create_task(self._run(job, answer))
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    async def _run(self, job: Job, answer: Answer) -> None:
        gate = self._gates.get(job.work.limit)
        if gate is None:
            gate = self._gates[job.work.limit] = _Gate(self._limits.get(job.work.limit, Limit()))
        await gate.enter(job.work.priority)
        try:
            if job.wanted():
                answer(await perform(job, self._result_of))
        finally:
            gate.leave()

    async def _result_of(self, function: Callable[[], Any]) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function()
        async with self._free:
            return await asyncio.wrap_future(aside(function))


async def perform(job: Job, result_of: Callable[[Callable[[], Any]], Awaitable[Any]]) -> Ran:
    """Run one job; `result_of` runs a function, `async def` or not. Never raises: how it ended is the answer."""
    try:
        value = await _call(job, result_of)
    except Refuse as error:
        return Ran(job.saga_id, job.id, "refused", _said(error.reason, error.detail or None))
    except NotDone as error:
        outcome = "not_done" if job.reconciling else "failed"
        return Ran(job.saga_id, job.id, outcome, _said(f"NotDone: {error}"))
    except (Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt) as error:
        # Whatever the author's code raises is this step's outcome and nobody else's.
        logger.info("local step %s of saga %s: %r", job.work.function, job.saga_id, error, exc_info=error)
        outcome = "unknown" if job.reconciling else "failed"
        return Ran(job.saga_id, job.id, outcome, _said(f"{type(error).__name__}: {error}"))
    try:
        return Ran(job.saga_id, job.id, "done", job.encode(value))
    except (TypeError, ValueError) as error:
        return Ran(job.saga_id, job.id, "unknown", _said(f"expected a result that can be encoded, got: {error}"))


async def _call(job: Job, result_of: Callable[[Callable[[], Any]], Awaitable[Any]]) -> Any:
    function = job.work.function
    key = {KEY: job.id} if takes_key(function) else {}
    value = await result_of(partial(function, *job.work.args, **key))
    return await value if inspect.isawaitable(value) else value


@lru_cache(maxsize=256)
def takes_key(function: Callable[..., Any]) -> bool:
    """Does it want the idempotency key?"""
    try:
        return KEY in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False  # some built-in functions do not tell


def _said(reason: str, detail: object = None) -> bytes:
    """An error's payload, cut to what a person reads."""
    return dumps({"reason": reason[:REASON_CHARS_MAX], "detail": detail}, default=str).encode()


class _Gate:
    """Lets as many through as a Limit says; of those who wait the highest priority goes first, then who came first."""

    def __init__(self, limit: Limit) -> None:
        self._limit = limit
        self._in = 0
        self._next = 0.0
        self._came = count()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, priority: int) -> None:
        goes: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (-priority, next(self._came), goes))
        self._let_in()
        await goes

    def leave(self) -> None:
        self._in -= 1
        self._let_in()

    def _let_in(self) -> None:
        """Let in whom there is room for now; come back when the next may begin."""
        loop, limit = asyncio.get_running_loop(), self._limit
        while self._waiting and (limit.concurrent is None or self._in < limit.concurrent):
            if limit.per_second is not None:
                now = loop.time()
                if now < self._next:
                    if self._timer is None:
                        self._timer = loop.call_at(self._next, self._again)
                    return
                self._next = max(now, self._next) + 1 / limit.per_second
            self._in += 1
            heappop(self._waiting)[2].set_result(None)

    def _again(self) -> None:
        self._timer = None
        self._let_in()
