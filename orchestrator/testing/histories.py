"""Recorded histories as fixtures: what a saga went through, in a file, and today's code run over it.

The file is the one of `kompensate history --save`, folded over lines for whoever reads the diff, with the history in
words beside the pages. The words are not read.
"""

from json import dumps
from pathlib import Path

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.catalogue import Catalogue
from kompensate.orchestrator.reading.recordings import Recording, recording
from kompensate.orchestrator.reading.status import fold
from kompensate.orchestrator.replay import Replay, read
from kompensate.orchestrator.sagas.journal import Damaged, read_pages
from kompensate.orchestrator.testing.story import Story, in_words
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.formats import payloads_of


def save_history(path: Path, story: Story, application: Application) -> None:
    """Write what `story` tells to `path`."""
    state = story.fold.state
    if state.started is None:
        raise ValueError(f"saga {story.saga_id!r}: expected one that has started, got {state.status or 'none'}")
    plans = {hash_: plan.encode().decode() for hash_, plan in Catalogue(application).plans.items()}
    pages = [story.pages[number] for number in sorted(story.pages)]
    found = recording(story.app, story.saga_id, state.run, pages, plans).shown()
    found["in words"] = [f"{line.sequence} {in_words(line)}" for line in story.fold.lines]
    path.write_text(dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def assert_replays(path: Path | str, application: Application) -> None:
    """Today's code, run over the histories in that file, asks for what is recorded there.

    Raises AssertionError with expected, got and the history in words; BadRecording where the file does not read.
    """
    __tracebackhide__ = True
    replaying = Replay(application)
    for found in read(path):
        difference = replaying.difference(found)
        if difference is not None:
            words = "\n".join(f"  {line}" for line in _words(found, application))
            raise AssertionError(f"{path}: today's code does not follow this history: {difference}\n{words}")


def _words(found: Recording, application: Application) -> list[str]:
    try:
        pages = read_pages(found.pages)
    except (Damaged, BadRecord):
        return []  # the difference says so
    told = fold(found.app, found.saga_id, pages, payloads_of(application.payloads, found.app))
    return [f"{line.sequence} {in_words(line)}" for line in told.lines]
