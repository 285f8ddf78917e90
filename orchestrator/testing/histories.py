"""Recorded histories: what a saga went through, in a file, and today's code run over it.

The file is JSON; its pages are the bytes that the state topic has (base64), so it stays readable as long as the
topic would. The lines in words beside them are for people, and are not read.
"""

from base64 import b64decode, b64encode
from json import dumps, loads
from pathlib import Path
from typing import Any

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.catalogue import Catalogue
from kompensate.orchestrator.definitions.plan import Plan
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.errors import Nondeterminism
from kompensate.orchestrator.kernel.program import Broken, Continued, Returned, TurnedBack
from kompensate.orchestrator.kernel.replay import replayed
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.reading.status import fold
from kompensate.orchestrator.sagas.journal import Damaged, ReadPage, read_pages
from kompensate.orchestrator.testing.story import Story, in_words
from kompensate.schemas.codec import BadRecord

_WORDS: dict[type, str] = {Returned: "returns", Continued: "continues as a new run"}
FORMAT = "kompensate history 1"


class BadHistory(ValueError):
    """A file is no recorded history; the text names it, expected and got."""


def save_history(path: Path, story: Story, application: Application) -> None:
    """Write what `story` tells to `path`."""
    started = story.fold.state.started
    if started is None:
        raise ValueError(
            f"saga {story.saga_id!r}: expected one that has started, got {story.fold.state.status or 'none'}"
        )
    plans = Catalogue(application).plans
    found = {
        "format": FORMAT,
        "app": story.app,
        "saga_id": story.saga_id,
        "definition": started.definition,
        "plans": {started.plan: plans[started.plan].encode().decode()} if started.plan else {},
        "pages": [b64encode(story.pages[number]).decode() for number in sorted(story.pages)],
        "in words": [f"{line.sequence} {in_words(line)}" for line in story.fold.lines],
    }
    path.write_text(dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def assert_replays(path: Path | str, application: Application) -> None:
    """Today's code, run over the history in that file, asks for what is recorded there.

    Raises AssertionError with expected, got and the history in words; BadHistory where the file does not read.
    """
    __tracebackhide__ = True
    recorded = _read(Path(path))
    pages = _pages(Path(path), recorded)
    catalogue = Catalogue(application)
    for hash_, text in recorded["plans"].items():
        catalogue.plans.setdefault(hash_, Plan.decode(text.encode(), hash_))
    told = fold(recorded["app"], recorded["saga_id"], pages)
    version, held = told.state.version, told.state.hold is not None
    definition = catalogue.find(recorded["definition"], version)
    problem: object = None
    if definition is None:
        names = ", ".join(catalogue.names())
        wanted = f"{recorded['definition']!r}" + (f" in version {version}" if version != 1 else "")
        problem = f"expected a saga {wanted} in this application, got only {names}"
    else:
        state = SagaState(recorded["app"], recorded["saga_id"], pages[0].run)
        events = [(r.event, r.origin.time) for page in pages for r in page.events]
        try:
            program = replayed(definition, state, events, held=held)
            problem = _ends_otherwise(program.ended, [event for event, _ in events])
            program.close()
        except (Nondeterminism, ValueError, LookupError) as error:
            problem = error
    if problem is not None:
        words = "\n".join(f"  {line.sequence} {in_words(line)}" for line in told.lines)
        raise AssertionError(f"{path}: today's code does not follow this history: {problem}\n{words}")


def _ends_otherwise(ended: Returned | Continued | TurnedBack | Broken | None, events: list[e.Event]) -> str | None:
    """A replay stops where the history does: what the program did at its end has to be what is recorded."""
    if isinstance(ended, Broken):
        return ended.reason
    expected = {e.SagaCompleted: Returned, e.SagaContinued: Continued}.get(type(events[-1]))
    if expected is None or isinstance(ended, expected):
        return None
    got = "one that goes on" if ended is None else getattr(ended, "reason", f"one that {_WORDS[type(ended)]}")
    return f"expected the program to {_WORDS[expected].removesuffix('s')}, got {got}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = loads(path.read_text(encoding="utf-8"))
        if found["format"] == FORMAT:
            return found
        got = repr(found["format"])
    except (ValueError, KeyError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
    raise BadHistory(f"{path}: expected a file of format {FORMAT!r}, got {got}")


def _pages(path: Path, recorded: dict[str, Any]) -> list[ReadPage]:
    try:
        return read_pages([b64decode(page, validate=True) for page in recorded["pages"]])
    except (Damaged, BadRecord, ValueError) as error:
        raise BadHistory(f"{path}: expected pages that read, got: {error}") from error
