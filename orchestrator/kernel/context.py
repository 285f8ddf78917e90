"""What a saga's author awaits: calls, local steps, children, sleeps, signals.

Each verb makes an `Operation` at once, in the order of the program's lines, and the operation may be
awaited then or later. The context knows nothing of Kafka or time: the kernel reads what was asked for
(`kompensate.orchestrator.kernel.numbering`) and settles the operations as their outcomes arrive.
"""

from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any, NoReturn, TypeVar

from kompensate.orchestrator.kernel import combining
from kompensate.orchestrator.kernel.arguments import ms_of
from kompensate.orchestrator.kernel.calls import Calls
from kompensate.orchestrator.kernel.errors import ContinueAsNew
from kompensate.orchestrator.kernel.operation import (
    AttributesAsked,
    Operation,
    PatchAsked,
    PivotAsked,
    PublishAsked,
    ReceiveAsked,
    SleepAsked,
    UndoAsked,
)

EVENTS_SUGGESTED = 2_000
"""A history is read and replayed whole when a saga is woken: past so many events it should begin anew."""
T = TypeVar("T")


class Context(Calls):
    """One saga's view of the world. Everything in it is the same when the saga is replayed."""

    def now(self) -> int:
        """Milliseconds since the epoch at the saga's last input: the same in every replay."""
        return self._now

    @property
    def continue_as_new_suggested(self) -> bool:
        """Has the run so many events that it should go on as a new one?"""
        return self._events >= EVENTS_SUGGESTED

    # -- waiting

    def sleep(self, seconds: float) -> Operation:
        """Await it to go on `seconds` later; days are fine: nothing is kept running meanwhile."""
        return self._ask(SleepAsked(ms_of("sleep", seconds)))

    def sleep_until(self, when: datetime) -> Operation:
        """Await it to go on at `when`, which has a time zone; one that is past ends at once."""
        if when.tzinfo is None:
            raise ValueError(f"sleep_until: expected a datetime with a time zone, got {when.isoformat()}")
        return self.sleep(max(0, round(when.timestamp() * 1000) - self._now) / 1000)

    def receive(self, name: str, *, timeout: float | None = None, type: Any = None) -> Operation:  # noqa: A002  # reads best
        """Await the signal `name`: the oldest not yet received, also one that came earlier.

        `type` is its payload's. Raises TimeoutError after `timeout` seconds.
        """
        ms = None if timeout is None else ms_of("receive", timeout)
        return self._ask(ReceiveAsked(name, ms), self._payloads.decode, Any if type is None else type)

    # -- several at once

    def gather(
        self, *operations: Operation, tolerate: int = 0, cancel_losers: bool = False
    ) -> Coroutine[Any, Any, list[Any]]:
        """Await all of them for their results, in the order given.

        A failure is raised as soon as it is known. Up to `tolerate` of them are not: they stand among the results, as
        exceptions. Operations that are not waited for any more go on, or are undone with `cancel_losers`.
        """
        return combining.gather(operations, tolerate, self.undo if cancel_losers else None)

    def at_least(
        self, count: int, *operations: Operation, cancel_losers: bool = False
    ) -> Coroutine[Any, Any, list[Any]]:
        """Await the first `count` of them to succeed, for their results in the order in which they did.

        Raises the failure that leaves too few. The others go on, or are undone with `cancel_losers`.
        """
        return combining.at_least(count, operations, self.undo if cancel_losers else None)

    def select(self, *, cancel_losers: bool = False, **operations: Operation) -> Coroutine[Any, Any, tuple[str, Any]]:
        """Await the first of them to settle, for its name and result; raises its error if it failed.

        The others go on and can be awaited later (a `receive` among them takes the next signal of its name), or are
        undone with `cancel_losers`.
        """
        return combining.select(operations, self.undo if cancel_losers else None)

    # -- undoing

    def undo(self, operation: Operation) -> Operation:
        """Have one operation undone now: await it to go on when that is done.

        A call that is out is undone whether it was done or not, a child is cancelled, a sleep or receive is dropped:
        awaiting it raises OperationCancelled. A child that completes first stands.
        """
        return self._undo(operation.number, operation.number)

    async def block(self, body: Callable[..., Awaitable[T]], *args: Any, attempts: int = 3, wait: float = 0) -> T:
        """Await `body(*args)`, whose steps are tried together: where one does not succeed, all of them are undone, and
        after `wait` seconds, doubled each time, the body begins anew. Raises the last attempt's error, after undoing.
        """
        if attempts < 1:
            raise ValueError(f"block: expected at least 1 attempt, got {attempts}")
        return await combining.block(self._block_of, body, args, attempts, wait)

    def pivot(self) -> None:
        """The point of no return: what was done so far is not undone any more, and every later call is retriable."""
        self._note(PivotAsked())

    # -- the outside, and time

    def publish(self, name: str, value: object) -> None:
        """Show the outside `value` under `name`: `Client.published` reads it. The newest of each name stands."""
        self._note(PublishAsked(name, self._payloads.encode(value)))

    def set_attributes(self, /, **attributes: object) -> None:
        """Have operators find this saga by these from now on; None removes one, the others stay as they are.

        Values are str, int, float, bool or datetimes with a time zone: at most 16, and 1 KB in all, kept in the clear
        whatever the application's payload format. Raises ValueError.
        """
        self.attributes = self._payloads.attributes(attributes, self.attributes)
        self._note(AttributesAsked(self.attributes))

    def patched(self, patch: str) -> bool:
        """Is the new road to be taken here? True, and recorded, where the saga comes by for the first time; False
        where it came by before the code was changed. In a loop each round answers for itself."""
        recorded, number = self.recorded, self._number + 1
        if recorded is not None and not recorded.marks(number, patch) and recorded.knows(number):
            return False
        self._note(PatchAsked(patch))
        return True

    def deprecate_patch(self, patch: str) -> None:
        """The old road is gone from the code: sagas that recorded the patch still find it."""
        if self.recorded is not None and self.recorded.marks(self._number + 1, patch):
            self._note(PatchAsked(patch))

    def continue_as_new(self, input: object = None) -> NoReturn:  # noqa: A002  # as in Saga
        """End this run and go on as a new one with this input and an empty history; signals not yet received move over.

        What was done is not undone any more by the new run. Calls that are out are answered first.
        """
        raise ContinueAsNew(self._payloads.encode(input))

    def uuid(self) -> str:
        """A UUID of this run (version 8, RFC 9562), the same in every replay and another at each call."""
        drawn = self._draw("uuid")
        drawn = drawn & ~(0xF << 76) | 8 << 76  # the version
        drawn = drawn & ~(0x3 << 62) | 2 << 62  # the variant
        text = f"{drawn:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def random(self) -> float:
        """A number from 0 up to 1, the same in every replay and another at each call. Not for secrets."""
        return (self._draw("random") >> 75) / 2**53

    def _undo(self, first: int, last: int) -> Operation:
        return self._ask(UndoAsked(first, last))

    def _block_of(self) -> tuple[Callable[[], Operation], Callable[[float], Operation]]:
        """For one attempt at a block that begins here: what undoes it, and what waits before the next."""
        first = self._number + 1
        return lambda: self._undo(first, self._number), self.sleep
