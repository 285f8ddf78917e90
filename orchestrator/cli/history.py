"""`kompensate history`: every event of a saga, when it happened and which record caused it."""

from typing import Any, TextIO

import click
from rich.table import Table

from kompensate.orchestrator.cli.asking import lookup
from kompensate.orchestrator.cli.exits import EPILOG, NOT_FOUND
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import (
    line_json,
    moment,
    optional_ids_argument,
    output_option,
    print_json,
    print_jsonl,
    print_table,
    say,
    table,
)
from kompensate.orchestrator.kernel.inputs import Origin
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.recordings import recordings
from kompensate.orchestrator.reading.status import Line, fold


@click.command(epilog=EPILOG)
@optional_ids_argument
@click.option("--all", "everything", is_flag=True, help="With --save: every run that state or history topic has.")
@click.option(
    "--save",
    type=click.File("w", encoding="utf-8", atomic=True),
    metavar="FILE",
    help="Write whole runs to FILE instead, for `kompensate replay`.",
)
@output_option("table", "json", "jsonl")
@cluster_options
def history(ids: list[str], everything: bool, save: TextIO | None, output: str, cluster: Cluster) -> None:
    """List the events of a saga, ended or not, each with the record that caused it.

    The times are the inputs': +MS is how long after the event before. JSON shows every field of every event.
    With --save any number of sagas are written to a file, payloads included; `-` takes ids from standard input.

    \b
    Examples:
      kompensate history order-17 --app-name shop
      kompensate history --all --app-name shop --save histories.jsonl
    """
    if bool(ids) == everything or (save is None and len(ids) != 1):
        raise click.UsageError("expected one saga id, or with --save ids or --all")
    with lookup(cluster) as found:
        if save is not None:
            _save(found, ids, save)
            return
        (saga_id,) = ids
        lines = fold(cluster.app, saga_id, found.history(saga_id), found.payloads).lines
    if output == "table":
        events = history_table()
        for line in lines:
            events.add_row(*cells(line))
        print_table(events)
    else:
        rows: list[dict[str, Any]] = [line_json(line) for line in lines]
        (print_json if output == "json" else print_jsonl)(rows)


def _save(looking: Lookup, ids: list[str], file: TextIO) -> None:
    saved = 0
    for partition in range(looking.partitions) if not ids else ():
        for each in recordings(looking, partition):
            file.write(each.line() + "\n")
            saved += 1
    missing = []
    for saga_id in ids:
        runs = list(recordings(looking, looking.partition(saga_id), saga_id))
        file.writelines(each.line() + "\n" for each in runs)
        saved += len(runs)
        missing += [] if runs else [saga_id]
    for saga_id in missing:
        say(f"Error: saga {saga_id!r}: expected a whole run in state or history topic, got none")
    say(f"histories saved: {saved}")
    if missing:
        raise SystemExit(NOT_FOUND)


def history_table() -> Table:
    """The table that `cells` are rows of."""
    return table("#", "TIME", "+MS", "EVENT", "STEP", "ATTEMPT", "CAUSE", "DETAIL", right=("#", "+MS"))


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
