"""What the demos of the small examples share: a stack, the example at work on it, and a story told on it.

.venv/bin/python -m examples.transfer.demo               # a stack of its own, gone afterwards
.venv/bin/python -m examples.transfer.demo --stack DIR   # on the running stack of DIR
.venv/bin/python -m examples.transfer.demo --serve       # stay up after the story, until Ctrl-C
"""

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from examples.common.children import ROOT, ChildEnded
from examples.common.ground import Ground, Parts, at_work
from kompensate.compose.local.errors import StackError
from kompensate.orchestrator.client_errors import ClientError

INTERRUPTED = 130


def main(name: str, parts: Callable[[], Parts], story: Callable[[Ground], None]) -> int:
    """Bring the example up, tell its story, take everything away. Returns the exit status."""
    options = _options(name)
    # A broker that has just started asks its clients for patience, and they say so.
    logging.getLogger("kompensate.librdkafka").setLevel(logging.ERROR)
    # A termination is cleaned up after like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    own = options.stack is None
    directory = ROOT / ".kompensate" / name if own else options.stack
    try:
        with at_work(directory, lambda stack, logs: Ground(parts(), stack, logs), own=own, say=print) as ground:
            story(ground)
            if options.serve:
                print("at work until Ctrl-C; look around with: " + _words(ground.environment))
                signal.pause()
    except KeyboardInterrupt:
        print("interrupted")
        return INTERRUPTED
    except (AssertionError, ChildEnded, ClientError, StackError, TimeoutError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


def _options(name: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m examples.{name}.demo")
    parser.add_argument("--stack", type=Path, metavar="DIR", help="use the running stack of DIR, not one of its own")
    parser.add_argument("--serve", action="store_true", help="stay up after the story, until Ctrl-C")
    return parser.parse_args()


def _words(environment: dict[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in environment.items())
