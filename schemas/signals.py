"""A process of our own ends when it is told to: SIGTERM and SIGINT ask, and what is in hand is finished first."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger("kompensate.signals")


@contextmanager
def when_told(stop: Callable[[], object]) -> Iterator[None]:
    """Inside, SIGTERM and SIGINT call `stop`; afterwards they do what they did before. For the main thread."""

    def told(number: int, _frame: FrameType | None) -> None:
        log.info("%s: finishing what is in hand", signal.Signals(number).name)
        stop()

    before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
