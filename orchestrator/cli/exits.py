"""Exit codes of the `kompensate` command, and which error leads to which."""

from typing import NoReturn

import click

from kompensate.orchestrator.client_errors import NotAcknowledged, NotFound, TimedOut, Unreachable
from kompensate.orchestrator.errors import KompensateError, NoAnswer

OK, ERROR, USAGE, NOT_FOUND, REFUSED, UNREACHABLE, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 130

EPILOG = (
    "Exit codes: 0 done, 1 error or difference found, 2 wrong usage, 3 no such saga, 4 refused or ended "
    "otherwise than completed, 5 Kafka does not answer, 6 timed out, 130 interrupted."
)

_CODES: tuple[tuple[type[KompensateError], int], ...] = (
    (NotFound, NOT_FOUND),
    (Unreachable, UNREACHABLE),
    (NoAnswer, UNREACHABLE),
    (NotAcknowledged, UNREACHABLE),
    (TimedOut, TIMED_OUT),
)


def fail(error: KompensateError | ValueError) -> NoReturn:
    """Say what went wrong on standard error, and exit with the code for it."""
    code = next((code for kind, code in _CODES if isinstance(error, kind)), ERROR)
    leave(code, f"Error: {error}")


def leave(code: int, message: str) -> NoReturn:
    """Say `message` on standard error and exit with `code`."""
    click.echo(message, err=True)
    raise SystemExit(code)
