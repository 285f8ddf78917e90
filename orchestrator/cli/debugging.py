"""pdb for a program that is replayed: it stops where the program awaits, before an event is told to it.

A suspended coroutine is on no stack, so its frame is shown as it stands; what is stepped into afterwards is the
author's code only. `q` ends the whole command: raised in the author's code it must not be taken for an error of it.
"""

import pdb  # noqa: T100  # stopping in it is what `--debug` is for
import sys
from bdb import BdbQuit
from types import FrameType, TracebackType
from typing import Any

import click

from kompensate.orchestrator.reading.replaying import Difference, Rehearsal, authors


class Debugger(pdb.Pdb):
    """Stops once, before the event with the number `at` (or the first after it) is told to the program."""

    def __init__(self, at: int | None) -> None:
        super().__init__(nosigint=True, skip=["kompensate.*"])
        self.at = at
        self.stopped = False

    def before(self, rehearsal: Rehearsal) -> None:
        """Called with each event that is about to be told."""
        if self.at is None or self.stopped or rehearsal.next is None or rehearsal.next.sequence < self.at:
            return
        self.stopped = True
        frame = rehearsal.frame()
        event = rehearsal.next.event
        click.echo(f"> before event {rehearsal.next.sequence}: {event}")
        if frame is None:
            click.echo("> the program has ended")
            return
        self.reset()
        self.botframe = sys._getframe()
        self.interaction(frame, None)
        if self.quitting:
            raise KeyboardInterrupt
        if self.breaks or self.stopframe is not self.botframe:  # neither `c` nor `return` from what has no caller
            sys.settrace(self.trace_dispatch)

    def difference(self, rehearsal: Rehearsal, found: Difference) -> None:
        """Look at where the program stands, or where it raised, after the difference was found."""
        sys.settrace(None)
        click.echo(f"> {found}")
        frame, trace = rehearsal.frame(), _authors_trace(rehearsal.error)
        if trace is None and frame is None:
            click.echo("> the program has ended")
            return
        self.reset()
        self.botframe = None
        self.interaction(None if trace is not None else frame, trace)
        if self.quitting:
            raise KeyboardInterrupt

    def trace_dispatch(self, frame: FrameType, event: str, arg: Any) -> Any:
        try:
            return super().trace_dispatch(frame, event, arg)
        except BdbQuit:
            raise KeyboardInterrupt from None


def _authors_trace(error: BaseException | None) -> TracebackType | None:
    """The part of a traceback that begins in the author's code; None where none of it is."""
    trace = None if error is None else error.__traceback__
    while trace is not None and not authors(trace.tb_frame):
        trace = trace.tb_next
    return trace
