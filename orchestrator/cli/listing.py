"""`kompensate list`: which sagas there are, from the state topic's headers; only those shown are decoded."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import click
from rich.table import Table

from kompensate.orchestrator.cli.asking import lookup, much_to_hold
from kompensate.orchestrator.cli.exits import EPILOG
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import (
    ago,
    compact,
    due,
    output_option,
    print_json,
    print_jsonl,
    print_table,
    say,
    styled,
    table,
    view_json,
)
from kompensate.orchestrator.reading.conditions import BadFilter
from kompensate.orchestrator.reading.selecting import HOLDS, STATUSES, Filter
from kompensate.orchestrator.reading.status import SagaView, view
from kompensate.orchestrator.reading.stored import Stored

LIMIT = 100


def _filter(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> Filter | None:
    try:
        return Filter.parse(texts) if texts else None
    except BadFilter as error:
        raise click.BadParameter(str(error)) from error


where_option = click.option(
    "--where",
    multiple=True,
    metavar="NAME=VALUE,...",
    callback=_filter,
    help="Sagas by status, definition, hold (paused, quarantined, any, none), step (one that is open), older-than "
    "(since their start: 90s, 15m, 2h, 7d) and attributes (attr.amount > 100; == != < <= > >=), joined by commas or "
    "`and`. All must hold; of one name given twice, either, but for attributes.",
)


@click.command("list", epilog=EPILOG)
@click.option("--status", "statuses", multiple=True, type=click.Choice(STATUSES), help="Only these; may be repeated.")
@click.option("--type", "types", multiple=True, metavar="SAGA", help="Only of these definitions; may be repeated.")
@click.option("--hold", type=click.Choice(HOLDS), help="Only those held.")
@where_option
@click.option("--limit", type=click.IntRange(min=0), default=LIMIT, show_default=True, help="At most so many; 0: all.")
@output_option("table", "json", "jsonl", "ids")
@cluster_options
def list_sagas(
    statuses: tuple[str, ...],
    types: tuple[str, ...],
    hold: str | None,
    where: Filter | None,
    limit: int,
    output: str,
    cluster: Cluster,
) -> None:
    """List sagas, those that changed last first: all under way, and those ended within the dedup window.

    --where is the filter that verbs take to ask many sagas at once.

    \b
    Examples:
      kompensate list --app-name shop --status compensating --status running
      kompensate list --app-name shop --hold quarantined -o jsonl
      kompensate list --app-name shop --where definition=checkout,step=charge,older-than=2h
      kompensate list --app-name shop --where 'attr.customer == "c-7" and attr.amount > 100'
    """
    with much_to_hold(), lookup(cluster) as found:
        everything = found.all()
    if "damaged" in statuses or (where is not None and "damaged" in where.statuses):
        # Whether pages fit together shows only when they are decoded.
        everything = [replace(saga, damaged=view(cluster.app, saga).damaged) for saga in everything]
    usual = Filter(frozenset(statuses), frozenset(types), frozenset([hold] if hold else []))
    now = time.time_ns() // 1_000_000
    matching = [saga for saga in everything if usual.by_header(saga)]
    if where is not None:
        matching = [saga for saga in matching if where.matches(cluster.app, saga, now)]
    matching.sort(key=lambda saga: saga.updated_at, reverse=True)
    shown = matching[:limit] if limit else matching
    if output == "ids":
        for saga in shown:
            click.echo(saga.saga_id)
    else:
        print_views([view(cluster.app, saga, payloads=cluster.payloads) for saga in shown], output)
    if output == "table":
        say(_counts(matching, len(shown)))


def _counts(matching: list[Stored], shown: int) -> str:
    counts = Counter("damaged" if saga.damaged else saga.header.status for saga in matching)
    parts = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    return f"{shown} of {len(matching)} sagas" + (f": {parts}" if parts else "")


def print_views(views: list[SagaView], output: str) -> None:
    """Sagas a line each."""
    if output == "ids":
        for found in views:
            click.echo(found.saga_id)
    elif output == "json":
        print_json([view_json(found) for found in views])
    elif output == "jsonl":
        print_jsonl(view_json(found) for found in views)
    else:
        print_table(views_table(views))


def views_table(views: Sequence[SagaView]) -> Table:
    """Sagas a line each."""
    columns = ["SAGA", "TYPE", "STATUS", "STEP", "ATTEMPT", "AGE", "CHANGED", "WAKES", "UNDO LEFT", "ERROR"]
    attributed = any(saga.attributes for saga in views)
    found = table(*columns, *(["ATTRIBUTES"] if attributed else []))
    for saga in views:
        found.add_row(
            saga.saga_id,
            saga.type,
            styled(saga),
            saga.step,
            "" if saga.attempt is None else str(saga.attempt),
            ago(saga.started_at),
            ago(saga.updated_at),
            due(saga.wakes_at),
            str(saga.compensations_left or ""),
            saga.damaged or saga.hold_reason or saga.reason or saga.last_error,
            *([" ".join(f"{name}={compact(value)}" for name, value in saga.attributes.items())] if attributed else []),
        )
    return found
