"""`kompensate dlq list | show | retry | discard`: dead letters of services, and what an application quarantined.

Nothing but the topics is needed: a disposal is a record behind its letter, written with what it disposes of.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from kompensate.orchestrator.asking.settling import Settler
from kompensate.orchestrator.cli.exits import EPILOG, REFUSED
from kompensate.orchestrator.cli.letters import (
    NAMES,
    WHERE,
    Box,
    Command,
    box_options,
    in_full,
    names_given,
    now,
    of_names,
    print_letters,
)
from kompensate.orchestrator.cli.listing import LIMIT
from kompensate.orchestrator.cli.orders import said_options
from kompensate.orchestrator.cli.output import compact, output_option, print_one_or_many, say
from kompensate.orchestrator.cli.pace import RATE, TICK_SECONDS, Pace
from kompensate.orchestrator.client_errors import NotTaken
from kompensate.orchestrator.reading.letters import Letter, LetterFilter, unfit
from kompensate.orchestrator.reading.reader import Reader
from kompensate.schemas.letters import DISCARDED, RETRIED


@click.group()
def dlq() -> None:
    """Dead letters of services, and what an application quarantined: look, hand in again, discard."""


@dlq.command("list", epilog=EPILOG)
@WHERE
@click.option("--done", is_flag=True, help="Those that somebody has disposed of, with who and why; else the others.")
@click.option("--limit", type=click.IntRange(min=0), default=LIMIT, show_default=True, help="At most so many; 0: all.")
@output_option("table", "json", "jsonl", "ids")
@box_options
def list_letters(where: LetterFilter | None, done: bool, limit: int, output: str, box: Box) -> None:
    """List letters that nobody has disposed of, the newest first.

    \b
    Examples:
      kompensate dlq list --app-name shop
      kompensate dlq list --service wallet --where answered=no,older-than=2h
    """
    with Reader(box.bootstrap, box.kafka) as reader:
        found = [letter for letter in box.letters(reader) if (letter.disposal is not None) == done]
    matching = [letter for letter in found if where is None or where.matches(letter, now())]
    matching.sort(key=lambda letter: letter.record.timestamp, reverse=True)
    shown = matching[:limit] if limit else matching
    print_letters(shown, output)
    if output == "table":
        counts = Counter(letter.record.topic for letter in matching)
        parts = ", ".join(f"{count} in {topic}" for topic, count in counts.most_common())
        say(f"{len(shown)} of {len(matching)} letters" + (f": {parts}" if parts else ""))


@dlq.command(epilog=EPILOG)
@click.argument("names", nargs=-1, required=True, metavar="LETTER...", callback=names_given)
@output_option("text", "json", "jsonl")
@box_options
def show(names: list[str], output: str, box: Box) -> None:
    """Show letters in full: where from, why, the stack of the error, headers, key and value.

    \b
    Example:
      kompensate dlq show wallet.dead/0@17
    """
    with Reader(box.bootstrap, box.kafka) as reader:
        found = of_names(names, list(box.letters(reader)))
    full = [in_full(letter) for letter in found]
    if output != "text":
        print_one_or_many(full, output)
        return
    for one in full:
        stack = one.pop("stack")
        for name, value in one.items():
            click.echo(f"{name:<10}  {value if isinstance(value, str) and value.isprintable() else compact(value)}")
        if stack:
            click.echo(f"stack\n{stack}")
        click.echo()


def _disposing(command: Command) -> Command:
    """What `retry` and `discard` share: which letters, and how it is done."""
    options: Sequence[Callable[[Any], Any]] = (
        box_options,
        output_option("table", "json", "jsonl", "ids"),
        said_options("the topic, behind the letter"),
        click.option(
            "--rate",
            type=click.FloatRange(min=0, min_open=True),
            default=RATE,
            show_default=True,
            metavar="N",
            help="So many letters a second.",
        ),
        click.option("--dry-run", is_flag=True, help="Print which letters it would be, and do nothing."),
        WHERE,
        NAMES,
    )
    for option in options:
        command = option(command)
    return command


@dlq.command(epilog=EPILOG)
@_disposing
def retry(**given: Any) -> None:
    """Hand letters in again: their bytes, key and headers back to the topic and partition they came from, once.

    A letter that was answered is left alone: an answer is final, and trying again is a new attempt by the saga
    (`kompensate retry SAGA`). `-` takes letters from standard input.

    \b
    Examples:
      kompensate dlq retry wallet.dead/0@17 --reason 'reads again since 1.4.2'
      kompensate dlq retry --app-name shop --where type=kompensate.start --dry-run --reason 'deployed at last'
    """
    _dispose(RETRIED, **given)


@dlq.command(epilog=EPILOG)
@_disposing
def discard(**given: Any) -> None:
    """Note that nothing is to be done about letters: `list` leaves them out. They stay in their topic.

    \b
    Example:
      kompensate dlq discard --service wallet --where answered=yes,older-than=7d --reason 'sagas were undone'
    """
    _dispose(DISCARDED, **given)


def _dispose(
    verb: str,
    *,
    names: list[str],
    where: LetterFilter | None,
    dry_run: bool,
    rate: float,
    who: str,
    reason: str,
    output: str,
    box: Box,
) -> None:
    if bool(names) == (where is not None):
        raise click.UsageError("expected letters or --where, got " + ("both" if names else "neither"))
    work = _Work(verb, names, where, _Said(who, reason), rate)
    try:
        for topic in box.topics:
            one = Box([topic], box.bootstrap, box.kafka)
            if dry_run:
                work.choose(one)
            else:
                work.do(one, Settler(box.bootstrap, topic, box.kafka))
    except KeyboardInterrupt:
        say(work.told(verb) + "; the same again goes on from there")
        raise
    print_letters(work.done, output)
    for name, why in work.refused:
        say(f"{name}: {why}")
    say(work.told(f"would be {verb}" if dry_run else verb))
    if work.refused:
        raise SystemExit(REFUSED)


@dataclass(frozen=True, slots=True)
class _Said:
    who: str
    why: str


class _Work:
    """Letters disposed of one after the other. Those named that are left alone, and those not taken, are `refused`."""

    def __init__(self, verb: str, names: list[str], where: LetterFilter | None, said: _Said, rate: float) -> None:
        self._verb, self._names, self._where, self._said, self._rate = verb, names, where, said, rate
        self._pace = Pace()
        self._alone = Counter[str]()
        self._matched = 0
        self.done: list[Letter] = []
        self.refused: list[tuple[str, str]] = []

    def do(self, box: Box, settler: Settler) -> None:
        """Dispose of the letters of one topic, which `settler` has to itself: so it is read only now."""
        chosen, gone = self._chosen(box), len(self.done)
        for letter in chosen:
            while self._pace.allowed(self._rate, time.monotonic(), gone) <= 0:
                time.sleep(TICK_SECONDS)
            gone += 1
            try:
                settler.settle(letter, self._verb, who=self._said.who, why=self._said.why)
                self.done.append(letter)
            except NotTaken as error:
                self._alone["not taken"] += 1
                self.refused.append((letter.name, str(error)))

    def choose(self, box: Box) -> None:
        """Whom it would be."""
        self.done += self._chosen(box)

    def _chosen(self, box: Box) -> list[Letter]:
        with Reader(box.bootstrap, box.kafka) as reader:
            found = list(box.letters(reader))
        if self._where is None:
            matching = of_names([name for name in self._names if name.rpartition("/")[0] == box.topics[0]], found)
        else:
            # The older first: what one saga was sent goes back in its order.
            matching = [letter for letter in found if letter.disposal is None and self._where.matches(letter, now())]
        self._matched += len(matching)
        return [letter for letter in matching if self._fits(letter)]

    def _fits(self, letter: Letter) -> bool:
        word, why = unfit("discard" if self._verb == DISCARDED else "retry", letter)
        if word:
            self._alone[word] += 1
            if self._where is None:
                self.refused.append((letter.name, why))
        return not word

    def told(self, how: str) -> str:
        """The summary in a line."""
        alone = ", ".join(f"{count} {word}" for word, count in self._alone.most_common())
        rest = f"{self._alone.total()} left alone{f' ({alone})' if alone else ''}"
        return f"{self._matched} letters match, {len(self.done)} {how}, {rest}"
