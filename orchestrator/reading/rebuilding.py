"""Rebuilding sagas from the topics, and comparing what the topics say twice.

A saga under way is folded from its pages; the header that its worker wrote beside the newest of them, from
live memory, must say the same, and pages that were closed must stand in the history as they do in the state
topic. A saga that ended is folded from the history; its summary must say the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kompensate.orchestrator.client_errors import DamagedSaga
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.reading.lookup import Lookup, Runs
from kompensate.orchestrator.reading.status import Fold, SagaView, fold, view_of
from kompensate.orchestrator.reading.stored import Stored, read_summary
from kompensate.orchestrator.sagas.journal import Damaged, ReadPage, header_of, read_pages
from kompensate.schemas import attributes
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.formats import PLAIN, SagaPayloads


@dataclass(frozen=True, slots=True)
class Cut:
    """How far a history is folded: to its event number `at`, or to what had happened by `as_of` (ms)."""

    at: int | None = None
    as_of: int | None = None

    @property
    def whole(self) -> bool:
        return self.at is None and self.as_of is None

    def of(self, pages: Sequence[ReadPage]) -> list[ReadPage]:
        """The pages without the events that come later."""
        return [
            page._replace(events=[r for r in page.events if self._counts(r.sequence, r.origin.time)]) for page in pages
        ]

    def _counts(self, sequence: int, time: int) -> bool:
        return (self.at is None or sequence <= self.at) and (self.as_of is None or time <= self.as_of)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A saga as rebuilt. `view` is None where it had not begun by then, or does not read; `differences` say
    what disagrees with what, or what is damaged or gone."""

    saga_id: str
    view: SagaView | None
    differences: list[str] = field(default_factory=list)

    @property
    def gone(self) -> bool:
        """Are pages missing? Then a second look may help: a transaction ends partition by partition."""
        return any(difference.startswith(GONE) for difference in self.differences)


GONE = "gone: "


def rebuilt(
    app: str,
    saga_id: str,
    found: Stored | None,
    history: Mapping[int, bytes],
    cut: Cut,
    partition: int,
    payloads: SagaPayloads = PLAIN,
) -> Rebuilt:
    """Rebuild one saga. `found` is what the state topic has of it, `history` the pages of that run (of the newest
    run where the state topic has forgotten it) by number."""
    if found is not None and found.damaged:
        return Rebuilt(saga_id, None, [found.damaged])
    try:
        if found is None or found.ended:
            pages = read_pages([history[number] for number in sorted(history)]) if history else []
        else:
            pages = read_pages([record.value or b"" for record in found.records])
        if not pages and found is not None:
            read_summary(found)  # where it is the summary that does not read, that is the news
        if not pages:
            return Rebuilt(saga_id, None, [f"{GONE}expected the pages of its run in the history, got none"])
        whole = fold(app, saga_id, pages, payloads)
        differences = [] if found is None else _differences(whole, found, pages, history)
        folded = whole if cut.whole else fold(app, saga_id, cut.of(pages), payloads)
    except (Damaged, DamagedSaga, BadRecord) as error:
        # Pages that are gone explain better than what their absence does to the rest.
        return Rebuilt(saga_id, None, _gone(found, history) or [str(error)])
    return Rebuilt(saga_id, view_of(folded, partition) if folded.lines else None, differences)


def _differences(folded: Fold, found: Stored, pages: list[ReadPage], history: Mapping[int, bytes]) -> list[str]:
    differences = _compared("attributes", found.attributes, attributes.read(folded.state.attributes))
    if found.ended:
        return differences + _from_summary(folded.state, found, pages)
    header = header_of(folded.state, folded.state.next_due() or 0)
    differences += _compared("header", found.header.encode().decode(), header.decode())
    for number, record in enumerate(found.records[:-1]):
        if number not in history:
            differences.append(f"{GONE}expected closed page {number} in the history, got none")
        elif history[number] != record.value:
            differences.append(f"page {number}: expected the same bytes in state and history, got others")
    return differences


def _gone(found: Stored | None, history: Mapping[int, bytes]) -> list[str]:
    """Pages that an ended saga's summary counts and the history lacks."""
    if found is None or not found.ended:
        return []
    try:
        count = read_summary(found).pages
    except BadRecord:
        return []
    return [f"{GONE}expected page {n} of {count} in the history, got none" for n in range(count) if n not in history]


def _from_summary(state: SagaState, found: Stored, pages: list[ReadPage]) -> list[str]:
    summary = read_summary(found)
    folded = {
        "run": state.run,
        "definition": state.started.definition if state.started else "-",
        "status": str(state.status),
        "started_at": state.started_at,
        "ended_at": state.updated_at,
        "events": state.events,
        "pages": len(pages),
        "checksum": pages[-1].checksum,
        "reason": state.reason,
        "result": state.result,
    }
    header = f"{state.run} {state.events} {state.updated_at} {state.status} - {folded['definition']}"
    differences = _compared("header", found.header.encode().decode(), header)
    for name, value in folded.items():
        differences += _compared(f"summary's {name}", getattr(summary, name), value)
    return differences


def _compared(what: str, stored: object, folded: object) -> list[str]:
    return [] if stored == folded else [f"{what}: expected {stored!r} as stored, got {folded!r} by folding"]


def rebuild_one(looking: Lookup, saga_id: str, cut: Cut) -> Rebuilt | None:
    """Rebuild one saga; None where neither topic knows it. Raises ValueError for what is no saga id."""
    partition = looking.partition(saga_id)
    found = looking.find(saga_id)
    result = _rebuilt(looking, saga_id, found, looking.runs(partition, saga_id).get(saga_id, {}), cut, partition)
    if result is not None and result.gone:
        return _rebuilt(looking, saga_id, found, looking.runs(partition, saga_id).get(saga_id, {}), cut, partition)
    return result


def rebuild_all(looking: Lookup, cut: Cut) -> Iterator[Rebuilt]:
    """Rebuild every saga that either topic knows, a partition after another: that much is held in memory."""
    for partition in range(looking.partitions):
        sagas = {found.saga_id: found for found in looking.on(partition)}
        history = looking.runs(partition)
        again: dict[str, Runs] | None = None
        for saga_id in [*sagas, *(known for known in history if known not in sagas)]:
            found = sagas.get(saga_id)
            result = _rebuilt(looking, saga_id, found, history.get(saga_id, {}), cut, partition)
            if result is not None and result.gone:
                again = looking.runs(partition) if again is None else again
                result = _rebuilt(looking, saga_id, found, again.get(saga_id, {}), cut, partition)
            if result is not None:
                yield result


def _rebuilt(
    looking: Lookup, saga_id: str, found: Stored | None, runs: Runs, cut: Cut, partition: int
) -> Rebuilt | None:
    if found is not None:
        history = runs.get(found.header.run, {})
    elif runs:
        history = list(runs.values())[-1]  # the run that began last
    else:
        return None
    return rebuilt(looking.topics.app, saga_id, found, history, cut, partition, looking.payloads)
