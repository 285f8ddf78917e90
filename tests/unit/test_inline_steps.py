"""Local steps in the caller's own thread: an event loop is made only for those that need one."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kompensate.orchestrator.kernel.operation import Work
from kompensate.orchestrator.ports import Job, Ran
from kompensate.orchestrator.testing import InlineSteps
from kompensate.schemas.payloads import encode


def plain() -> str:
    return "done"


async def waiting() -> str:
    await asyncio.sleep(0)
    return "done"


def begun() -> Any:
    return waiting()


def run(function: Callable[..., Any]) -> Ran:
    found: list[Ran] = []
    job = Job("saga-1", "step-1", Work(function, ()), False, encode, lambda: True, False)
    InlineSteps().start(job, found.append)
    [ran] = found
    return ran


@pytest.mark.parametrize("function", [plain, waiting, begun])
def test_any_function_ends_before_start_returns(function: Callable[..., Any]) -> None:
    """Plain, `async def`, and plain ones that return what is to be awaited."""
    ran = run(function)

    assert (ran.outcome, ran.payload) == ("done", b'"done"')


def test_a_plain_function_runs_where_a_loop_runs_already() -> None:
    """As in an `async def` test."""

    async def main() -> Ran:
        return run(plain)

    assert asyncio.run(main()).outcome == "done"
