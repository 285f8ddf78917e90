"""`kompensate retry | skip | complete | compensate | close`: an operator's orders, with name and reason."""

import getpass
import socket
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

from kompensate.orchestrator.asking.orders import STEP_VERBS
from kompensate.orchestrator.cli import asking
from kompensate.orchestrator.cli.exits import EPILOG
from kompensate.orchestrator.cli.many import Sagas, over_sagas
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.reading.status import StepView
from kompensate.schemas.messages import Request

Command = TypeVar("Command", bound=Callable[..., Any])


class Said(NamedTuple):
    """Who gives the order, and why."""

    who: str
    reason: str


def _whoever_runs_this() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _stated(_: click.Context, __: click.Parameter, text: str) -> str:
    if not text.strip():
        raise click.BadParameter(f"expected text, for it is kept, got {text!r}")
    return text


def said_options(where: str) -> Callable[[Command], Command]:
    """Give the command `reason` and `who`, both stated; `where` they can be read for good."""
    reason = click.option("--reason", required=True, callback=_stated, help=f"Why: it stands in {where}.")
    who = click.option(
        "--by",
        "who",
        metavar="NAME",
        default=_whoever_runs_this,
        show_default="user@host",
        callback=_stated,
        help=f"Who says so: it stands in {where}.",
    )
    return lambda command: reason(who(command))


in_history = said_options("the saga's history")
step_option = click.option(
    "--step", metavar="STEP", help="Its name or number in `kompensate show`; needed where several are open."
)


def _give(verb: str, sagas: Sagas, said: Said, step: str | None = None, result: bytes | None = None) -> None:
    def make(client: Client, saga_id: str, found: StepView | None) -> Request:
        # A step that was found is meant as it stood then: were the order given twice, it would count once.
        named, command_id = (step, None) if found is None else (str(found.number), found.command_id)
        return client.requests.order(
            verb, saga_id, who=said.who, reason=said.reason, step=named, result=result, command_id=command_id
        )

    sagas.ask(verb, make, steps=verb in STEP_VERBS, step=step)


@click.command(epilog=EPILOG)
@over_sagas
@in_history
@step_option
def retry(sagas: Sagas, reason: str, who: str, step: str | None) -> None:
    """Have a step tried again now, not when its time comes; a held saga is released; `-` takes ids from standard input.

    A command without an answer goes out again under its id. A local step in doubt is run again: only say so if you
    know that it was not done. A step that is queued under a limit goes out at once, past it.

    \b
    Examples:
      kompensate retry order-17 --app-name shop --step charge --reason 'payments is back'
      kompensate retry --where hold=quarantined,step=charge --app-name shop --reason 'payments is back'
    """
    _give("retry", sagas, Said(who, reason), step)


@click.command(epilog=EPILOG)
@over_sagas
@in_history
@step_option
def skip(sagas: Sagas, reason: str, who: str, step: str | None) -> None:
    """Take a step as done without a result, or its compensation as undone; `-` takes ids from standard input.

    Of a saga that turns back it is the compensation that is skipped: you have undone it by hand.

    \b
    Example:
      kompensate skip order-17 --app-name shop --step charge --reason 'refunded by bank transfer'
    """
    _give("skip", sagas, Said(who, reason), step)


@click.command(epilog=EPILOG)
@over_sagas
@in_history
@step_option
@click.option(
    "--result",
    metavar="JSON",
    callback=asking.payload,
    help="What the step gave: JSON, @FILE, or - for standard input.",
)
def complete(sagas: Sagas, reason: str, who: str, step: str | None, result: bytes | None) -> None:
    """Say what a step gave, in its participant's stead: the saga goes on with it; `-` takes ids from standard input.

    \b
    Example:
      kompensate complete order-17 --app-name shop --step charge --result '{"receipt": "r-9"}' --reason 'in the ledger'
    """
    _give("complete", sagas, Said(who, reason), step, result)


@click.command(epilog=EPILOG)
@over_sagas
@in_history
def compensate(sagas: Sagas, reason: str, who: str) -> None:
    """Undo everything of a saga that can be undone, also past its pivot; `-` takes ids from standard input.

    What has no compensation, the pivot among it, stays done. `kompensate cancel` is the way before the pivot.

    \b
    Example:
      kompensate compensate order-17 --app-name shop --reason 'the parcel was lost'
    """
    _give("compensate", sagas, Said(who, reason))


@click.command(epilog=EPILOG)
@over_sagas
@in_history
def close(sagas: Sagas, reason: str, who: str) -> None:
    """End a saga as failed, as it is: nothing more is sent and nothing undone; `-` takes ids from standard input.

    \b
    Example:
      kompensate close order-17 --app-name shop --reason 'settled by hand, ticket 4711'
    """
    _give("close", sagas, Said(who, reason))
