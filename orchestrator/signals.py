"""A process of our own ends when it is told to: SIGTERM and SIGINT ask, and what is in hand is finished first."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)


@contextmanager
def set_when_told(stopping: threading.Event) -> Iterator[None]:
    """Inside, SIGTERM and SIGINT set `stopping`; afterwards they do what they did before. For the main thread."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        logger.info("%s: leaving", signal.Signals(signum).name)
        stopping.set()

    before = {which: signal.signal(which, stop) for which in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
