"""Named points where a test may end, stop or fail this process; without the environment variable, nothing.

`KOMPENSATE_FAULT=worker.before_commit:kill:3` kills the process with SIGKILL the third time that the
point is passed; `stop` instead of `kill` pauses it (SIGSTOP), `raise` raises InjectedFault. Several are
separated by commas. A simulator in the same process is told of every point instead, by `observe`.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

VARIABLE = "KOMPENSATE_FAULT"


class InjectedFault(Exception):
    """Raised at a fault point by order of a test."""


def _parse(text: str) -> dict[str, tuple[str, int]]:
    orders = {}
    for order in filter(None, text.split(",")):
        name, action, count = order.split(":")
        if action not in ("kill", "stop", "raise"):
            raise ValueError(f"{VARIABLE}: expected kill, stop or raise, got {action!r} in {order!r}")
        orders[name] = (action, int(count))
    return orders


_orders = _parse(os.environ.get(VARIABLE, ""))
_passed: dict[str, int] = {}
_observers: list[Callable[[str], None]] = []


@contextmanager
def observe(observer: Callable[[str], None]) -> Iterator[None]:
    """Have `observer` called with the name of every point that this process passes meanwhile; it may raise."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def fault(name: str) -> None:
    """Pass the point `name`. Cheap where no test asked for anything."""
    for observer in _observers:
        observer(name)
    if not _orders or name not in _orders:
        return
    action, count = _orders[name]
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] != count:
        return
    if action == "raise":
        raise InjectedFault(name)
    os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
