"""What can be typed while `kompensate dev light` runs."""

import json
from collections.abc import Callable

import click

from kompensate.orchestrator.cli.history import cells, history_table
from kompensate.orchestrator.cli.listing import views_table
from kompensate.orchestrator.cli.output import print_table
from kompensate.orchestrator.cli.show import print_card
from kompensate.orchestrator.cli.start import check_start
from kompensate.orchestrator.reading.status import fold
from kompensate.schemas.messages import CANCEL, SIGNAL, START
from kompensate.simulator.light import Light

HELP = """\
start SAGA ID [JSON]      start a saga
signal ID NAME [JSON]     send it a message
cancel ID [REASON]        stop it and undo what it did
event TOPIC TYPE KEY [JSON]  tell an event, as another program would
show ID                   where it stands, and what it waits for
history ID                its events
list                      all sagas
quit                      end; nothing is kept"""


class Shell:
    """Does lines on a Light. `settle` has done what was asked before when it returns."""

    def __init__(self, running: Light, settle: Callable[[], None]) -> None:
        self._running = running
        self._settle = settle
        self.started: list[str] = []
        self.quitting = False
        self._verbs: dict[str, tuple[Callable[..., None], int, int]] = {
            "start": (self._start, 2, 3),
            "signal": (self._signal, 2, 3),
            "cancel": (self._cancel, 1, 2),
            "event": (self._event, 3, 4),
            "show": (self._show, 1, 1),
            "history": (self._history, 1, 1),
            "list": (self._list, 0, 0),
            "quit": (self._quit, 0, 0),
            "help": (lambda: click.echo(HELP), 0, 0),
        }

    def do(self, line: str) -> None:
        """Do one line. Raises ValueError, KompensateError, click.UsageError."""
        verb, _, rest = line.partition(" ")
        if not verb:
            return
        if verb not in self._verbs:
            raise ValueError(f"expected one of {', '.join(self._verbs)}, got {verb!r}")
        do, least, most = self._verbs[verb]
        words = rest.split(None, max(most - 1, 0)) if rest.strip() else []
        if not least <= len(words) <= max(most, 0):
            usage = next((text.partition("  ")[0] for text in HELP.splitlines() if text.startswith(verb)), verb)
            raise ValueError(f"expected {usage}, got {line!r}")
        do(*words)

    def start(self, saga: str, saga_id: str, input_: bytes | None) -> None:
        """Start a saga. Raises ValueError, click.UsageError for what would be rejected."""
        check_start(self._running.application, saga, input_)
        self._running.ask(START, saga_id, saga_type=saga, payload=input_)
        self.started.append(saga_id)

    def _start(self, saga: str, saga_id: str, text: str | None = None) -> None:
        self.start(saga, saga_id, _json(text))

    def _signal(self, saga_id: str, name: str, text: str | None = None) -> None:
        self._running.ask(SIGNAL, saga_id, subject=name, payload=_json(text))

    def _cancel(self, saga_id: str, reason: str | None = None) -> None:
        self._running.ask(CANCEL, saga_id, subject=reason)

    def _event(self, topic: str, type_: str, key: str, text: str | None = None) -> None:
        self._running.tell_event(topic, type_, key, _json(text))

    def _show(self, saga_id: str) -> None:
        self._settle()
        print_card(self._running.lookup.view(saga_id))

    def _history(self, saga_id: str) -> None:
        self._settle()
        lookup = self._running.lookup
        events = history_table()
        for line in fold(lookup.topics.app, saga_id, lookup.history(saga_id), lookup.payloads).lines:
            events.add_row(*cells(line))
        print_table(events)

    def _list(self) -> None:
        self._settle()
        lookup = self._running.lookup
        print_table(views_table([lookup.view(found.saga_id) for found in lookup.all()]))

    def _quit(self) -> None:
        self.quitting = True


def _json(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        json.loads(text)
    except ValueError as error:
        raise ValueError(f"expected JSON, got {text!r}: {error}") from error
    return text.encode()
