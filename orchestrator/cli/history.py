"""`kompensate history`: every event of a saga, when it happened and which record caused it."""

from typing import Any

import click

from kompensate.orchestrator.cli.asking import lookup
from kompensate.orchestrator.cli.exits import EPILOG
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import (
    line_json,
    moment,
    output_option,
    print_json,
    print_jsonl,
    print_table,
    table,
)
from kompensate.orchestrator.cli.output import saga_id as saga_id_callback
from kompensate.orchestrator.kernel.inputs import Origin
from kompensate.orchestrator.reading.status import Line, fold


@click.command(epilog=EPILOG)
@click.argument("saga_id", callback=saga_id_callback)
@output_option("table", "json", "jsonl")
@cluster_options
def history(saga_id: str, output: str, cluster: Cluster) -> None:
    """List the events of a saga, ended or not, each with the record that caused it.

    The times are the inputs': +MS is how long after the event before. JSON shows every field of every event.

    \b
    Example:
      kompensate history order-17 --app-name shop
    """
    with lookup(cluster) as found:
        lines = fold(cluster.app, saga_id, found.history(saga_id), found.payloads).lines
    if output == "table":
        events = table("#", "TIME", "+MS", "EVENT", "STEP", "ATTEMPT", "CAUSE", "DETAIL", right=("#", "+MS"))
        for line in lines:
            events.add_row(*cells(line))
        print_table(events)
    else:
        rows: list[dict[str, Any]] = [line_json(line) for line in lines]
        (print_json if output == "json" else print_jsonl)(rows)


def cells(line: Line) -> tuple[str, ...]:
    """An event as a table's row; `watch` prints the same."""
    return (
        str(line.sequence),
        moment(line.time),
        f"+{line.since_previous}",
        line.kind,
        line.step,
        "" if line.attempt is None else str(line.attempt),
        cause(line.cause),
        line.detail,
    )


def cause(origin: Origin) -> str:
    """The record an event came from, as topic/partition@offset; timers come from none."""
    return f"{origin.topic}/{origin.partition}@{origin.offset}" if origin.topic else "timer"
