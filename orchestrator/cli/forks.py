"""`kompensate fork | reset`: another saga goes on from a saga's history."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, TypeVar

import click

from kompensate.orchestrator.cli import asking
from kompensate.orchestrator.cli.exits import EPILOG, REFUSED, leave
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.orders import in_history
from kompensate.orchestrator.cli.output import output_option, say
from kompensate.orchestrator.cli.output import saga_id as saga_id_callback
from kompensate.orchestrator.client import Client
from kompensate.schemas.payloads import BadPayload

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Forking:
    """What both verbs are told. `about` are the arguments of `Client.fork`."""

    saga_id: str
    new_id: str
    about: dict[str, Any]
    timeout: float
    output: str
    cluster: Cluster

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A point from which no saga may go on is a refusal, and nothing was sent."""
        with asking.client(self.cluster) as found:
            try:
                yield found
            except BadPayload:
                raise
            except ValueError as error:
                leave(REFUSED, f"Error: {error}")


def _forking(command: Command) -> Command:
    """Give the command `forking: Forking`."""

    @wraps(command)
    def with_forking(
        *args: Any,
        saga_id: str,
        new_id: str,
        step: str | None,
        event: int | None,
        version: int | None,
        reason: str,
        who: str,
        timeout: float,
        output: str,
        cluster: Cluster,
        **others: Any,
    ) -> Any:
        if (step is None) == (event is None):
            got = "neither" if step is None else "both"
            raise click.UsageError(f"expected --from or --from-event, got {got}")
        about = {"step": step, "event": event, "version": version, "reason": reason, "who": who}
        forking = Forking(saga_id, new_id, about, timeout, output, cluster)
        return command(*args, forking=forking, **others)

    found: Any = with_forking
    for option in (
        cluster_options,
        output_option("table", "json", "jsonl", "ids"),
        asking.timeout_option,
        in_history,
        click.option(
            "--version",
            type=click.IntRange(min=1),
            metavar="N",
            help="The definition's version that the new saga follows.  [default: the saga's own]",
        ),
        click.option(
            "--from-event",
            "event",
            type=click.IntRange(min=1),
            metavar="N",
            help="Go on after this event: its number in `kompensate history`.",
        ),
        click.option(
            "--from",
            "step",
            metavar="STEP",
            help="Go on where this step was asked for, which is run again: its name, or the number of any operation.",
        ),
        click.argument("new_id", metavar="NEW_ID", callback=saga_id_callback),
        click.argument("saga_id", metavar="SAGA_ID", callback=saga_id_callback),
    ):
        found = option(found)
    return found  # type: ignore[no-any-return]  # functools.wraps keeps its signature


@click.command(epilog=EPILOG)
@_forking
@asking.wait_option
def fork(forking: Forking, wait: bool) -> None:
    """Have saga NEW_ID go on from the history of SAGA_ID, which has ended, with today's code.

    Steps before the point stand, and are undone should the new saga turn back; what SAGA_ID did after it stays as it
    is. One that is under way is reset instead, so that only one of both goes on.

    \b
    Examples:
      kompensate fork order-17 order-17b --from ship --app-name shop --reason 'the address is mended'
      kompensate fork order-17 order-17b --from-event 8 --version 2 --app-name shop --reason 'by the new rules'
    """
    with forking.client() as client:
        point = client.point(forking.saga_id, **forking.about)
        (sent,) = client.send([client.requests.fork(point, forking.new_id)])
        if point.left:
            say(f"left as they are in {forking.saga_id}: {', '.join(point.left)}")
        if wait:
            sent = replace(sent, outcome=client.outcome(sent, forking.timeout))
    asking.answer([sent], forking.output)


@click.command(epilog=EPILOG)
@_forking
def reset(forking: Forking) -> None:
    """Have saga NEW_ID go on from an earlier point of SAGA_ID, which undoes what it did after that and ends.

    NEW_ID waits until SAGA_ID has ended, then it goes on with today's code. Waits until a worker has taken both.

    \b
    Example:
      kompensate reset order-17 order-17b --from reserve --app-name shop --reason 'wrong warehouse'
    """
    with forking.client() as client:
        sent = client.reset(forking.saga_id, forking.new_id, timeout=forking.timeout, **forking.about)
    asking.answer([sent], forking.output)
