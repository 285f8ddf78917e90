"""`kompensate start`: begin a saga, and if asked to, wait for it."""

import json
from datetime import datetime
from typing import Any
from uuid import uuid4

import click

from kompensate.orchestrator.cli import asking
from kompensate.orchestrator.cli.exits import EPILOG, REFUSED
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import name, output_option
from kompensate.orchestrator.cli.output import saga_id as saga_id_callback
from kompensate.orchestrator.cli.show import print_views
from kompensate.orchestrator.cli.times import later_given
from kompensate.orchestrator.definitions.application import Application
from kompensate.schemas import payloads
from kompensate.schemas.attributes import BadAttributes, changed


def _attributes(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, object]:
    found: dict[str, object] = {}
    for text in given:
        name_, equals, value = text.partition("=")
        if not equals or name_ in found:
            raise click.BadParameter(f"expected NAME=VALUE, each NAME once, got {text!r}")
        found[name_] = _scalar(value)
    try:
        changed(found)
    except BadAttributes as error:
        raise click.BadParameter(str(error)) from error
    return found


def _scalar(text: str) -> object:
    """JSON's number, true, false or quoted text; what is none of these is text as it stands."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if isinstance(found, str | int | float) else text


@click.command(epilog=EPILOG)
@click.argument("saga", callback=name)
@click.option(
    "--id",
    "saga_id",
    metavar="SAGA_ID",
    callback=saga_id_callback,
    help="Names the saga, and makes its start idempotent. Default: random.",
)
@click.option(
    "--input",
    "input_",
    metavar="JSON",
    callback=asking.payload,
    help="The saga's input: JSON, @FILE, or - for standard input.",
)
@click.option(
    "--after",
    metavar="SECONDS|TIME",
    callback=later_given,
    help="Begin then: in so many seconds, or at a time (RFC 3339). Until then the saga is pending and takes signals.",
)
@click.option(
    "--deadline",
    metavar="SECONDS|TIME",
    callback=later_given,
    help="Cancel the saga then, unless it has ended or is past its pivot.",
)
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_attributes,
    help="What operators find the saga by: a number, true, false, or text. May be repeated. Kept in the clear.",
)
@asking.wait_option
@click.option("--result", is_flag=True, help="Wait for the saga's end and print it; exit code 4 unless it completed.")
@asking.timeout_option
@output_option("table", "json", "jsonl", "ids")
@cluster_options
def start(
    saga: str,
    saga_id: str | None,
    input_: bytes | None,
    after: datetime | None,
    deadline: datetime | None,
    attributes: dict[str, object],
    wait: bool,
    result: bool,
    timeout: float,
    output: str,
    cluster: Cluster,
) -> None:
    """Start a saga of definition SAGA; it is acknowledged when Kafka has it.

    Starting the same id with the same input again is harmless: --wait then says `duplicate`.
    With --app the saga's name and its input are checked against the code before anything is sent.

    \b
    Examples:
      kompensate start checkout --app-name shop --id order-17 --input '{"order_id": "17", "cents": 1250}'
      kompensate start checkout --app-name shop --id order-17 --input @order.json --result
      kompensate start checkout --app-name shop --id order-17 --input @order.json --attribute customer=c-7
      kompensate start reminder --app-name shop --id r-17 --after 3600 --deadline 2026-03-01T12:00:00Z
    """
    if cluster.application is not None:
        check_start(cluster.application, saga, input_)
    with asking.client(cluster) as client:
        # The outcome comes before the result: a start that is rejected would be waited for in vain.
        sent = client.start(
            saga,
            input_,
            saga_id=saga_id or uuid4().hex,
            wait=wait or result,
            start_at=after,
            deadline=deadline,
            attributes=attributes,
            timeout=timeout,
        )
        if not result or (sent.outcome is not None and not sent.outcome.accepted):
            asking.answer([sent], output)
            return
        view = client.result(sent.saga_id, timeout)
    print_views([view], output)
    if view.status != "completed":
        raise SystemExit(REFUSED)


def check_start(application: Application, saga: str, input_: bytes | None) -> None:
    """What a worker with this code would reject is not sent. Raises click.UsageError."""
    found = application.sagas.get(saga)
    if found is None:
        names = ", ".join(sorted(application.sagas)) or "none"
        raise click.UsageError(f"expected a saga of application {application.name!r} ({names}), got {saga!r}")
    kind: Any = Any if found.input is None else found.input
    try:
        payloads.check_type(kind)
        payloads.decode(input_, kind)
    except payloads.BadPayload as error:
        hint = ": give --input" if input_ is None else ""
        raise click.UsageError(f"saga {saga!r}: {error}{hint}") from error
