"""`kompensate signal | cancel | pause | resume`: requests to sagas that are there."""

from uuid import uuid4

import click

from kompensate.orchestrator.cli import asking
from kompensate.orchestrator.cli.exits import EPILOG
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import ids_argument, output_option
from kompensate.orchestrator.cli.output import name as name_callback
from kompensate.schemas.messages import CANCEL, PAUSE, RESUME

reason_option = click.option("--reason", default="", help="For people: it stands in the saga's history.")
formats = output_option("table", "json", "jsonl", "ids")


@click.command(epilog=EPILOG)
@click.argument("name", callback=name_callback)
@ids_argument
@click.option(
    "--payload",
    metavar="JSON",
    callback=asking.payload,
    help="What the signal carries: JSON, @FILE, or - for standard input.",
)
@click.option("--signal-id", help="Makes it idempotent: a saga takes each id once. Default: random.")
@asking.wait_option
@asking.timeout_option
@formats
@cluster_options
def signal(
    name: str,
    ids: list[str],
    payload: bytes | None,
    signal_id: str | None,
    wait: bool,
    timeout: float,
    output: str,
    cluster: Cluster,
) -> None:
    """Send the signal NAME to sagas; `-` takes ids from standard input.

    A signal that comes before its saga's start is kept for it.

    \b
    Example:
      kompensate signal approved order-17 --app-name shop --payload '{"by": "ann"}'
    """
    with asking.client(cluster) as client:
        requests = [client.signal_request(id_, name, payload, signal_id=signal_id or uuid4().hex) for id_ in ids]
        asking.answer(asking.outcomes(client, client.send(requests), wait, timeout), output)


def _ask(type_: str, ids: list[str], reason: str, wait: bool, timeout: float, output: str, cluster: Cluster) -> None:
    with asking.client(cluster) as client:
        sent = client.send([client.request(type_, saga_id, reason) for saga_id in ids])
        asking.answer(asking.outcomes(client, sent, wait, timeout), output)


@click.command(epilog=EPILOG)
@ids_argument
@reason_option
@asking.wait_option
@asking.timeout_option
@formats
@cluster_options
def cancel(ids: list[str], reason: str, wait: bool, timeout: float, output: str, cluster: Cluster) -> None:
    """Ask sagas to stop and undo what they did; `-` takes ids from standard input.

    Past its pivot a saga only goes forward: it then refuses, and its history says so.

    \b
    Examples:
      kompensate cancel order-17 --app-name shop --reason 'customer called'
      kompensate list --app-name shop --type checkout --status running -o ids | kompensate cancel - --app-name shop
    """
    _ask(CANCEL, ids, reason, wait, timeout, output, cluster)


@click.command(epilog=EPILOG)
@ids_argument
@reason_option
@asking.wait_option
@asking.timeout_option
@formats
@cluster_options
def pause(ids: list[str], reason: str, wait: bool, timeout: float, output: str, cluster: Cluster) -> None:
    """Hold sagas where they are; `-` takes ids from standard input.

    Replies and signals are kept and nothing is sent until `kompensate resume`.

    \b
    Example:
      kompensate pause order-17 --app-name shop --reason 'payments is ill'
    """
    _ask(PAUSE, ids, reason, wait, timeout, output, cluster)


@click.command(epilog=EPILOG)
@ids_argument
@reason_option
@asking.wait_option
@asking.timeout_option
@formats
@cluster_options
def resume(ids: list[str], reason: str, wait: bool, timeout: float, output: str, cluster: Cluster) -> None:
    """Release sagas that are paused or quarantined; `-` takes ids from standard input.

    \b
    Example:
      kompensate list --app-name shop --hold quarantined -o ids | kompensate resume - --app-name shop
    """
    _ask(RESUME, ids, reason, wait, timeout, output, cluster)
