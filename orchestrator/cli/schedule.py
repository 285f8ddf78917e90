"""`kompensate schedule …`: schedules that are made, changed and looked at while workers run.

Each is a saga, `schedule:NAME`: what is asked of it is a signal, and what is shown is what it publishes.
"""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import uuid4

import click

from kompensate.orchestrator.cli import asking
from kompensate.orchestrator.cli.exits import EPILOG, NOT_FOUND, REFUSED
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import compact, output_option, print_json, print_jsonl, print_table, say, table
from kompensate.orchestrator.cli.output import name as name_callback
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.client_errors import NotFound
from kompensate.orchestrator.definitions.keeping import check_saga
from kompensate.orchestrator.definitions.schedule import OVERLAPS, SAGA, Schedule, begun, saga_id_of, said
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.status import SagaView, view
from kompensate.schemas import payloads
from kompensate.schemas.messages import Request

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whether a verb waits until a worker has handled what it asks for, how long, and how it prints."""

    wait: bool
    timeout: float
    output: str


@click.group(epilog=EPILOG)
def schedule() -> None:
    """Start sagas again and again.

    Those that the application declares are begun by its workers; these verbs are for all of them, and make others.

    \b
    Examples:
      kompensate schedule create nightly report --app-name shop --cron '0 3 * * *' --timezone Europe/Zurich
      kompensate schedule list --app-name shop
    """


def asks(command: Callable[..., None]) -> click.Command:
    """A verb of one schedule: it is given `name`, `waiting` and `cluster`."""

    @functools.wraps(command)
    def run(wait: bool, timeout: float, output: str, **given: Any) -> None:
        command(waiting=Waiting(wait, timeout, output), **given)

    formats = output_option("table", "json", "jsonl", "ids")
    for option in (cluster_options, formats, asking.timeout_option, asking.wait_option):
        run = option(run)
    run = click.argument("name", callback=name_callback)(run)
    return schedule.command(epilog=EPILOG)(run)


def timetable(command: Command) -> Command:
    """Options that say when and how; those not given are None."""
    for option in (
        click.option(
            "--catchup-window", type=float, metavar="SECONDS", help="Missed firings are made up for if not older."
        ),
        click.option(
            "--overlap", type=click.Choice(OVERLAPS), help="What becomes of a firing while another runs. Default: SKIP."
        ),
        click.option("--jitter", type=float, metavar="SECONDS", help="Delays each firing by its own part of it."),
        click.option("--timezone", metavar="ZONE", help="Of the cron expression. Default: UTC."),
        click.option("--interval", type=float, metavar="SECONDS", help="Whole seconds, counted from the epoch."),
        click.option("--cron", help="5 fields, or 6 with seconds first."),
        click.option("--input", "input_", metavar="JSON", callback=asking.payload, help="JSON, @FILE, or -."),
    ):
        command = option(command)
    return command


@asks
@click.argument("saga", callback=name_callback)
@timetable
def create(name: str, waiting: Waiting, cluster: Cluster, saga: str, input_: bytes | None, **given: Any) -> None:
    """Make the schedule NAME, which starts SAGA.

    \b
    Examples:
      kompensate schedule create nightly report --app-name shop --cron '0 3 * * *' --timezone Europe/Zurich
      kompensate schedule create probe check --app-name shop --interval 60 --overlap BUFFER_ONE --input '{"deep": true}'
    """
    made = _made(cluster, name=name, saga=saga, input=payloads.decode(input_, Any), **_given(given))
    with asking.client(cluster) as client:
        found = _status(client.lookup, name, missing_is_fine=True)
        if found is not None and not found["deleted"]:
            say(f"Error: expected no schedule {name!r}, got one: see `kompensate schedule update`")
            raise SystemExit(REFUSED)
        id_ = saga_id_of(name)
        start = client.requests.start(SAGA, begun(made), saga_id=id_)
        _send(client, name, [start, client.requests.signal(id_, SAGA, said("create", made))], waiting)


@asks
@timetable
@click.option("--saga", callback=lambda c, p, v: v and name_callback(c, p, v), help="Start this one from now on.")
def update(name: str, waiting: Waiting, cluster: Cluster, saga: str | None, input_: bytes | None, **given: Any) -> None:
    """Change the schedule NAME: what is not given stays.

    Times count anew from now on. Of a declared schedule the code says it again when its declaration changes.

    \b
    Example:
      kompensate schedule update nightly --app-name shop --cron '0 4 * * *'
    """
    changes = _given(given)
    if saga:
        changes["saga"] = saga
    if input_ is not None:
        changes["input"] = payloads.decode(input_, Any)
    if "cron" in changes or "interval" in changes:
        changes = {"cron": None, "interval": None, **changes}
    with asking.client(cluster) as client:
        found = _status(client.lookup, name)
        assert found is not None
        _ask(client, waiting, name, "update", _made(cluster, **{**found["schedule"], **changes}))


@asks
@click.option("--reason", default="", help="For people: `schedule list` shows it.")
def pause(name: str, waiting: Waiting, cluster: Cluster, reason: str) -> None:
    """Fire no more until it is resumed. What runs goes on."""
    with _known(cluster, name) as client:
        _ask(client, waiting, name, "pause", reason=reason)


@asks
def resume(name: str, waiting: Waiting, cluster: Cluster) -> None:
    """Fire again, from the next time on: nothing is made up for."""
    with _known(cluster, name) as client:
        _ask(client, waiting, name, "resume")


@asks
@click.option("--key", help="Makes it idempotent: the saga is NAME:trigger-KEY. Default: random.")
def trigger(name: str, waiting: Waiting, cluster: Cluster, key: str | None) -> None:
    """Fire once now, as the overlap policy allows."""
    with _known(cluster, name) as client:
        _ask(client, waiting, name, "trigger", key=key or uuid4().hex[:12])


def _moment(_: click.Context, __: click.Parameter, text: str) -> int:
    """Callback: a time with its zone as ms since the epoch. Raises click.BadParameter."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(f"expected a time such as 2026-11-21T03:00Z, got {text!r}") from error
    if found.tzinfo is None:
        raise click.BadParameter(f"expected a time with a zone, such as 2026-11-21T03:00Z, got {text!r}")
    return round(found.timestamp() * 1000)


@asks
@click.option("--from", "since", required=True, metavar="TIME", callback=_moment, help="Such as 2026-11-21T03:00Z.")
@click.option("--until", required=True, metavar="TIME", callback=_moment, help="The last; at most now.")
def backfill(name: str, waiting: Waiting, cluster: Cluster, since: int, until: int) -> None:
    """Fire for all times of a past range, one after the other (at once with ALLOW_ALL).

    Those that ran within the dedup window are not done again: a firing's id is the time that it is for.

    \b
    Example:
      kompensate schedule backfill nightly --app-name shop --from 2026-11-01T00:00Z --until 2026-11-10T00:00Z
    """
    if since > until:
        raise click.UsageError("expected --from to be before --until, got it after")
    with _known(cluster, name) as client:
        _ask(client, waiting, name, "backfill", since=since, until=min(until, time.time_ns() // 1_000_000))


@asks
def delete(name: str, waiting: Waiting, cluster: Cluster) -> None:
    """Fire no more, and be listed no more. What runs goes on; the name is free."""
    with _known(cluster, name) as client:
        _ask(client, waiting, name, "delete")


@schedule.command("list", epilog=EPILOG)
@output_option("table", "json", "jsonl", "ids")
@cluster_options
def list_schedules(output: str, cluster: Cluster) -> None:
    """List schedules: when they fire next, and what came of the last."""
    with asking.lookup(cluster) as lookup:
        stored = [saga for saga in lookup.all() if saga.header.definition == SAGA and not saga.ended]
    views = [view(cluster.app, saga, payloads=cluster.payloads) for saga in stored]
    shown = [status_json(each) for each in views if each.published.get(SAGA)]
    _print(sorted((each for each in shown if not each["deleted"]), key=lambda each: str(each["name"])), output)


@schedule.command("show", epilog=EPILOG)
@click.argument("name", callback=name_callback)
@output_option("table", "json")
@cluster_options
def show(name: str, output: str, cluster: Cluster) -> None:
    """Show one schedule in full. `kompensate show schedule:NAME` shows the saga that keeps it."""
    with asking.lookup(cluster) as lookup:
        found = _status(lookup, name)
    assert found is not None
    if output == "json":
        print_json(found)
        return
    card = table("", "")
    card.show_header = False
    for key, value in found.items():
        if value not in (None, "", [], False):
            card.add_row(key.replace("_", " "), value if isinstance(value, str) else compact(value))
    print_table(card)


def status_json(found: SagaView) -> dict[str, Any]:
    """A schedule as JSON: what it publishes, and whether its saga is held."""
    status = found.published[SAGA]
    if not isinstance(status, dict):
        raise click.UsageError(f"saga {found.saga_id!r}: expected to read what it publishes, got {status}")
    return {"name": status["schedule"]["name"], "hold": found.hold_reason or found.hold, **status}


def _print(shown: list[dict[str, Any]], output: str) -> None:
    if output == "ids":
        for each in shown:
            click.echo(each["name"])
    elif output == "json":
        print_json(shown)
    elif output == "jsonl":
        print_jsonl(shown)
    else:
        found = table("NAME", "SAGA", "WHEN", "OVERLAP", "NEXT", "LAST", "RUNNING", "FIRED", "NOTE")
        for each in shown:
            when = each["schedule"]
            found.add_row(
                each["name"],
                when["saga"],
                f"{when['cron']} {when['timezone']}" if when["cron"] else f"every {when['interval']:g} s",
                when["overlap"],
                each["next"] or "",
                each["last"].partition(":")[2],
                str(len(each["running"]) or ""),
                str(each["fired"]),
                _note(each),
            )
        print_table(found)


def _note(status: dict[str, Any]) -> str:
    if status["hold"]:
        return f"held: {status['hold']}"
    if status["paused"] is not None:
        return f"paused: {status['paused']}".removesuffix(": ")
    return str(status["last_failure"])


def _made(cluster: Cluster, **fields: Any) -> Schedule:
    """The schedule, checked against the code where that was given. Raises click.UsageError."""
    try:
        made = Schedule(**fields)
        if cluster.application is not None:
            check_saga(made, cluster.application.sagas)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return made


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _status(lookup: Lookup, name: str, *, missing_is_fine: bool = False) -> dict[str, Any] | None:
    """What the schedule publishes. Raises NotFound."""
    try:
        found = lookup.view(saga_id_of(name))
    except NotFound:
        if missing_is_fine:
            return None
        raise
    if not found.published.get(SAGA):
        if missing_is_fine:
            return None
        raise NotFound(f"no schedule {name!r}: saga {found.saga_id!r} is {found.shown_status}")
    return status_json(found)


@contextmanager
def _known(cluster: Cluster, name: str) -> Iterator[Client]:
    """A client, where the schedule is there: signals of a misspelt name would wait for it. Raises NotFound."""
    with asking.client(cluster) as client:
        found = _status(client.lookup, name)
        assert found is not None
        if found["deleted"]:
            say(f"Error: no schedule {name!r}: it was deleted")
            raise SystemExit(NOT_FOUND)
        yield client


def _ask(client: Client, waiting: Waiting, name: str, verb: str, made: Schedule | None = None, **fields: Any) -> None:
    _send(client, name, [client.requests.signal(saga_id_of(name), SAGA, said(verb, made, **fields))], waiting)


def _send(client: Client, name: str, requests: list[Request], waiting: Waiting) -> None:
    """Send them; of a wait, what became of the first, and whether the schedule took what was said."""
    sent = client.send(requests)
    if waiting.wait:
        sent = [replace(each, outcome=client.outcome(each, waiting.timeout)) for each in sent]
    asking.answer(sent[:1], waiting.output)
    found = _status(client.lookup, name) if waiting.wait else None
    if found is not None and found["refused"]:
        say(f"Error: {found['refused']}")
        raise SystemExit(REFUSED)
