"""What a run asks of the interpreter while it lasts: no log lines, no garbage collector."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Garbage is looked for after the run: while it lasts there is little, and a whole world to look through."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def silenced() -> Iterator[None]:
    """No log lines: every fault makes some."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
