"""`kompensate retry | skip | complete | compensate | close`: an operator's orders, with name and reason."""

import getpass
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import click

from kompensate.orchestrator.cli import asking
from kompensate.orchestrator.cli.exits import EPILOG
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import ids_argument, output_option

Command = TypeVar("Command", bound=Callable[..., Any])


def _whoever_runs_this() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _stated(_: click.Context, __: click.Parameter, text: str) -> str:
    if not text.strip():
        raise click.BadParameter(f"expected text for the saga's history, got {text!r}")
    return text


def _order_options(command: Command) -> Command:
    """What every order takes: sagas, why, by whom, and how to wait and print."""
    for option in (
        cluster_options,
        output_option("table", "json", "jsonl", "ids"),
        asking.timeout_option,
        asking.wait_option,
        click.option(
            "--by",
            "who",
            metavar="NAME",
            default=_whoever_runs_this,
            show_default="user@host",
            callback=_stated,
            help="Who gives the order: it stands in the saga's history.",
        ),
        click.option("--reason", required=True, callback=_stated, help="Why: it stands in the saga's history."),
        ids_argument,
    ):
        command = option(command)
    return command


step_option = click.option(
    "--step", metavar="STEP", help="Its name or number in `kompensate show`; needed where several are open."
)


def _give(
    verb: str,
    ids: list[str],
    said: tuple[str, str],
    how: tuple[bool, float, str],
    cluster: Cluster,
    step: str | None = None,
    result: bytes | None = None,
) -> None:
    """`said` is who and why, `how` whether to wait, how long, and how to print."""
    (who, reason), (wait, timeout, output) = said, how
    with asking.client(cluster) as client:
        requests = [client.order_request(verb, id_, who=who, reason=reason, step=step, result=result) for id_ in ids]
        asking.answer(asking.outcomes(client, client.send(requests), wait, timeout), output)


@click.command(epilog=EPILOG)
@_order_options
@step_option
def retry(
    ids: list[str],
    reason: str,
    who: str,
    wait: bool,
    timeout: float,
    output: str,
    cluster: Cluster,
    step: str | None,
) -> None:
    """Have a step tried again now, not when its time comes; a held saga is released; `-` takes ids from standard input.

    A command without an answer goes out again under its id. A local step in doubt is run again: only say so if you
    know that it was not done.

    \b
    Example:
      kompensate retry order-17 --app-name shop --step charge --reason 'payments is back'
    """
    _give("retry", ids, (who, reason), (wait, timeout, output), cluster, step)


@click.command(epilog=EPILOG)
@_order_options
@step_option
def skip(
    ids: list[str],
    reason: str,
    who: str,
    wait: bool,
    timeout: float,
    output: str,
    cluster: Cluster,
    step: str | None,
) -> None:
    """Take a step as done without a result, or its compensation as undone; `-` takes ids from standard input.

    Of a saga that turns back it is the compensation that is skipped: you have undone it by hand.

    \b
    Example:
      kompensate skip order-17 --app-name shop --step charge --reason 'refunded by bank transfer'
    """
    _give("skip", ids, (who, reason), (wait, timeout, output), cluster, step)


@click.command(epilog=EPILOG)
@_order_options
@step_option
@click.option(
    "--result",
    metavar="JSON",
    callback=asking.payload,
    help="What the step gave: JSON, @FILE, or - for standard input.",
)
def complete(
    ids: list[str],
    reason: str,
    who: str,
    wait: bool,
    timeout: float,
    output: str,
    cluster: Cluster,
    step: str | None,
    result: bytes | None,
) -> None:
    """Say what a step gave, in its participant's stead: the saga goes on with it; `-` takes ids from standard input.

    \b
    Example:
      kompensate complete order-17 --app-name shop --step charge --result '{"receipt": "r-9"}' --reason 'in the ledger'
    """
    _give("complete", ids, (who, reason), (wait, timeout, output), cluster, step, result)


@click.command(epilog=EPILOG)
@_order_options
def compensate(
    ids: list[str], reason: str, who: str, wait: bool, timeout: float, output: str, cluster: Cluster
) -> None:
    """Undo everything of a saga that can be undone, also past its pivot; `-` takes ids from standard input.

    What has no compensation, the pivot among it, stays done. `kompensate cancel` is the way before the pivot.

    \b
    Example:
      kompensate compensate order-17 --app-name shop --reason 'the parcel was lost'
    """
    _give("compensate", ids, (who, reason), (wait, timeout, output), cluster)


@click.command(epilog=EPILOG)
@_order_options
def close(ids: list[str], reason: str, who: str, wait: bool, timeout: float, output: str, cluster: Cluster) -> None:
    """End a saga as failed, as it is: nothing more is sent and nothing undone; `-` takes ids from standard input.

    \b
    Example:
      kompensate close order-17 --app-name shop --reason 'settled by hand, ticket 4711'
    """
    _give("close", ids, (who, reason), (wait, timeout, output), cluster)
