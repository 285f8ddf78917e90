"""The whole shop at work: three databases, topics, three services, one relay and two workers, as processes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from examples.checkout.databases import Databases, tables
from examples.checkout.sagas import app
from examples.common.ground import SESSION_MS, Ground, Parts, at_work
from kompensate.compose.local.stack import Stack

SERVICES = ("inventory", "payments", "shipping")
WORKERS = ("worker-1", "worker-2")


def open_shop(
    directory: Path, *, own: bool, keep: bool = False, say: Callable[[str], None] = lambda _: None
) -> AbstractContextManager["Shop"]:
    """A shop at work on the stack of `directory`, as `at_work` says."""
    return at_work(directory, Shop, own=own, keep=keep, say=say)


class Shop(Ground):
    """The shop, with its databases by name."""

    def __init__(self, stack: Stack, logs: Path, *, session_ms: int = SESSION_MS, kind: str = "demo") -> None:
        parts = Parts(
            app,
            "examples.checkout.sagas:app",
            {service: f"examples.checkout.{service}:{service}" for service in SERVICES},
            tables(),
            workers=WORKERS,
        )
        super().__init__(parts, stack, logs, session_ms=session_ms, kind=kind)
        self.databases = Databases(**self.dsns)
