"""What `kompensate dlq` is about: which topics, which letters of them, and how letters are printed."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from kompensate.orchestrator.cli.asking import quiet
from kompensate.orchestrator.cli.options import named, named_options
from kompensate.orchestrator.cli.output import ago, all_given, print_json, print_jsonl, print_table, table
from kompensate.orchestrator.client_errors import NotFound
from kompensate.orchestrator.reading.conditions import BadFilter
from kompensate.orchestrator.reading.letters import NAME, Letter, LetterFilter, letters_of
from kompensate.orchestrator.reading.reader import Reader
from kompensate.orchestrator.reading.words import readable
from kompensate.schemas.messages import timestamp
from kompensate.schemas.topics import Topics, check_name, dead_topic

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Box:
    """The topics whose letters a command is about, on their Kafka."""

    topics: Sequence[str]
    bootstrap: str
    kafka: dict[str, str]

    def letters(self, reader: Reader) -> Iterator[Letter]:
        """All of them, topic by topic. Raises ClientError."""
        for topic in self.topics:
            partitions = reader.partitions(topic)
            yield from letters_of(reader.scan(topic, dict.fromkeys(range(partitions), 0)))


def names_given(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> list[str]:
    """Callback for letters, each once. Raises click.BadParameter."""
    found = all_given(given)
    for text in found:
        if NAME.fullmatch(text) is None:
            raise click.BadParameter(f"expected TOPIC/PARTITION@OFFSET, as in wallet.dead/0@17, got {text!r}")
    return found


def _where(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> LetterFilter | None:
    try:
        return LetterFilter.parse(texts) if texts else None
    except BadFilter as error:
        raise click.BadParameter(str(error)) from error


def _services(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return tuple(check_name("--service", name) for name in given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


NAMES = click.argument("names", nargs=-1, metavar="[LETTER...]", callback=names_given)
WHERE = click.option(
    "--where",
    multiple=True,
    metavar="NAME=VALUE,...",
    callback=_where,
    help="Letters by in (the topic they lie in), from (the topic they lay in), saga, type, step, answered (yes, no), "
    "reason (text it contains), older-than (90s, 15m, 2h, 7d), joined by commas or `and`. All must hold; of one name "
    "given twice, either.",
)


def box_options(command: Command) -> Command:
    """Give the command `box: Box`: the topics of --service, else those of the application; with `names` theirs."""

    @functools.wraps(command)
    def with_box(
        *args: Any,
        services: tuple[str, ...],
        app_name: str | None,
        app: str | None,
        app_dir: str,
        bootstrap: str,
        prefix: str,
        kafka: dict[str, str],
        **others: Any,
    ) -> Any:
        quiet()
        names = others.get("names") or []
        if names:
            topics = sorted({name.rpartition("/")[0] for name in names})
        elif services:
            topics = [dead_topic(service, prefix) for service in services]
        else:
            topics = _of_application(app_name, app, app_dir, prefix, Reader(bootstrap, kafka))
        return command(*args, box=Box(topics, bootstrap, kafka), **others)

    service = click.option(
        "--service",
        "services",
        multiple=True,
        metavar="NAME",
        callback=_services,
        help="A service's dead letters; may be repeated. Default: the application's quarantine and all its services'.",
    )
    return service(named_options(with_box))  # type: ignore[return-value]  # functools.wraps keeps its signature


def _of_application(app_name: str | None, app: str | None, app_dir: str, prefix: str, reader: Reader) -> list[str]:
    """Its quarantine, and the dead letters of the services it has reply topics for."""
    found = named(app_name, app, app_dir)
    topics = Topics(found if isinstance(found, str) else found.name, prefix)
    with reader:
        there = reader.topics()
        reader.partitions(topics.quarantine)
    services = [topic.removeprefix(topics.replies("")) for topic in there if topic.startswith(topics.replies(""))]
    return [topics.quarantine, *sorted(topics.dead(service) for service in services if topics.dead(service) in there)]


def print_letters(shown: Sequence[Letter], output: str) -> None:
    """Letters a line each."""
    if output == "ids":
        for letter in shown:
            click.echo(letter.name)
    elif output == "json":
        print_json([letter_json(letter) for letter in shown])
    elif output == "jsonl":
        print_jsonl(letter_json(letter) for letter in shown)
    else:
        found = table("LETTER", "TYPE", "SAGA", "STEP", "ANSWERED", "AGE", "REASON")
        for letter in shown:
            said = letter.disposal
            told = letter.reason if said is None else f"{said.verb} by {said.who}: {said.why}"
            age = ago(letter.record.timestamp)
            cells = (letter.type, letter.saga_id, letter.step, letter.answered or "no", age, told)
            found.add_row(letter.name, *map(_on_a_line, cells))
        print_table(found)


def _on_a_line(text: str) -> str:
    """Without what would move a terminal's cursor: whoever wrote the record chose it."""
    return "".join(each if each.isprintable() else " " for each in text)


def letter_json(letter: Letter) -> dict[str, Any]:
    """A letter as JSON, without what it carries."""
    said, origin = letter.disposal, letter.origin
    return {
        "letter": letter.name,
        "type": letter.type or None,
        "saga_id": letter.saga_id or None,
        "step": letter.step or None,
        "answered": letter.answered or None,
        "reason": letter.reason,
        "at": timestamp(letter.record.timestamp),
        "origin": None if origin is None else {"topic": origin[0], "partition": origin[1], "record": letter.identity},
        "disposal": None
        if said is None
        else {"what": said.verb, "by": said.who, "reason": said.why, "at": timestamp(said.time)},
    }


def in_full(letter: Letter) -> dict[str, Any]:
    """A letter as JSON, with its own headers, key and value; and the stack."""
    record = letter.record
    headers = {name: (value or b"").decode(errors="backslashreplace") for name, value in letter.original_headers}
    key = None if record.key is None else record.key.decode(errors="backslashreplace")
    stack = letter.stack or None
    return {**letter_json(letter), "headers": headers, "key": key, "value": readable(record.value), "stack": stack}


def of_names(names: Sequence[str], found: Sequence[Letter]) -> list[Letter]:
    """The letters of these names. Raises NotFound."""
    known = {letter.name: letter for letter in found}
    missing = [name for name in names if name not in known]
    if missing:
        raise NotFound(
            f"letter {missing[0]}: expected a dead letter or quarantined record there, got none (is it gone by age, a "
            "disposal, or the first copy of one that was written twice?); `kompensate dlq list` has those there are"
        )
    return [known[name] for name in names]


def now() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
