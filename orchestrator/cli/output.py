"""How verbs print: tables for people, JSON for programs, ids for pipes. No colour unless a terminal asks for it.

JSON shows times as RFC 3339 in UTC and payloads as the JSON they are. Messages about the work go to standard
error, so that standard output is always what was asked for.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.policy import Policy
from kompensate.orchestrator.reading.status import Line, SagaView
from kompensate.orchestrator.reading.words import readable
from kompensate.schemas.messages import timestamp
from kompensate.schemas.topics import check_name, check_saga_id

Command = TypeVar("Command", bound=Callable[..., Any])

STYLES = {
    "running": "cyan",
    "pending": "cyan",
    "compensating": "yellow",
    "completed": "green",
    "compensated": "magenta",
    "cancelled": "magenta",
    "failed": "red",
    "damaged": "bold red",
}


def output_option(*formats: str) -> Callable[[Command], Command]:
    """Give the command `output`: one of `formats`, the first by default."""
    return click.option(
        "-o", "--output", type=click.Choice(formats), default=formats[0], show_default=True, help="How to print."
    )


def saga_id(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Callback for one saga id. Raises click.BadParameter."""
    try:
        return None if text is None else check_saga_id(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def saga_ids(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> list[str]:
    """Callback for saga ids: `-` stands for those on standard input, one a line. Each once. Raises BadParameter."""
    found = all_given(given)
    for text in found:
        saga_id(context, parameter, text)
    return found


def all_given(given: Iterable[str]) -> list[str]:
    """Arguments, `-` among them replaced by the lines of standard input; each once."""
    found: list[str] = []
    for text in given:
        found += [line.strip() for line in sys.stdin if line.strip()] if text == "-" else [text]
    return list(dict.fromkeys(found))


def name(_: click.Context, parameter: click.Parameter, text: str) -> str:
    """Callback for a saga definition's name. Raises click.BadParameter."""
    try:
        return check_name(parameter.name or "name", text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


ids_argument = click.argument("ids", nargs=-1, required=True, metavar="SAGA_ID...", callback=saga_ids)
optional_ids_argument = click.argument("ids", nargs=-1, metavar="[SAGA_ID...]", callback=saga_ids)


def console() -> Console:
    """Standard output. Away from a terminal nothing is coloured, cut off or wrapped."""
    if sys.stdout.isatty():
        return Console(highlight=False, markup=False, emoji=False)
    return Console(highlight=False, markup=False, emoji=False, width=10_000, color_system=None)


def table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table without lines; `right` are columns set to the right."""
    found = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        found.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return found


def print_table(found: Table) -> None:
    """Print it, without blanks at the ends of lines where it goes to a file or pipe."""
    out = console()
    if out.is_terminal:
        out.print(found)
        return
    with out.capture() as captured:
        out.print(found)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def print_json(value: object) -> None:
    """One JSON value, indented."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_jsonl(values: Iterable[object]) -> None:
    """One JSON value a line."""
    for value in values:
        click.echo(json.dumps(value, ensure_ascii=False))


def print_one_or_many(values: list[dict[str, Any]], output: str) -> None:
    """JSON of what was asked for: an object for one saga, a list for more; with jsonl always lines."""
    if output == "jsonl":
        print_jsonl(values)
    else:
        print_json(values[0] if len(values) == 1 else values)


def say(message: str) -> None:
    """A remark on standard error."""
    click.echo(message, err=True)


def styled(view: SagaView) -> Text:
    """The view's status in the colour it has everywhere."""
    style = "bold red" if view.hold == "quarantined" else STYLES.get("damaged" if view.damaged else view.status, "")
    return Text(view.shown_status, style)


def moment(ms: int | None) -> str:
    """A time for tables: UTC to the millisecond; empty for none."""
    return "" if ms is None else timestamp(ms).replace("T", " ").removesuffix("Z")


def ago(ms: int | None) -> str:
    """How long ago: `3m12s`; empty for none."""
    return "" if ms is None else duration(max(_now() - ms, 0))


def due(ms: int | None) -> str:
    """In how long, or for how long it is overdue; empty for none."""
    if ms is None:
        return ""
    left = ms - _now()
    return f"in {duration(left)}" if left >= 0 else f"overdue {duration(-left)}"


def _now() -> int:
    return time.time_ns() // 1_000_000


def duration(ms: int) -> str:
    """Milliseconds in the two largest units: `250ms`, `12.3s`, `3m12s`, `5h02m`, `2d04h`."""
    if ms < 1_000:
        return f"{ms}ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f}s"
    seconds = ms // 1000
    for size, smaller, names in ((86_400, 3_600, "dh"), (3_600, 60, "hm"), (60, 1, "ms")):
        if seconds >= size:
            return f"{seconds // size}{names[0]}{seconds % size // smaller:02}{names[1]}"
    raise AssertionError("more than a minute is some of these")


def view_json(view: SagaView) -> dict[str, Any]:
    """A saga as JSON."""
    found = asdict(view)
    if not view.detailed:
        found.pop("steps")  # a summary knows none, which is not the same as having none
    return {name: _json(name, value) for name, value in found.items()}


def _json(name: str, value: Any) -> Any:
    if name.endswith("_at") and isinstance(value, int):
        return timestamp(value)
    if name == "steps":
        return [{key: _json(key, item) for key, item in step.items()} for step in value]
    return value


def line_json(line: Line) -> dict[str, Any]:
    """One event of a history as JSON."""
    cause = line.cause
    return {
        "sequence": line.sequence,
        "time": timestamp(line.time),
        "since_previous_ms": line.since_previous,
        "event": line.kind,
        "step": line.step or None,
        "attempt": line.attempt,
        "command_id": line.command_id or None,
        "detail": line.detail,
        "fields": event_json(line.event),
        "cause": {"topic": cause.topic, "partition": cause.partition, "offset": cause.offset} if cause.topic else None,
    }


def event_json(event: e.Event) -> dict[str, Any]:
    """An event's fields, payloads as their JSON."""
    found = {field.name: getattr(event, field.name) for field in fields(event)}
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return readable(value)
    return asdict(value) if isinstance(value, Policy) else value


def compact(value: object) -> str:
    """A JSON value on one line."""
    return json.dumps(value, ensure_ascii=False)
