"""`kompensate watch`: sagas as they move. A picture kept up to date on a terminal, a line a change elsewhere."""

import time
from collections import Counter
from collections.abc import Iterable

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from kompensate.orchestrator.cli.asking import lookup
from kompensate.orchestrator.cli.exits import EPILOG, REFUSED
from kompensate.orchestrator.cli.history import cells
from kompensate.orchestrator.cli.listing import views_table
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import (
    console,
    line_json,
    moment,
    optional_ids_argument,
    output_option,
    print_jsonl,
    say,
    view_json,
)
from kompensate.orchestrator.cli.show import card, steps_table
from kompensate.orchestrator.client_errors import DamagedSaga, NotFound
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.status import Line, SagaView, fold, view, view_of
from kompensate.orchestrator.reading.stored import Stored

REFRESHES_PER_SECOND = 4
ROWS = 20
"""Sagas in the live picture: those that changed last."""


@click.command(epilog=EPILOG)
@optional_ids_argument
@output_option("table", "jsonl")
@cluster_options
def watch(ids: list[str], output: str, cluster: Cluster) -> None:
    """Follow sagas as they move; Ctrl-C ends it.

    With ids: those, until all have ended; exit code 4 unless all completed. Without: all that change, with
    counts by status. On a terminal the picture is kept up to date; elsewhere each event, or changed saga, is
    a line.

    \b
    Examples:
      kompensate watch order-17 --app-name shop
      kompensate watch --app-name shop -o jsonl
    """
    live = console().is_terminal and output == "table"
    # Following holds on to its reader, so what is looked up on the way needs another.
    with lookup(cluster) as following, lookup(cluster) as looking:
        if ids:
            watched = Watched(looking, ids)
            shown = _live(following, watched, ids) if live else _event_lines(following, watched, ids, output)
            if any(saga.status != "completed" for saga in shown):
                raise SystemExit(REFUSED)
        elif live:
            _live(following, Everything(cluster.app), None)
        else:
            _saga_lines(following, cluster.app, output)


class Everything:
    """All sagas of an application for the live picture: counts from headers, the newest decoded."""

    def __init__(self, app: str) -> None:
        self._app = app
        self._statuses: dict[str, str] = {}
        self._newest: dict[str, Stored] = {}

    @property
    def views(self) -> list[SagaView]:
        return []

    def take(self, changes: Iterable[Stored]) -> None:
        for found in sorted(changes, key=lambda found: found.updated_at):
            held = "" if found.header.hold == "-" else f", {found.header.hold}"
            self._statuses[found.saga_id] = "damaged" if found.damaged else found.header.status + held
            self._newest.pop(found.saga_id, None)
            self._newest[found.saga_id] = found
        for saga_id in list(self._newest)[:-ROWS]:
            del self._newest[saga_id]

    @property
    def done(self) -> bool:
        return False

    def picture(self) -> RenderableType:
        counts = Counter(self._statuses.values()).most_common()
        text = "   ".join(f"{count} {status}" for status, count in counts)
        return Group(
            Text(f"{len(self._statuses)} sagas   {text}", "bold"),
            views_table([view(self._app, found) for found in reversed(self._newest.values())]),
        )


class Watched:
    """Some sagas, each with the events that were not told yet."""

    def __init__(self, looking: Lookup, ids: list[str]) -> None:
        self._looking = looking
        self._told: dict[tuple[str, str], int] = {}
        self._views: dict[str, SagaView] = {}
        self._wanted = set(ids)

    @property
    def views(self) -> list[SagaView]:
        return list(self._views.values())

    @property
    def done(self) -> bool:
        """Have all ended?"""
        return self._wanted == {saga_id for saga_id, found in self._views.items() if found.ended}

    def take(self, changes: Iterable[Stored]) -> list[tuple[str, Line]]:
        """Note the changes; their new events, by saga."""
        return [(found.saga_id, line) for found in changes for line in self._new(found)]

    def _new(self, found: Stored) -> list[Line]:
        try:
            pages = self._looking.pages_in_time(found)
            folded = fold(self._looking.topics.app, found.saga_id, pages, self._looking.payloads)
        except (DamagedSaga, NotFound) as error:
            self._views[found.saga_id] = view(self._looking.topics.app, found)
            say(str(error))
            return []
        self._views[found.saga_id] = view_of(folded, found.partition)
        run = (found.saga_id, folded.state.run)
        told = self._told.get(run, 0)
        self._told[run] = folded.state.events
        return [line for line in folded.lines if line.sequence > told]

    def picture(self) -> RenderableType:
        if len(self._views) == 1:
            (only,) = self._views.values()
            return Group(card(only), Text(), steps_table(only))
        return views_table(self.views)


def _live(following: Lookup, picture: Everything | Watched, ids: list[str] | None) -> list[SagaView]:
    """Keep a picture up to date on the terminal until it is done."""
    with Live(console=console(), auto_refresh=False, transient=False) as live:
        shown_at = 0.0
        for changes in following.follow(ids, 1 / REFRESHES_PER_SECOND):
            picture.take(changes)
            if picture.done or time.monotonic() - shown_at >= 1 / REFRESHES_PER_SECOND:
                live.update(picture.picture(), refresh=True)
                shown_at = time.monotonic()
            if picture.done:
                break
    return picture.views


def _event_lines(following: Lookup, watched: Watched, ids: list[str], output: str) -> list[SagaView]:
    """Print every event of some sagas, those that have happened already first."""
    for changes in following.follow(ids):
        lines = watched.take(changes)
        if output == "jsonl":
            print_jsonl({"saga_id": saga_id, **line_json(line)} for saga_id, line in lines)
        else:
            for saga_id, line in lines:
                click.echo("  ".join((saga_id, *filter(None, cells(line)))))
        if watched.done:
            break
    return watched.views


def _saga_lines(following: Lookup, app: str, output: str) -> None:
    """Print each saga that changes, once a batch."""
    changes = following.follow()
    say(f"{len(next(changes))} sagas; those that change from now on:")
    for changed in changes:
        views = [view(app, found, payloads=following.payloads) for found in changed]
        if output == "jsonl":
            print_jsonl(view_json(found) for found in views)
        else:
            for found in views:
                parts = (moment(found.updated_at), found.saga_id, found.type, found.shown_status, found.step)
                click.echo("  ".join(filter(None, parts)))
