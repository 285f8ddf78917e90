"""Local steps in the caller's own thread: each has ended when `start` returns."""

import asyncio
from collections.abc import Callable
from typing import Any

from kompensate.orchestrator.local.steps import perform
from kompensate.orchestrator.ports import Job, Ran


class InlineSteps:
    """Runs jobs where they are started. Limits do not matter: one runs at a time."""

    def start(self, job: Job, answer: Callable[[Ran], None]) -> None:
        if job.wanted():
            answer(asyncio.run(perform(job, _at_once)))


async def _at_once(call: Callable[[], Any]) -> Any:
    return call()
