"""Local steps in the caller's own thread: each has ended when `start` returns."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from kompensate.orchestrator.local.steps import perform
from kompensate.orchestrator.ports import Job, Ran
from kompensate.orchestrator.worker.aside import aside


class InlineSteps:
    """Runs jobs where they are started. Limits do not matter: one runs at a time."""

    def start(self, job: Job, answer: Callable[[Ran], None]) -> None:
        if job.wanted():
            answer(_awaited(perform(job, _at_once)))


def _awaited(steps: Coroutine[Any, Any, Ran]) -> Ran:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(steps)
    # The test is a coroutine itself, and a thread has one loop at a time.
    return aside(partial(asyncio.run, steps)).result()


async def _at_once(call: Callable[[], Any]) -> Any:
    return call()
