"""Awaiting several operations at once.

Each of these looks at what has settled, in the order of its arguments, and waits for whichever settles next: the
recorded order of the outcomes decides, so a replay comes to the same answer. What is not waited for any more goes
on: a call is still answered, and undone should the saga turn back; a sleep ends unheard; a receive takes the next
signal of its name. Where `lose` is given it is called with each of them instead.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, TypeVar

from kompensate.orchestrator.kernel.errors import SagaError
from kompensate.orchestrator.kernel.operation import Operation

T = TypeVar("T")
Lose = Callable[[Operation], object] | None


class _Next:
    """Await it to go on once any of these operations has settled."""

    __slots__ = ("_operations",)

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = tuple(operations)

    def __await__(self) -> Generator[tuple[Operation, ...], None, None]:
        yield self._operations


async def gather(operations: Sequence[Operation], tolerate: int, lose: Lose = None) -> list[Any]:
    """All results in order; up to `tolerate` failures stand among them as exceptions, one more is raised at once."""
    _check("gather", operations)
    if tolerate < 0:
        raise ValueError(f"gather: expected to tolerate 0 failures or more, got {tolerate}")
    while True:
        failures = [operation.error for operation in operations if operation.error is not None]
        waiting = [operation for operation in operations if not operation.settled]
        if len(failures) > tolerate:
            _lose(waiting, lose)
            raise failures[0]
        if not waiting:
            return [operation.error or await operation for operation in operations]
        await _Next(waiting)


async def at_least(count: int, operations: Sequence[Operation], lose: Lose = None) -> list[Any]:
    """The results of the first `count` to succeed, in the order in which they did; the failure too many is raised."""
    _check("at_least", operations)
    if not 1 <= count <= len(operations):
        raise ValueError(f"at_least: expected a count from 1 to {len(operations)}, the operations given, got {count}")
    waiting, results = list(operations), []
    while True:
        for operation in [each for each in waiting if each.settled]:
            waiting.remove(operation)
            if operation.error is None:
                results.append(await operation)
            elif len(results) + len(waiting) < count:
                _lose(waiting, lose)
                raise operation.error
            if len(results) == count:
                _lose(waiting, lose)
                return results
        await _Next(waiting)


async def select(operations: Mapping[str, Operation], lose: Lose = None) -> tuple[str, Any]:
    """Name and result of the first to settle; raises its error if it failed."""
    _check("select", list(operations.values()))
    if not operations:
        raise ValueError("select: expected at least one operation, got none")
    while True:
        for name, operation in operations.items():
            if operation.settled:
                _lose([each for each in operations.values() if each is not operation], lose)
                return name, await operation
        await _Next(list(operations.values()))


async def block(
    begin: Callable[[], tuple[Callable[[], Operation], Callable[[float], Operation]]],
    body: Callable[..., Awaitable[T]],
    args: Sequence[Any],
    attempts: int,
    wait: float,
) -> T:
    """The body's result. An attempt at it that does not succeed is undone; the last one's error is raised."""
    for attempt in range(attempts):
        undo, sleep = begin()
        try:
            return await body(*args)
        except SagaError:
            await undo()
            if attempt + 1 == attempts:
                raise
        if wait:
            await sleep(wait * 2**attempt)
    raise AssertionError  # there is at least one attempt, and it returns or raises


def _lose(operations: Sequence[Operation], lose: Lose) -> None:
    for operation in operations if lose else ():
        assert lose is not None
        lose(operation)


def _check(verb: str, operations: Sequence[object]) -> None:
    for operation in operations:
        if not isinstance(operation, Operation):
            raise TypeError(
                f"{verb}: expected what ctx.call, ctx.run, ctx.child, ctx.sleep and ctx.receive return, "
                f"got {type(operation).__name__}"
            )
