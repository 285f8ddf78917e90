"""The whole shop at work: three databases, topics, three services, one relay and two workers, as processes."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import MappingProxyType

from examples.checkout.databases import Databases, tables
from examples.checkout.sagas import app
from examples.common.ground import SESSION_MS, Ground, Parts, Program, at_work
from kompensate.compose.local.stack import Stack

SERVICES = ("inventory", "payments", "shipping")
WORKERS = ("worker-1", "worker-2")


def open_shop(
    directory: Path,
    *,
    own: bool,
    keep: bool = False,
    say: Callable[[str], None] = lambda _: None,
    programs: Mapping[str, Program] = MappingProxyType({}),
) -> AbstractContextManager["Shop"]:
    """A shop at work on the stack of `directory`, as `at_work` says; `programs` are services that are no Python."""
    return at_work(directory, partial(Shop, programs=programs), own=own, keep=keep, say=say)


class Shop(Ground):
    """The shop, with its databases by name."""

    def __init__(
        self,
        stack: Stack,
        logs: Path,
        *,
        session_ms: int = SESSION_MS,
        kind: str = "demo",
        programs: Mapping[str, Program] = MappingProxyType({}),
    ) -> None:
        parts = Parts(
            app,
            "examples.checkout.sagas:app",
            {service: f"examples.checkout.{service}:{service}" for service in SERVICES},
            tables(),
            workers=WORKERS,
            programs=programs,
        )
        super().__init__(parts, stack, logs, session_ms=session_ms, kind=kind)
        self.databases = Databases(**self.dsns)
