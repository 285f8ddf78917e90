"""The service to be tried: which commands of it are done, refused and undone. Read from a file that its author writes.

    {"done":         {"type": "payments.Charge", "payload": {"order_id": "$saga", "customer": "1", "cents": 100}},
     "refused":      {"type": "payments.Charge", "payload": {"order_id": "$saga", "customer": "blocked", "cents": 100}},
     "compensation": {"type": "payments.Refund", "payload": {"order_id": "$saga", "customer": "1", "cents": 100}},
     "effects":      ["psql", "-tAc", "SELECT count(*) FROM ledger WHERE order_id = '$saga'", "postgresql://…"]}

`$saga` is replaced by the saga's id wherever it stands. `effects` is a program that prints how many commands of that
saga took effect, compensations among them. All but `done` may be left out; what needs them is then not tried.
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kompensate.schemas.topics import check_name

SAGA = "$saga"
KINDS = ("done", "refused", "compensation")
EFFECTS_SECONDS_MAX = 30.0


class BadSubject(ValueError):
    """The file does not say what is to be sent; the text says what was expected where."""


class CannotCount(RuntimeError):
    """The program that counts effects printed no number."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A command to send: its type, and its payload as JSON in which SAGA stands for the saga's id."""

    type: str
    payload: str

    def value(self, saga_id: str) -> bytes:
        """The payload of one saga's command."""
        return self.payload.replace(SAGA, saga_id).encode()


@dataclass(frozen=True, slots=True)
class Subject:
    """A service and its samples by kind. `counter` are the words of a command that counts effects, or empty."""

    service: str
    samples: Mapping[str, Sample]
    counter: tuple[str, ...] = ()

    def effects(self, saga_id: str) -> int:
        """How many of the saga's commands took effect, as the user's own program counts them. Raises CannotCount."""
        words = [word.replace(SAGA, saga_id) for word in self.counter]
        try:
            ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=EFFECTS_SECONDS_MAX)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotCount(f"effects: expected {words[0]} to print a number, got {error}") from error
        text = ended.stdout.strip()
        if ended.returncode or not (text.isascii() and text.isdigit()):
            got = ended.stderr.strip() or repr(text)
            raise CannotCount(
                f"effects: expected {words[0]} to print a whole number, got status {ended.returncode}: {got}"
            )
        return int(text)


def read(service: str, text: str) -> Subject:
    """The subject that a file's text describes. Raises BadSubject, and ValueError for a service's impossible name."""
    check_name("service", service)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise BadSubject(f"expected a JSON object, got what is none: {error}") from error
    if not isinstance(found, dict):
        raise BadSubject(f"expected a JSON object, got {type(found).__name__}")
    strangers = sorted(found.keys() - {*KINDS, "effects"})
    if strangers:
        raise BadSubject(f"expected {', '.join(KINDS)} and effects, got {', '.join(strangers)}")
    if "done" not in found:
        raise BadSubject("done: expected a command that the service answers with done, got none")
    samples = {kind: _sample(kind, found[kind]) for kind in KINDS if kind in found}
    return Subject(service, samples, _counter(found.get("effects", [])))


def _sample(kind: str, given: Any) -> Sample:
    if not (isinstance(given, dict) and given.keys() == {"type", "payload"} and isinstance(given["type"], str)):
        raise BadSubject(f'{kind}: expected {{"type": text, "payload": any}}, got {json.dumps(given)}')
    return Sample(given["type"], json.dumps(given["payload"], ensure_ascii=False))


def _counter(given: Any) -> tuple[str, ...]:
    if not (isinstance(given, list) and all(isinstance(word, str) for word in given)):
        raise BadSubject(f"effects: expected a program and its arguments as a list of texts, got {json.dumps(given)}")
    return tuple(given)
