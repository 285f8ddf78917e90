"""`kompensate signal | cancel | pause | resume`: requests to sagas that are there."""

from uuid import uuid4

import click

from kompensate.orchestrator.cli import asking
from kompensate.orchestrator.cli.exits import EPILOG
from kompensate.orchestrator.cli.many import Sagas, over_sagas
from kompensate.orchestrator.cli.output import name as name_callback

reason_option = click.option("--reason", default="", help="For people: it stands in the saga's history.")


@click.command(epilog=EPILOG)
@click.argument("name", callback=name_callback)
@over_sagas
@click.option(
    "--payload",
    metavar="JSON",
    callback=asking.payload,
    help="What the signal carries: JSON, @FILE, or - for standard input.",
)
@click.option(
    "--signal-id",
    help="Makes it idempotent: a saga takes each id once. Needed with --where. Default: random.",
)
def signal(name: str, sagas: Sagas, payload: bytes | None, signal_id: str | None) -> None:
    """Send the signal NAME to sagas; `-` takes ids from standard input.

    A signal that comes before its saga's start is kept for it.

    \b
    Examples:
      kompensate signal approved order-17 --app-name shop --payload '{"by": "ann"}'
      kompensate signal remind --where definition=approval --signal-id 2026-11-21 --app-name shop
    """
    if sagas.where is not None and signal_id is None:
        raise click.UsageError("expected --signal-id with --where, got none: so that the same again is taken once")
    sagas.ask(
        "signal",
        lambda client, id_, _: client.requests.signal(id_, name, payload, signal_id=signal_id or uuid4().hex),
    )


@click.command(epilog=EPILOG)
@over_sagas
@reason_option
def cancel(sagas: Sagas, reason: str) -> None:
    """Ask sagas to stop and undo what they did; `-` takes ids from standard input.

    Past its pivot a saga only goes forward: it then refuses, and its history says so.

    \b
    Examples:
      kompensate cancel order-17 --app-name shop --reason 'customer called'
      kompensate cancel --where definition=checkout,status=running,older-than=2h --dry-run --app-name shop
    """
    sagas.ask("cancel", lambda client, saga_id, _: client.requests.cancel(saga_id, reason))


@click.command(epilog=EPILOG)
@over_sagas
@reason_option
def pause(sagas: Sagas, reason: str) -> None:
    """Hold sagas where they are; `-` takes ids from standard input.

    Replies and signals are kept and nothing is sent until `kompensate resume`.

    \b
    Examples:
      kompensate pause order-17 --app-name shop --reason 'payments is ill'
      kompensate pause --where step=charge --app-name shop --reason 'payments is ill'
    """
    sagas.ask("pause", lambda client, saga_id, _: client.requests.pause(saga_id, reason))


@click.command(epilog=EPILOG)
@over_sagas
@reason_option
def resume(sagas: Sagas, reason: str) -> None:
    """Release sagas that are paused or quarantined; `-` takes ids from standard input.

    \b
    Example:
      kompensate resume --where hold=quarantined --rate 20 --app-name shop --reason 'mended in 1.4.2'
    """
    sagas.ask("resume", lambda client, saga_id, _: client.requests.resume(saga_id, reason))
