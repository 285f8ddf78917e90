"""One try of an outside call, and those who carry it out: a thread for a plain function, one event loop for async ones.

Nobody here looks at a clock or at the database: the desk starts tries, breaks them off, and takes what ended.
"""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Literal, Protocol

from kompensate.participants.outcome import Failed, OutsideCall, Refused
from kompensate.participants.outside.options import External
from kompensate.participants.participant import Handler
from kompensate.schemas.faults import fault
from kompensate.schemas.messages import Command

CLOSE_SECONDS = 5.0
"""How long coroutines have to end when they are cancelled because the participant ends."""


class NotBegun(Exception):
    """Too late to begin: this process stood still between the intent's commit and the call."""


@dataclass(slots=True, eq=False)
class Try:
    """A call, or a query about one. `number` counts those of its kind; times are of the desk's monotonic clock.

    `begin_by` counts from before its intent, `deadline` until the next sign of life. `beaten`: a heartbeat came that
    is not in the database yet.
    """

    kind: Literal["call", "ask"]
    number: int
    command: Command
    handler: Handler
    options: External
    payload: object
    call: OutsideCall
    begun: float
    begin_by: float
    deadline: float
    beaten: bool = False
    future: "Future[None] | None" = field(default=None, repr=False)

    @property
    def function(self) -> Callable[..., object]:
        """What is called."""
        if self.kind == "call":
            return self.handler.function
        assert self.options.reconcile is not None
        return self.options.reconcile

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    def carry_out(self, now: float) -> object:
        """Call it, or make its coroutine. Raises NotBegun where it is too late for that, and what the function raises.

        A process that was paused here would call while another has taken the command over, or past the window.
        """
        if now >= self.begin_by:
            raise NotBegun(f"expected to begin within {self.options.lease:g} s of its intent, got there too late")
        fault("outside.before_call")
        if self.kind == "ask":
            return self.function(self.payload, self.call)
        return self.function(self.payload, **dict.fromkeys((name for name, _ in self.handler.offers), self.call))


@dataclass(slots=True)
class Ended:
    """How a try ended: with what it returned, or with what it raised; `seconds` after it began."""

    attempt: Try
    result: object = None
    error: BaseException | None = None
    seconds: float = 0.0

    @property
    def definite(self) -> bool:
        """Whether it says what became of the command."""
        return self.error is None or isinstance(self.error, (Refused, Failed))


class Hands(Protocol):
    """Carries out tries; each ends by one call of what it was made with."""

    def start(self, attempt: Try) -> None:
        """Begin, without waiting."""

    def break_off(self, attempt: Try) -> None:
        """Stop it if that can be done. It may end later all the same."""

    def close(self) -> None:
        """Let go of those still out: nobody is told of their ends."""


class Inline:
    """Calls at once, in the loop's own thread: for the simulator, and to debug in. Nothing can be broken off."""

    def __init__(self, ended: Callable[[Ended], None], monotonic: Callable[[], float]) -> None:
        self._ended = ended
        self._monotonic = monotonic

    def start(self, attempt: Try) -> None:
        """Returns when it has ended."""
        try:
            found = attempt.carry_out(self._monotonic())
            result = asyncio.run(_awaited(found)) if inspect.isawaitable(found) else found
            fault("outside.after_call")
        except Exception as error:
            self._ended(Ended(attempt, error=error))
        else:
            self._ended(Ended(attempt, result))

    def break_off(self, attempt: Try) -> None:
        """It has ended."""

    def close(self) -> None:
        """Nothing is out."""


async def _awaited(found: Awaitable[object]) -> object:
    return await found


class Threads:
    """The real ones. A thread cannot be stopped: the participant ends without waiting for those that never do."""

    def __init__(self, ended: Callable[[Ended], None], monotonic: Callable[[], float]) -> None:
        self._ended = ended
        self._monotonic = monotonic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_ends = asyncio.Event()
        self._loop_thread: threading.Thread | None = None

    def start(self, attempt: Try) -> None:
        if attempt.is_async:
            attempt.future = asyncio.run_coroutine_threadsafe(self._await(attempt), self._event_loop())
        else:
            name = f"outside {attempt.command.type} {attempt.command.id}"
            threading.Thread(target=self._call, args=(attempt,), name=name, daemon=True).start()

    def break_off(self, attempt: Try) -> None:
        if attempt.future is not None:
            attempt.future.cancel()

    def close(self) -> None:
        if self._loop is not None and self._loop_thread is not None:
            self._loop.call_soon_threadsafe(self._loop_ends.set)
            self._loop_thread.join(CLOSE_SECONDS)
            self._loop = None

    def _call(self, attempt: Try) -> None:
        try:
            result = attempt.carry_out(self._monotonic())
            fault("outside.after_call")
        except BaseException as error:
            self._ended(Ended(attempt, error=error))
        else:
            self._ended(Ended(attempt, result))

    async def _await(self, attempt: Try) -> None:
        try:
            found = attempt.carry_out(self._monotonic())
            assert inspect.isawaitable(found)
            result = await found
            fault("outside.after_call")
        except BaseException as error:
            self._ended(Ended(attempt, error=error))
        else:
            self._ended(Ended(attempt, result))

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        """Made with the first async call. When it ends, what still runs in it is cancelled."""
        if self._loop is None:
            ready: SimpleQueue[asyncio.AbstractEventLoop] = SimpleQueue()

            async def serve() -> None:
                ready.put(asyncio.get_running_loop())
                await self._loop_ends.wait()

            name = "outside event loop"
            self._loop_thread = threading.Thread(target=lambda: asyncio.run(serve()), name=name, daemon=True)
            self._loop_thread.start()
            self._loop = ready.get()
        return self._loop
