"""What verbs that send requests share: the client, the wait for an outcome, and how answers are printed."""

import gc
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from kompensate.orchestrator.cli.exits import REFUSED
from kompensate.orchestrator.cli.options import Cluster
from kompensate.orchestrator.cli.output import print_json, print_jsonl, print_table, say, table
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.outcomes import Sent
from kompensate.orchestrator.reading.reader import Reader
from kompensate.schemas.payloads import BadPayload

SOURCE = "kompensate:cli"

wait_option = click.option(
    "--wait", is_flag=True, help="Wait until a worker has handled it, and say what became of it."
)
timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Of the waiting.",
)


@contextmanager
def client(cluster: Cluster) -> Iterator[Client]:
    """A client for one command. What cannot be a payload is wrong usage."""
    quiet()
    payloads = None if cluster.application is None else cluster.application.payloads
    options: dict[str, Any] = {"prefix": cluster.prefix, "kafka": cluster.kafka, "payloads": payloads}
    try:
        with Client(cluster.bootstrap, cluster.app, source=SOURCE, **options) as found:
            yield found
    except BadPayload as error:
        raise click.UsageError(str(error)) from error


@contextmanager
def lookup(cluster: Cluster) -> Iterator[Lookup]:
    """The application's topics, to read."""
    quiet()
    with Reader(cluster.bootstrap, cluster.kafka) as reader:
        yield Lookup(reader, cluster.topics, cluster.payloads)


@contextmanager
def much_to_hold() -> Iterator[None]:
    """For a verb that reads much, prints and ends: looking for garbage among it would take half of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def quiet() -> None:
    """librdkafka's own log lines are left to those who configure logging: the error that is raised says it."""
    logging.getLogger("kompensate").addHandler(logging.NullHandler())


def payload(_: click.Context, __: click.Parameter, text: str | None) -> bytes | None:
    """Callback: JSON given as text, as @FILE, or as - for standard input. Raises click.BadParameter."""
    if text is None:
        return None
    if text == "-":
        data = sys.stdin.buffer.read()
    elif text.startswith("@"):
        try:
            data = Path(text[1:]).read_bytes()
        except OSError as error:
            raise click.BadParameter(f"expected a file to read, got {text[1:]}: {error.strerror}") from error
    else:
        data = text.encode()
    try:
        json.loads(data)
        return data.strip()
    except ValueError as error:
        raise click.BadParameter(f"expected JSON, got {data[:60]!r}: {error}") from error


def answer(all_sent: list[Sent], output: str) -> None:
    """Print what was acknowledged and what became of it; exit code 4 where something was refused."""
    if output == "ids":
        for sent in all_sent:
            click.echo(sent.saga_id)
    elif output == "json":
        print_json([sent_json(sent) for sent in all_sent])
    elif output == "jsonl":
        print_jsonl(sent_json(sent) for sent in all_sent)
    else:
        found = table("SAGA", "REQUEST", "OUTCOME", "AT", "REASON")
        for sent in all_sent:
            kind, reason = (sent.outcome.kind, sent.outcome.reason) if sent.outcome else ("acknowledged", "")
            found.add_row(sent.saga_id, sent.type.rpartition(".")[2], kind, place(sent), reason)
        print_table(found)
    refused = [sent for sent in all_sent if sent.outcome is not None and not sent.outcome.accepted]
    if refused:
        if output == "ids":
            for sent in refused:
                say(f"{sent.saga_id}: {sent.outcome.reason if sent.outcome else ''}")
        raise SystemExit(REFUSED)


def place(sent: Sent) -> str:
    return f"{sent.topic}/{sent.partition}@{sent.offset}"


def sent_json(sent: Sent) -> dict[str, Any]:
    return {
        "saga_id": sent.saga_id,
        "request": sent.type,
        "request_id": sent.id,
        "at": {"topic": sent.topic, "partition": sent.partition, "offset": sent.offset},
        "outcome": asdict(sent.outcome) if sent.outcome else None,
    }
