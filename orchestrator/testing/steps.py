"""Local steps in the caller's own thread: each has ended when `start` returns."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, TypeVar, cast

from kompensate.orchestrator.local.steps import perform
from kompensate.orchestrator.ports import Job, Ran
from kompensate.orchestrator.worker.aside import aside

T = TypeVar("T")


class InlineSteps:
    """Runs jobs where they are started. Limits do not matter: one runs at a time."""

    def start(self, job: Job, answer: Callable[[Ran], None]) -> None:
        if not job.wanted():
            return
        answer(_without_loop(perform(job, _at_once)))


def _awaited(steps: Coroutine[Any, Any, T]) -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(steps)
    # The test is a coroutine itself, and a thread has one loop at a time.
    return aside(partial(asyncio.run, steps)).result()


def _without_loop(steps: Coroutine[Any, Any, Ran]) -> Ran:
    """`_at_once` waits for nothing, so no event loop is needed here, which takes longer to make than most steps."""
    try:
        steps.send(None)
    except StopIteration as done:
        return cast(Ran, done.value)
    raise AssertionError("something was waited for outside of the step's own event loop")


async def _at_once(function: Callable[[], Any]) -> Any:
    value = function()
    return _awaited(_result(value)) if inspect.isawaitable(value) else value


async def _result(value: Awaitable[T]) -> T:
    return await value
