"""What a run asks of the interpreter while it lasts: no log lines, no garbage collector."""

import gc
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Garbage is looked for after the run, and only in what it left: while it lasts there is little, and a whole world
    to look through."""
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Libraries that draw lots for themselves (tenacity, for its jitter) draw those of the seed."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
