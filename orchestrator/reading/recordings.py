"""Recorded histories: a run's pages as they stand in the topics, to be kept in a file and replayed later.

A file is JSON lines, a run each, and each line stands for itself: files may be joined, cut and filtered by line. (A
file of one run may also be folded over many lines, for reading.) The events are in the very pages that the worker
wrote, in base64: their format is versioned and stays readable for ever, and their checksums tell of a line that was
changed. What stands beside them is for people and filters; only the plan of a declared saga is needed too, which in
the topics is a record of its own.
"""

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from json import dumps, loads
from typing import Any, TextIO

from kompensate.orchestrator.client_errors import ClientError, DamagedSaga
from kompensate.orchestrator.kernel.errors import IllegalTransition
from kompensate.orchestrator.kernel.folding import evolve
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.lookup import Lookup, Runs, keys_of
from kompensate.orchestrator.reading.stored import Stored, stored
from kompensate.orchestrator.sagas.journal import Damaged, Recorded, read_pages
from kompensate.schemas import codec
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.topics import PLAN_PREFIX

FORMAT = "kompensate history 1"


class BadRecording(ClientError):
    """A line of a file is not a recorded history; the text names file and line, expected and got."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One run of a saga. `plans` has the JSON of the plan that it follows, by hash; `status` and `events` are for
    people."""

    app: str
    saga_id: str
    run: str
    definition: str
    status: str
    events: int
    pages: tuple[bytes, ...]
    plans: Mapping[str, str] = field(default_factory=dict)

    def recorded(self) -> list[Recorded]:
        """The run's events with their inputs. Raises DamagedSaga."""
        try:
            return [recorded for page in read_pages(self.pages) for recorded in page.events]
        except (Damaged, BadRecord) as error:
            raise DamagedSaga(f"saga {self.saga_id!r}: its pages are damaged: {error}") from error

    def state(self) -> SagaState:
        """The run's state at its end. Raises DamagedSaga."""
        try:
            return _folded(self.app, self.saga_id, list(self.pages))
        except (Damaged, BadRecord, IllegalTransition) as error:
            raise DamagedSaga(f"saga {self.saga_id!r}: its pages are damaged: {error}") from error

    def line(self) -> str:
        """As one line of a file."""
        return dumps(self.shown(), ensure_ascii=False)

    def shown(self) -> dict[str, Any]:
        """What a file has of it."""
        return {
            "format": FORMAT,
            "app": self.app,
            "saga_id": self.saga_id,
            "run": self.run,
            "definition": self.definition,
            "status": self.status,
            "events": self.events,
            "plans": dict(self.plans),
            "pages": [b64encode(page).decode() for page in self.pages],
        }


def read_file(file: TextIO, name: str) -> Iterator[Recording]:
    """The histories in a file. Raises BadRecording."""
    for number, line in enumerate(file, 1):
        if line.strip() == "{":
            yield _read(line + file.read(), name)
        elif line.strip():
            yield _read(line, f"{name}:{number}")


def _read(text: str, where: str) -> Recording:
    try:
        found: dict[str, Any] = loads(text)
        if found["format"] != FORMAT:
            raise BadRecording(
                f"{where}: expected format {FORMAT!r}, got {found['format']!r}: was it written by a newer version?"
            )
        pages = [b64decode(page, validate=True) for page in found["pages"]]
        if not pages:
            raise ValueError("no pages")
        return recording(found["app"], found["saga_id"], found.get("run"), pages, dict(found["plans"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadRecording(
            f"{where}: expected a recorded history, as `kompensate history --save` writes it, got {text[:60]!r} "
            f"({type(error).__name__}: {error})"
        ) from error


def recordings(looking: Lookup, partition: int, saga_id: str | None = None) -> Iterator[Recording]:
    """Every run that the topics have on a partition, of one saga or all, those under way included.

    Runs whose first pages the history's retention has removed are left out. Memory holds one partition.
    """
    about = None if saga_id is None else keys_of(saga_id)
    snapshot = looking.reader.snapshot(
        looking.topics.state,
        [partition],
        None if about is None else lambda key: about(key) or key.startswith(PLAN_PREFIX.encode()),
    )[partition]
    sagas = {found.saga_id: found for found in stored(snapshot)}
    history = looking.runs(partition, saga_id)
    plans = _plans(snapshot)
    for known in [*sagas, *(id_ for id_ in history if id_ not in sagas)]:
        for run, pages in _runs(sagas.get(known), history.get(known, {})):
            yield recording(looking.topics.app, known, run, pages, plans)


def _runs(found: Stored | None, runs: Runs) -> Iterator[tuple[str, list[bytes]]]:
    """The whole runs of a saga: what the history has of those that are over, and the one under way from the state."""
    under_way = found is not None and not found.ended
    over = [run for run in runs if not (under_way and found is not None and run == found.header.run)]
    for run in over:
        pages = [runs[run][number] for number in sorted(runs[run])]
        # A run that began after the state was read, or whose last page is missing, is none that could be replayed.
        if set(runs[run]) == set(range(len(pages))) and (run != over[-1] or under_way or _ended(pages)):
            yield run, pages
    if found is not None and under_way:
        yield found.header.run, [record.value or b"" for record in found.records]


def _ended(pages: list[bytes]) -> bool:
    try:
        return _folded("", "", pages).ended
    except (Damaged, BadRecord, IllegalTransition):
        return True  # that it is damaged is for the replay to tell


def _folded(app: str, saga_id: str, pages: list[bytes]) -> SagaState:
    read = read_pages(pages)
    state = SagaState(app, saga_id, read[0].run if read else "")
    for page in read:
        for recorded in page.events:
            evolve(state, recorded.event, recorded.origin.time)
    return state


def recording(app: str, saga_id: str, run: str | None, pages: list[bytes], plans: Mapping[str, str]) -> Recording:
    """A run's pages with what is told beside them. Damaged ones are kept as they are."""
    try:
        state = _folded(app, saga_id, pages)
    except (Damaged, BadRecord, IllegalTransition):
        return Recording(app, saga_id, run or "-", "-", "damaged", 0, tuple(pages))
    name = state.started.definition if state.started else "-"
    hash_ = state.started.plan if state.started else None
    plan = {hash_: plans[hash_]} if hash_ in plans and hash_ is not None else {}
    return Recording(app, saga_id, state.run, name, str(state.status), state.events, tuple(pages), plan)


def _plans(snapshot: Mapping[bytes, Record]) -> dict[str, str]:
    """Plans in the state topic as their JSON, by hash; those that do not read are left out."""
    found = {}
    for key, record in snapshot.items():
        if key.startswith(PLAN_PREFIX.encode()):
            try:
                plan = codec.decode(record.value or b"", codec.PLAN)["plan"]
                found[key.decode(errors="replace").rpartition("/")[2]] = plan.decode()
            except ValueError:
                continue
    return found
