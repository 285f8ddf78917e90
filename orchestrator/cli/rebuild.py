"""`kompensate rebuild`: fold the topics into sagas' states, as of any event or time, and compare."""

from collections.abc import Iterable, Iterator
from typing import Any

import click

from kompensate.orchestrator.cli.asking import lookup, much_to_hold
from kompensate.orchestrator.cli.exits import EPILOG, ERROR, NOT_FOUND
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import (
    optional_ids_argument,
    output_option,
    print_json,
    print_jsonl,
    say,
    view_json,
)
from kompensate.orchestrator.cli.show import print_card
from kompensate.orchestrator.cli.times import time_given
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.rebuilding import Cut, Rebuilt, rebuild_all, rebuild_one


@click.command(epilog=EPILOG)
@optional_ids_argument
@click.option("--all", "everything", is_flag=True, help="Every saga that state or history topic knows.")
@click.option("--at", type=click.IntRange(min=1), metavar="EVENT", help="As of this event number of its run.")
@click.option("--as-of", metavar="TIME", callback=time_given, help="As of this time (RFC 3339, UTC by default, or ms).")
@output_option("table", "json", "jsonl", "ids")
@cluster_options
def rebuild(ids: list[str], everything: bool, at: int | None, as_of: int | None, output: str, cluster: Cluster) -> None:
    """Fold state and history topics into the state of sagas, and compare what is stored twice.

    The fold must agree with the header that the worker wrote from live memory, with the summary of a saga
    that ended, and the closed pages of both topics with each other. Each difference is printed; any makes
    exit code 1, and -o ids prints only those that differ. With --at or --as-of the state is shown as it was
    then; what is compared is always the whole.

    \b
    Examples:
      kompensate rebuild order-17 --app-name shop --at 5
      kompensate rebuild --all --app-name shop
    """
    if bool(ids) == everything:
        raise click.UsageError("expected saga ids or --all, got " + ("both" if ids else "neither"))
    cut = Cut(at, as_of)
    with much_to_hold(), lookup(cluster) as found:
        results = rebuild_all(found, cut) if everything else _some(found, ids, cut)
        sagas, differing = _print(results, output, cards=not everything)
    say(f"sagas rebuilt: {sagas}, with differences: {differing}")
    if differing:
        raise SystemExit(ERROR)
    if sagas < len(ids):
        raise SystemExit(NOT_FOUND)


def _some(looking: Lookup, ids: list[str], cut: Cut) -> Iterator[Rebuilt]:
    for saga_id in ids:
        found = rebuild_one(looking, saga_id, cut)
        if found is None:
            say(f"Error: saga {saga_id!r}: expected it in state or history topic, got none")
        else:
            yield found


def _print(results: Iterable[Rebuilt], output: str, *, cards: bool) -> tuple[int, int]:
    """Print results as they come; (how many, how many with differences)."""
    sagas = differing = 0
    everything = []
    for found in results:
        sagas += 1
        differing += bool(found.differences)
        if output == "json":
            everything.append(_json(found))
        elif output == "jsonl":
            print_jsonl([_json(found)])
        elif output == "ids":
            if found.differences:
                click.echo(found.saga_id)
        elif cards:
            _print_card(found)
        else:
            for difference in found.differences:
                click.echo(f"{found.saga_id}: {difference}")
    if output == "json":
        print_json(everything)
    return sagas, differing


def _print_card(found: Rebuilt) -> None:
    if found.view is not None:
        print_card(found.view)
    elif not found.differences:
        click.echo(f"saga {found.saga_id}: not begun by then")
    for difference in found.differences:
        click.echo(f"differs: {found.saga_id}: {difference}")
    click.echo()


def _json(found: Rebuilt) -> dict[str, Any]:
    return {
        "saga_id": found.saga_id,
        "state": None if found.view is None else view_json(found.view),
        "differences": found.differences,
    }
