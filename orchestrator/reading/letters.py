"""Dead letters and quarantined records as they stand: where each came from, why, and whether it was disposed of.

A letter is named by its place, as in `wallet.dead/0@17`. A disposal is a record behind it in the same topic; it counts
for the letters that were there before it, so a record that is put aside once more shows again. A letter that a crash
wrote twice is one: they have one origin.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.conditions import BadFilter, conditions, malformed
from kompensate.orchestrator.reading.selecting import milliseconds
from kompensate.schemas import letters as q
from kompensate.schemas.messages import ORDERS, START
from kompensate.schemas.topics import Topics

NAME = re.compile(r"(?P<topic>[A-Za-z0-9._-]+)/(?P<partition>[0-9]{1,9})@(?P<offset>[0-9]{1,18})")
_OURS = frozenset(value for name, value in vars(q).items() if name.isupper() and str(value).startswith("q_"))


@dataclass(frozen=True, slots=True)
class Disposal:
    """What became of a letter: `retried` or `discarded`, by whom, why and when (ms since the epoch)."""

    verb: str
    who: str
    why: str
    time: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A record that was put aside. `headers` are all of its headers as text, `disposal` what was disposed of it."""

    record: Record
    headers: dict[str, str] = field(repr=False)
    disposal: Disposal | None = None

    @property
    def name(self) -> str:
        """Its place, by which the command line knows it."""
        return f"{self.record.topic}/{self.record.partition}@{self.record.offset}"

    @property
    def reason(self) -> str:
        return self.headers.get(q.REASON, "")

    @property
    def stack(self) -> str:
        return self.headers.get(q.STACK, "")

    @property
    def answered(self) -> str:
        """The outcome that its saga was told; empty: none."""
        return self.headers.get(q.ANSWERED, "")

    @property
    def saga_id(self) -> str:
        return self.headers.get("ce_correlationid", "")

    @property
    def type(self) -> str:
        return self.headers.get("ce_type", "")

    @property
    def step(self) -> str:
        return self.headers.get("ce_sagastep", "")

    @property
    def origin(self) -> tuple[str, int] | None:
        """(topic, partition) where it lay, or was to lie; None where its headers do not say."""
        topic, partition = self.headers.get(q.TOPIC, ""), self.headers.get(q.PARTITION, "")
        return (topic, int(partition)) if topic and partition.isdecimal() else None

    @property
    def identity(self) -> str:
        """Where it was read for the first time, the same for copies of it; its own place where it does not say."""
        if self.origin is None:
            return self.name
        at = self.headers.get(q.OFFSET) or "/".join(self.headers.get(name, "") for name in (q.LSN, q.INDEX))
        return f"{self.headers.get(q.TOPIC, '')}/{self.headers.get(q.PARTITION, '')}@{at}"

    @property
    def original_headers(self) -> list[tuple[str, bytes | None]]:
        """The headers it came with."""
        return [header for header in self.record.headers or () if header[0] not in _OURS]

    @property
    def put_aside_at(self) -> int:
        """When, in ms since the epoch: workers and intakes note when the record itself was written."""
        told = self.headers.get(q.TIME, "")
        if told.isdecimal():
            return int(told)
        try:
            return round(datetime.fromisoformat(told).timestamp() * 1000)
        except ValueError:
            return self.record.timestamp


def letters_of(records: Iterable[Record]) -> list[Letter]:
    """The letters among the records of a topic, in their order, each with the disposal about it; of copies the last."""
    found: dict[str, Letter] = {}
    disposals: dict[str, Disposal] = {}
    for record in records:
        headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers or ()}
        if q.DONE in headers:
            verb, who, why, of = (headers.get(name, "") for name in (q.DONE, q.WHO, q.WHY, q.OF))
            disposals[of] = Disposal(verb, who, why, record.timestamp)
        else:
            letter = Letter(record, headers)
            found.pop(letter.identity, None)
            found[letter.identity] = letter
    return [_disposed(letter, disposals.get(letter.identity)) for letter in found.values()]


def _disposed(letter: Letter, disposal: Disposal | None) -> Letter:
    if disposal is None or disposal.time < letter.record.timestamp:
        return letter
    return Letter(letter.record, letter.headers, disposal)


def unfit(verb: str, letter: Letter) -> tuple[str, str]:
    """Why a letter is left alone by `retry` or `discard`, in a word and in a sentence; empty: it may be done."""
    if letter.disposal is not None:
        by = f"{letter.disposal.verb} by {letter.disposal.who}: {letter.disposal.why}"
        return f"{letter.disposal.verb} already", by
    return ("", "") if verb == "discard" else _not_again(letter)


def _not_again(letter: Letter) -> tuple[str, str]:
    if letter.answered:
        told = f"answered {letter.answered}, and an answer is final"
        if letter.type == START:
            return "answered", f"{told}: the saga that asked for this one has gone on without it"
        again = f"kompensate retry {letter.saga_id}" + (f" --step {letter.step}" if letter.step else "")
        return "answered", f"{told}: trying again is a new attempt by the saga, as by `{again}`"
    if letter.origin is None:
        return "of no origin", f"expected headers {q.TOPIC} and {q.PARTITION} that say where it lay, got none"
    if q.OMITTED in letter.headers:
        return "without value", f"its value was left out ({letter.headers[q.OMITTED]})"
    if letter.type in ORDERS.values():
        anew = f"give it anew, as by `kompensate {letter.type.removeprefix('kompensate.')}`"
        return "orders", f"an order is about the saga as it stood then: {anew}"
    if _of_others(letter):
        why = f"others read {letter.origin[0]} too, and would see it twice: who owns that topic may write it again"
        return "of other people's topics", why
    return "", ""


def _of_others(letter: Letter) -> bool:
    """Did an intake read it from a topic that is not the application's?"""
    app, dot, _ = letter.record.topic.rpartition(".quarantine")
    topic, names = letter.origin[0] if letter.origin else "", Topics(app)
    return bool(dot) and topic not in (names.requests, names.control) and not topic.startswith(names.replies(""))


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which letters are meant. Several values of one name are alternatives; all names must hold."""

    wanted: dict[str, frozenset[str]]
    older_than: int | None

    @classmethod
    def parse(cls, texts: Iterable[str]) -> "LetterFilter":
        """Conditions as `conditions` has them. Raises BadFilter."""
        found: dict[str, set[str]] = {}
        names = ", ".join((*_FIELDS, "older-than"))
        for condition in (each for text in texts for each in conditions(text, names)):
            name, value = condition.name, condition.value
            if condition.comparison not in ("=", "==") or name not in (*_FIELDS, "older-than"):
                raise malformed(names, f"{name}{condition.comparison}{value}")
            if name == "answered" and value not in ("yes", "no"):
                raise BadFilter(f"answered: expected yes or no, got {value!r}")
            found.setdefault(name, set()).add(value)
        ages = [milliseconds(text) for text in found.pop("older-than", ())]
        return cls({name: frozenset(values) for name, values in found.items()}, min(ages, default=None))

    def matches(self, letter: Letter, now: int) -> bool:
        """Is it meant? `now` in ms since the epoch."""
        if self.older_than is not None and letter.put_aside_at > now - self.older_than:
            return False
        return all(any(_FIELDS[name](letter, value) for value in values) for name, values in self.wanted.items())


_FIELDS: dict[str, Callable[[Letter, str], Any]] = {
    "in": lambda letter, value: letter.record.topic == value,
    "from": lambda letter, value: letter.origin is not None and letter.origin[0] == value,
    "saga": lambda letter, value: letter.saga_id == value,
    "type": lambda letter, value: letter.type == value,
    "step": lambda letter, value: letter.step == value,
    "answered": lambda letter, value: bool(letter.answered) == (value == "yes"),
    "reason": lambda letter, value: value in letter.reason,
}
"""By name: `reason` is text that it contains."""
