"""Calls a handler with what it asks for: a plain function here and now, a coroutine function on an event loop.

The loop runs in the runner's own thread, and only while such a handler is at work: one handler at a time, as the
group's one transaction wants it. The AsyncSession that it gets is SQLAlchemy's, around the group's own session: each
await of it is done when it returns, so async handlers share the transaction, its savepoints and the claims with all
others, on one connection. What costs time is the loop's start and stop: below 0.1 ms a handler.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from sqlalchemy import Engine

from kompensate.participants.outcome import Call
from kompensate.participants.participant import BadHandler, Handler
from kompensate.participants.scratch import HandlerSession, Misuse, Scratch


def check_suits(handler: Handler, engine: Engine) -> None:
    """Raise BadHandler where a handler asks for what this database, or this installation, cannot give."""
    if handler.wants_psycopg and engine.dialect.driver != "psycopg":
        raise BadHandler(
            f"handler of {handler.contract}: expected a database that psycopg reaches, for it asks for psycopg's "
            f"connection, got {engine.dialect.name}+{engine.dialect.driver}"
        )
    if handler.wants_async_session and find_spec("greenlet") is None:
        raise BadHandler(
            f"handler of {handler.contract}: expected greenlet, which SQLAlchemy's AsyncSession needs, got none "
            "installed: pip install 'kompensate[asyncio]'"
        )


class Caller:
    """Calls handlers; has an event loop from the first one on that needs it. One thread uses it, and closes it."""

    def __init__(self) -> None:
        self._loop: asyncio.Runner | None = None

    def call(self, handler: Handler, payload: object, call: Call, scratch: Scratch | None) -> object:
        """What the handler returns. Raises what it raises."""
        given: dict[str, object] = {}
        driver = None
        for parameter, offer in handler.offers:
            if offer == "call":
                given[parameter] = call
                continue
            assert scratch is not None, handler
            if offer in ("driver", "cursor"):
                driver = scratch.driver
                given[parameter] = driver if offer == "driver" else driver.cursor()
            else:
                given[parameter] = _FROM_SCRATCH[offer](scratch)
        if driver is None:
            return self._run(handler, payload, given)
        with _lent(driver):
            return self._run(handler, payload, given)

    def close(self) -> None:
        """End the event loop, and what a handler left running on it."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    def _run(self, handler: Handler, payload: object, given: Mapping[str, object]) -> object:
        # Neither is an Exception: each would end the participant, and the next one, which gets the same command.
        try:
            result: Any = handler.function(payload, **given)
            return self._wait_for(result) if handler.is_async else result
        except (SystemExit, asyncio.CancelledError) as error:
            raise RuntimeError(f"expected the handler to return or raise an Exception, got {error!r}") from error

    def _wait_for(self, result: Coroutine[Any, Any, object]) -> object:
        if self._loop is None:
            self._loop = asyncio.Runner()
        return self._loop.run(result)


def _async_session(scratch: Scratch) -> object:
    """SQLAlchemy's AsyncSession around the group's session, which works in this thread and never suspends."""
    from sqlalchemy.ext.asyncio import AsyncSession  # noqa: PLC0415  # what few handlers ask for

    session = scratch.session
    made: Callable[..., HandlerSession] = lambda **_: session  # noqa: E731  # stands for a class
    return AsyncSession(sync_session_class=made)  # type: ignore[arg-type]  # it only calls it


_FROM_SCRATCH: dict[str, Callable[[Scratch], object]] = {
    "session": lambda scratch: scratch.session,
    "connection": lambda scratch: scratch.connection,
    "async session": _async_session,
}


@contextmanager
def _lent(driver: Any) -> Iterator[None]:
    """Keep a handler from ending the group's transaction with the driver's own connection; what it sets is set back."""
    driver.commit = driver.rollback = driver.close = _refuse
    row_factory = driver.row_factory
    try:
        yield
    finally:
        driver.row_factory = row_factory
        del driver.commit, driver.rollback, driver.close


def _refuse() -> None:
    raise Misuse(
        "commit(), rollback() or close() of the connection: expected the runner to end the transaction, "
        "got a handler that does: return to keep, raise to undo, transaction() for a part"
    )
