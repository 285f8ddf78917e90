"""`kompensate replay`: today's code over recorded histories, before it is deployed."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, TextIO

import click

from kompensate.orchestrator.cli.asking import lookup, much_to_hold
from kompensate.orchestrator.cli.debugging import Debugger
from kompensate.orchestrator.cli.exits import EPILOG, ERROR
from kompensate.orchestrator.cli.options import Cluster, application_option, kafka_options
from kompensate.orchestrator.cli.output import output_option, print_json, print_jsonl, saga_ids, say
from kompensate.orchestrator.client_errors import NotFound
from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.recordings import Recording, read_file, recordings
from kompensate.orchestrator.reading.replaying import Difference, Rehearsal
from kompensate.orchestrator.replay import Replay


@click.command(epilog=EPILOG)
@click.argument("files", nargs=-1, metavar="[FILE...]", type=click.File("r", encoding="utf-8"))
@click.option(
    "--id", "ids", multiple=True, metavar="SAGA_ID", callback=saga_ids, help="Only this saga; may be given often."
)
@click.option("--all", "everything", is_flag=True, help="Every run that state or history topic has.")
@click.option("--keep-going", is_flag=True, help="Tell the first difference of each history, not of the first.")
@click.option(
    "--debug", is_flag=True, help="Stop in pdb, in the saga's code: at the first difference, or as --at says."
)
@click.option("--at", type=click.IntRange(min=1), metavar="EVENT", help="With --debug: before this event is told.")
@output_option("table", "json", "jsonl", "ids")
@application_option
@kafka_options
def replay(
    files: tuple[TextIO, ...],
    ids: list[str],
    everything: bool,
    keep_going: bool,
    debug: bool,
    at: int | None,
    output: str,
    application: Application,
    bootstrap: str,
    prefix: str,
    kafka: dict[str, str],
) -> None:
    """Run today's code over recorded histories; exit code 1 at the first difference.

    Histories come from FILEs that `kompensate history --save` wrote (no Kafka is needed then), or with --all
    or --id from the topics (no worker is needed). Nothing is sent. A difference names saga, event, expected and
    got, and the line of your code: deployed, it would hold that saga.

    \b
    Examples:
      kompensate replay --app shop.sagas:app histories.jsonl --keep-going
      kompensate replay --app shop.sagas:app --all
      kompensate replay --app shop.sagas:app --id order-17 --debug --at 5
    """
    if not files and bool(ids) == everything:
        raise click.UsageError("expected FILEs, --all or --id, got " + ("both --all and --id" if ids else "none"))
    if files and everything:
        raise click.UsageError("expected FILEs or --all, got both")
    if at is not None and not debug:
        raise click.UsageError("--at says where --debug stops: expected --debug too, got --at alone")
    cluster = Cluster(application.name, bootstrap, prefix, kafka, application)
    with ExitStack() as stack:
        stack.enter_context(much_to_hold())
        found = _filed(files, ids) if files else _stored(stack.enter_context(lookup(cluster)), ids)
        if debug:
            _debug(application, found, at)
            return
        replayed, differing = _print(_compared(application, found), output, keep_going)
    say(f"histories replayed: {replayed}, with differences: {differing}")
    if differing:
        raise SystemExit(ERROR)


def _filed(files: Iterable[TextIO], ids: list[str]) -> Iterator[Recording]:
    """The histories in files; without any there is nothing that a green CI run would mean."""
    missing, none = set(ids), True
    for file in files:
        for recording in read_file(file, file.name):
            if not ids or recording.saga_id in ids:
                none = False
                missing.discard(recording.saga_id)
                yield recording
    if missing or none:
        names = ", ".join(file.name for file in files)
        raise NotFound(f"{names}: expected histories{' of ' + ', '.join(sorted(missing)) if missing else ''}, got none")


def _stored(looking: Lookup, ids: list[str]) -> Iterator[Recording]:
    for partition in range(looking.partitions) if not ids else ():
        yield from recordings(looking, partition)
    for saga_id in ids:
        found = list(recordings(looking, looking.partition(saga_id), saga_id))
        if not found:
            raise NotFound(f"saga {saga_id!r}: expected a whole run in state or history topic, got none")
        yield from found


def _compared(application: Application, found: Iterable[Recording]) -> Iterator[Difference | None]:
    replaying = Replay(application)
    for recording in found:
        yield replaying.difference(recording)


def _print(results: Iterable[Difference | None], output: str, keep_going: bool) -> tuple[int, int]:
    """Print differences as they come; (histories replayed, how many of them differ)."""
    replayed = differing = 0
    everything: list[dict[str, Any]] = []
    for found in results:
        replayed += 1
        if found is None:
            continue
        differing += 1
        if output == "json":
            everything.append(asdict(found))
        elif output == "jsonl":
            print_jsonl([asdict(found)])
        else:
            click.echo(found.saga_id if output == "ids" else str(found))
        if not keep_going:
            break
    if output == "json":
        print_json(everything)
    return replayed, differing


def _debug(application: Application, found: Iterable[Recording], at: int | None) -> None:
    """Stop at an event of one history, or at the first difference of many."""
    replaying, debugger = Replay(application), Debugger(at)
    chosen = list(found)
    if at is not None and len(chosen) != 1:
        runs = ", ".join(f"{r.saga_id} (run {r.run})" for r in chosen[:5])
        raise click.UsageError(f"--at: expected one history, got {len(chosen)}: {runs}; choose one by --id")
    for recording in chosen:
        rehearsal = Rehearsal(recording, debugger.before)
        difference = replaying.rehearse(rehearsal)
        if difference is not None:
            debugger.difference(rehearsal, difference)
            raise SystemExit(ERROR)
        rehearsal.close()
    if at is not None and not debugger.stopped:
        raise click.UsageError(f"--at: expected an event of the history, which has {chosen[0].events}, got {at}")
    say(f"histories replayed: {len(chosen)}, with differences: 0")
