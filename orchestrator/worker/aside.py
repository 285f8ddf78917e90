"""Blocking calls on threads of their own, which the end of the process does not wait for."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def aside(call: Callable[[], T]) -> "Future[T]":
    """Run `call` on a daemon thread. An executor's threads would be waited for when the process ends."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # the future's to raise, wherever it is asked
            future.set_exception(error)

    threading.Thread(target=run, name="kompensate-aside", daemon=True).start()
    return future
