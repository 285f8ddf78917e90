"""Recorded histories against today's code, from Python: for a test in your own suite.

    from kompensate.orchestrator.replay import read, replay

    def test_sagas_under_way_go_on() -> None:
        assert list(replay(app, read("tests/histories.jsonl"))) == []

`kompensate history --save` makes such files, `kompensate replay` does the same from the command line. Nothing is
sent, and no Kafka is needed.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from os import PathLike
from pathlib import Path

from kompensate.orchestrator.client_errors import DamagedSaga
from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.catalogue import Catalogue
from kompensate.orchestrator.definitions.plan import Plan
from kompensate.orchestrator.reading.recordings import BadRecording, Recording, read_file
from kompensate.orchestrator.reading.replaying import Difference, Rehearsal

__all__ = ["BadRecording", "Difference", "Recording", "Replay", "read", "replay"]


def read(path: str | PathLike[str]) -> Iterator[Recording]:
    """The histories of a file. Raises BadRecording, and OSError where there is no file."""
    with Path(path).open(encoding="utf-8") as file:
        yield from read_file(file, str(path))


def replay(application: Application, recordings: Iterable[Recording]) -> Iterator[Difference]:
    """The first difference of each history that has one."""
    replaying = Replay(application)
    for recording in recordings:
        found = replaying.difference(recording)
        if found is not None:
            yield found


class Replay:
    """Replays histories with the code of one application."""

    def __init__(self, application: Application) -> None:
        self._catalogue = Catalogue(application)

    def difference(self, recording: Recording) -> Difference | None:
        """Where today's code and this history part first; None where they agree."""
        rehearsal = Rehearsal(recording)
        try:
            return self.rehearse(rehearsal)
        finally:
            rehearsal.close()

    def rehearse(self, rehearsal: Rehearsal) -> Difference | None:
        """The same, for one who wants to look at the program where it stands, and closes it then."""
        for hash_, text in rehearsal.recording.plans.items():
            with suppress(ValueError):  # without its plan the program says that it is missing
                self._catalogue.plans.setdefault(hash_, Plan.decode(text.encode(), hash_))
        try:
            version = rehearsal.recording.state().version
        except DamagedSaga:
            version = None  # the rehearsal says so
        return rehearsal.difference(self._catalogue.find(rehearsal.recording.definition, version))
