"""`kompensate show`: one saga in full, with its steps and what it waits for."""

import click
from rich.table import Table

from kompensate.orchestrator.cli.asking import lookup
from kompensate.orchestrator.cli.exits import EPILOG, ERROR, NOT_FOUND
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import (
    ago,
    compact,
    due,
    duration,
    ids_argument,
    moment,
    output_option,
    print_one_or_many,
    print_table,
    say,
    styled,
    table,
    view_json,
)
from kompensate.orchestrator.client_errors import NotFound
from kompensate.orchestrator.reading.status import SagaView, StepView


@click.command(epilog=EPILOG)
@ids_argument
@output_option("table", "json", "jsonl", "ids")
@cluster_options
def show(ids: list[str], output: str, cluster: Cluster) -> None:
    """Show where sagas stand: steps, attempts, what they wait for; `-` takes ids from standard input.

    Read from the topics: no worker need be alive. -o ids prints those that exist.

    \b
    Example:
      kompensate show order-17 --app-name shop
    """
    views, missing = [], []
    with lookup(cluster) as found:
        for saga_id in ids:
            try:
                views.append(found.view(saga_id))
            except NotFound as error:
                missing.append(str(error))
    if views:
        print_views(views, output)
    for text in missing:
        say(f"Error: {text}")
    if missing:
        raise SystemExit(NOT_FOUND)
    if any(view.damaged for view in views):
        raise SystemExit(ERROR)


def print_views(views: list[SagaView], output: str) -> None:
    """Sagas in full."""
    if output == "ids":
        for view in views:
            click.echo(view.saga_id)
    elif output == "table":
        for number, view in enumerate(views):
            if number:
                click.echo()
            print_card(view)
    else:
        print_one_or_many([view_json(view) for view in views], output)


def print_card(view: SagaView) -> None:
    """One saga for a person."""
    print_table(card(view))
    if view.steps:
        click.echo()
        print_table(steps_table(view))


def card(view: SagaView) -> Table:
    """What is known of a saga but its steps, a fact a line."""
    found = table("", "")
    found.show_header = False
    found.add_row("saga", view.saga_id)
    found.add_row("type", view.type)
    found.add_row("status", styled(view))
    for name, value in _facts(view):
        if value:
            found.add_row(name, value)
    return found


def _facts(view: SagaView) -> list[tuple[str, str]]:
    waits = list(view.waits) or [""]
    return [
        ("damaged", view.damaged),
        ("reason", view.reason),
        *(("waits" if not number else "", text) for number, text in enumerate(waits)),
        ("wakes", "" if view.wakes_at is None else f"{moment(view.wakes_at)} ({due(view.wakes_at)})"),
        ("undo left", str(view.compensations_left or "")),
        ("signals", f"{view.signals_kept} kept" if view.signals_kept else ""),
        *((f"attr.{name}", compact(value)) for name, value in view.attributes.items()),
        *((f"published {name}", compact(value)) for name, value in view.published.items()),
        *(("orders" if not number else "", text) for number, text in enumerate(view.orders)),
        ("forked from", view.forked_from),
        ("reset into", view.reset_into),
        ("last error", view.last_error),
        ("started", "" if view.started_at is None else f"{moment(view.started_at)} ({ago(view.started_at)} ago)"),
        ("changed", f"{moment(view.updated_at)} ({ago(view.updated_at)} ago)"),
        ("events", str(view.events)),
        ("run", f"{view.run} on partition {view.partition}"),
        ("input", "" if view.input is None else compact(view.input)),
        ("result", "" if view.result is None else compact(view.result)),
    ]


def steps_table(view: SagaView) -> Table:
    """A saga's calls, a line each."""
    found = table("#", "STEP", "SERVICE", "STATUS", "ATTEMPT", "RESENT", "SENT", "TOOK", "ERROR", right=("#",))
    for step in view.steps:
        found.add_row(
            str(step.number),
            step.step,
            step.service,
            step.status.replace("_", " "),
            str(step.attempt),
            str(step.resends or ""),
            "" if step.status == "queued" and step.attempt == 1 else moment(step.sent_at),
            _took(step),
            step.error,
        )
    return found


def _took(step: StepView) -> str:
    parts = []
    if step.answered_at is not None:
        parts.append(duration(step.answered_at - step.sent_at))
    if step.undone_at is not None and step.undo_sent_at is not None:
        parts.append(f"undone in {duration(step.undone_at - step.undo_sent_at)}")
    return ", ".join(parts)
