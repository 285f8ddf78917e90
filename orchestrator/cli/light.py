"""`kompensate dev light`: an application and its services in this process, without Kafka and PostgreSQL.

What is typed is read between two turns, by the thread that runs everything: a debugger has the terminal for itself.
"""

import logging
import os
import select
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click

from kompensate.orchestrator.cli import asking
from kompensate.orchestrator.cli.exits import ERROR, leave
from kompensate.orchestrator.cli.history import cells
from kompensate.orchestrator.cli.loading import find
from kompensate.orchestrator.cli.output import say
from kompensate.orchestrator.cli.shell import Shell
from kompensate.orchestrator.cli.watch import Watched
from kompensate.orchestrator.errors import KompensateError
from kompensate.orchestrator.logs import set_up_logs
from kompensate.orchestrator.main import SystemClock
from kompensate.simulator.light import Light

IDLE_SECONDS = 0.005
"""Between two turns while nothing moves."""
QUIET_TURNS = 3
"""So many in which nothing was written, and nothing is under way from one process to another."""
SETTLE_SECONDS_MAX = 1.0
EPILOG = (
    "Exit codes: 0 all sagas completed (or none was asked for), 1 one did not, or your code cannot be loaded, "
    "2 wrong usage, 130 interrupted."
)


class InOrder(click.Command):
    """A command that knows in which order its options were given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        ctx.meta["order"] = [parameter.name for parameter in order]
        return super().parse_args(ctx, args)


@click.command(cls=InOrder, epilog=EPILOG)
@click.argument("targets", metavar="FILE.py|MODULE[:OBJECT]...", nargs=-1, required=True)
@click.option("--start", "starts", multiple=True, metavar="SAGA", help="Start this saga; may be repeated.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="JSON",
    callback=lambda ctx, parameter, texts: [asking.payload(ctx, parameter, text) for text in texts],
    help="Input of the --start before it: JSON or @FILE.",
)
@click.option("--id", "ids", multiple=True, metavar="ID", help="Id of the --start before it. Default: SAGA-1, …")
@click.option("--app-dir", default=".", show_default=True, help="Where modules are looked for first.")
@click.pass_context
def light(
    ctx: click.Context,
    targets: tuple[str, ...],
    starts: tuple[str, ...],
    inputs: list[bytes],
    ids: tuple[str, ...],
    app_dir: str,
) -> None:
    """Run an application and its services in this process: in memory, in real time, nothing to set up.

    The Application and the Participants are found in the files or modules given. Services without a
    Participant answer every command with done. Type `help` for what can be typed. Nothing is kept.

    \b
    Examples:
      kompensate dev --light app.py
      kompensate dev --light trips.py flights.py hotels.py --start trip --input @trip.json
      kompensate dev light shop.sagas:app shop.stock
    """
    wanted = _starts(ctx, starts, inputs, ids)
    found = find(targets, app_dir)
    set_up_logs("plain", "warning")
    logging.getLogger("kompensate.orchestrator.local").setLevel(logging.INFO)  # where local steps say what they raised
    logging.getLogger("kompensate.partition").setLevel(logging.CRITICAL)  # the events and `rejected` say it
    try:
        running = Light(found.application, found.participants, SystemClock(), click.echo, found.prepare)
    except KompensateError:
        raise
    except Exception as error:
        logging.getLogger(__name__).exception("the services' databases cannot be made")
        leave(ERROR, f"Error: {error}")
    _introduce(running)
    session = Session(running)
    try:
        for saga, id_, input_ in wanted:
            try:
                session.shell.start(saga, id_, input_)
            except ValueError as error:
                raise click.UsageError(f"--start {saga}: {error}") from error
        failed = session.run(ends=bool(wanted))
    finally:
        running.close()
    if failed:
        raise SystemExit(ERROR)


def _starts(
    ctx: click.Context, starts: Sequence[str], inputs: Sequence[bytes], ids: Sequence[str]
) -> list[tuple[str, str, bytes | None]]:
    """Each --start with the --id and --input that follow it. Raises click.UsageError."""
    left: dict[str, Iterator[Any]] = {"starts": iter(starts), "inputs": iter(inputs), "ids": iter(ids)}
    found: list[dict[str, Any]] = []
    for name in ctx.meta["order"]:
        if name == "starts":
            found.append({})
        if name in left:
            if not found or name in found[-1]:
                raise click.UsageError(f"--{name[:-1]}: expected it once after each --start")
            found[-1][name] = next(left[name])
    return [
        (each["starts"], each.get("ids", f"{each['starts']}-{number}"), each.get("inputs"))
        for number, each in enumerate(found, 1)
    ]


def _introduce(running: Light) -> None:
    application = running.application
    say(f"application {application.name}: sagas {', '.join(application.sagas)}. In memory; nothing is kept.")
    for name in running.stand_ins:
        say(f"service {name}: no Participant found, every command is answered with done")
    for name in running.idle:
        say(f"service {name}: no saga of this application calls it, and it subscribes to nothing")


class Session:
    """A Light with whoever types: runs it, prints what happens, does what is typed."""

    def __init__(self, running: Light) -> None:
        self._running = running
        self.shell = Shell(running, self._settle)
        self._watched = Watched(running.lookup, [])
        self._changes = running.lookup.follow()
        self._lines = Lines()

    def run(self, *, ends: bool) -> bool:
        """Until `quit` or Ctrl-D; where nobody types, until all have ended: whether one of them did not complete.

        `ends`: there is enough to do already, so that the end of the input is not waited for.
        """
        if self._lines.terminal:
            say("`help` says what can be typed.")
        quiet = 0
        while not self.shell.quitting:
            moved = self._turn()
            quiet = 0 if moved else quiet + 1
            line = self._lines.next(0.0 if moved else IDLE_SECONDS)
            if line is not None:
                self._do(line)
            elif quiet >= QUIET_TURNS and self._nothing_to_come(ends):
                return bool(self.failures()) and not self._lines.terminal
        return False

    def _nothing_to_come(self, ends: bool) -> bool:
        if self._lines.terminal:
            return self._lines.ended
        return (self._lines.ended or ends) and self._over()

    def failures(self) -> list[str]:
        """Sagas that were started here and have not completed."""
        completed = {view.saga_id for view in self._watched.views if view.status == "completed"}
        return [saga_id for saga_id in self.shell.started if saga_id not in completed]

    def _turn(self) -> bool:
        moved = self._running.step()
        for saga_id, line in self._watched.take(next(self._changes)):
            click.echo("  ".join((saga_id, *filter(None, cells(line)))))
        return moved

    def _settle(self) -> None:
        """Let what was asked for be handled."""
        quiet, until = 0, time.monotonic() + SETTLE_SECONDS_MAX
        while quiet < QUIET_TURNS and time.monotonic() < until:
            quiet = 0 if self._turn() else quiet + 1

    def _do(self, line: str) -> None:
        try:
            self.shell.do(line)
        except (ValueError, KompensateError, click.ClickException) as error:
            text = error.format_message() if isinstance(error, click.ClickException) else str(error)
            say(f"Error: {text}")

    def _over(self) -> bool:
        """All sagas have ended, or are held: nobody is there to release them. And every event was seen to."""
        views = {view.saga_id: view for view in self._watched.views}
        begun = all(saga_id in views or saga_id in self._running.rejected for saga_id in self.shell.started)
        return (
            begun
            and not self._running.behind()
            and all(view.ended or view.hold or view.damaged for view in views.values())
        )


class Lines:
    """Lines from standard input as they come, read by the thread that asks."""

    def __init__(self) -> None:
        self.terminal = sys.stdin is not None and sys.stdin.isatty()
        self.ended = False
        self._rest = b""
        self._file: int | None = None
        try:
            self._file = sys.stdin.fileno()
        except (AttributeError, OSError, ValueError):  # none, or no file (a test's)
            self._rest = b"" if sys.stdin is None else str(sys.stdin.read()).encode()
            self.ended = not self._rest

    def next(self, seconds: float) -> str | None:
        """The next line; None where there is none within `seconds`."""
        if b"\n" not in self._rest and not self.ended:
            self._read(seconds)
        elif self.ended:
            time.sleep(seconds)
        line, newline, rest = self._rest.partition(b"\n")
        if not newline and not (self.ended and line):
            return None
        self._rest = rest
        return line.decode(errors="replace").strip()

    def _read(self, seconds: float) -> None:
        if self._file is None:
            self.ended = True
            return
        # Byte by byte, so that what comes after the line is left to a debugger.
        while select.select([self._file], [], [], seconds)[0]:
            byte = os.read(self._file, 1)
            self._rest += byte
            self.ended = not byte
            if byte in (b"", b"\n"):
                return
