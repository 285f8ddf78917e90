"""Named points where a test may end, stop or fail this process; without the environment variable, nothing.

`KOMPENSATE_FAULT=worker.before_commit:kill:3` kills the process with SIGKILL the third time that the
point is passed; `stop` instead of `kill` pauses it (SIGSTOP), `raise` raises InjectedFault. Several are
separated by commas.
"""

import os
import signal

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


def fault(name: str) -> None:
    """Pass the point `name`. Cheap where no test asked for anything."""
    if not _orders or name not in _orders:
        return
    action, count = _orders[name]
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] != count:
        return
    if action == "raise":
        raise InjectedFault(name)
    os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
