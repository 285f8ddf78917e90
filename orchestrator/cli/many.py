"""What verbs share that ask something of sagas: which ones, by id or by a filter, and how many a second.

A filter is judged again right before each saga is asked: what a saga has become meanwhile counts. So a run that was
interrupted is simply run again, and the same run twice asks nobody who has heard of the first.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

from kompensate.orchestrator.cli import asking
from kompensate.orchestrator.cli.batch import Batch
from kompensate.orchestrator.cli.listing import print_views, where_option
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import output_option, saga_ids, say
from kompensate.orchestrator.cli.pace import RATE, TICK_SECONDS
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.reading.outcomes import Outcome, Sent
from kompensate.orchestrator.reading.rejections import rejections
from kompensate.orchestrator.reading.selecting import Filter
from kompensate.orchestrator.reading.status import StepView
from kompensate.schemas.messages import Request

Command = TypeVar("Command", bound=Callable[..., Any])
Make = Callable[[Client, str, StepView | None], Request]
"""The request for one saga; the step is the one that was found where a filter chose the saga."""


@dataclass(frozen=True, slots=True)
class Sagas:
    """The sagas that a command is about, `ids` or those that `where` lets through, and how it is to be done."""

    ids: list[str]
    where: Filter | None
    dry_run: bool
    rate: float
    wait: bool
    timeout: float
    output: str
    cluster: Cluster

    def ask(self, verb: str, make: Make, *, steps: bool = False, step: str | None = None) -> None:
        """Ask each, and print what became of it. `steps`: it is about a step, the one named or the only one open."""
        with asking.client(self.cluster) as client:
            if self.where is None:
                sent = client.send([make(client, saga_id, None) for saga_id in self.ids])
                asking.answer(_outcomes(client, sent, self.timeout) if self.wait else sent, self.output)
                return
            batch = Batch(verb, self.where, self.cluster.app, steps=steps, step=step)
            if self.dry_run:
                self._tell(batch)
                return
            sent = self._ask_many(client, batch, make)
            say(batch.told("asked"))
            asking.answer(_outcomes(client, sent, self.timeout) if self.wait else sent, self.output)

    def _tell(self, batch: Batch) -> None:
        with asking.much_to_hold(), asking.lookup(self.cluster) as found:
            batch.take(found.all(), _now())
        print_views([view for view, _ in batch.everything(_now())], self.output)
        say(batch.told("would be asked"))

    def _ask_many(self, client: Client, batch: Batch, make: Make) -> list[Sent]:
        sent: list[Sent] = []
        try:
            with asking.lookup(self.cluster) as following:
                for changes in following.follow(None, TICK_SECONDS):
                    batch.take(changes, _now())
                    chosen = batch.next(self.rate, time.monotonic(), _now())
                    sent += client.send([make(client, found.saga_id, step) for found, step in chosen])
                    if batch.done:
                        break
        except KeyboardInterrupt:
            say(batch.told("asked") + "; the same again goes on from there")
            raise
        return sent


def _now() -> int:
    return time.time_ns() // 1_000_000


def _outcomes(client: Client, all_sent: list[Sent], timeout: float) -> list[Sent]:
    """What became of each request that is no start: once the last of a partition is handled, all before it are."""
    last = {sent.partition: sent for sent in sorted(all_sent, key=lambda sent: sent.offset)}
    deadline = time.monotonic() + timeout
    for sent in last.values():
        client.outcome(sent, max(deadline - time.monotonic(), 0.0))
    if not last:
        return []
    found = rejections(client.lookup, sorted(last), min(sent.time for sent in all_sent))
    reasons = [found.get((sent.topic, sent.partition, sent.offset)) for sent in all_sent]
    return [
        replace(sent, outcome=Outcome("handled") if reason is None else Outcome("rejected", reason))
        for sent, reason in zip(all_sent, reasons, strict=True)
    ]


def _ids(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> list[str] | None:
    """None where none are given: standard input may have none either, and that is no mistake."""
    return saga_ids(context, parameter, given) if given else None


def over_sagas(command: Command) -> Command:
    """Give the command `sagas: Sagas`: ids or --where, and how they are asked."""

    @functools.wraps(command)
    def with_sagas(
        *args: Any,
        ids: list[str] | None,
        where: Filter | None,
        dry_run: bool,
        rate: float | None,
        wait: bool,
        timeout: float,
        output: str,
        cluster: Cluster,
        **others: Any,
    ) -> Any:
        if (ids is None) == (where is None):
            raise click.UsageError("expected saga ids or --where, got " + ("neither" if ids is None else "both"))
        if where is None and (dry_run or rate is not None):
            raise click.UsageError("expected --dry-run and --rate with --where only, got them with saga ids")
        sagas = Sagas(ids or [], where, dry_run, rate or RATE, wait, timeout, output, cluster)
        return command(*args, sagas=sagas, **others)

    options: Sequence[Callable[[Any], Any]] = (
        cluster_options,
        output_option("table", "json", "jsonl", "ids"),
        asking.timeout_option,
        asking.wait_option,
        click.option(
            "--rate",
            type=click.FloatRange(min=0, min_open=True),
            metavar="N",
            help=f"With --where: ask so many sagas a second.  [default: {RATE:g}]",
        ),
        click.option("--dry-run", is_flag=True, help="With --where: print which sagas would be asked, and ask none."),
        where_option,
        click.argument("ids", nargs=-1, metavar="[SAGA_ID...]", callback=_ids),
    )
    found: Any = with_sagas
    for option in options:
        found = option(found)
    return found  # type: ignore[no-any-return]  # functools.wraps keeps its signature
