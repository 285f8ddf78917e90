"""Forks and resets on the wire, and the pages that a fork begins with.

The request's payload is a page: `SagaForked` and what is copied, or `SagaReset` alone. So it is written, read and
checked as all events are, and its run is that of the saga that it is about. Whoever asks for a fork carries the other's
history along: sagas live on different partitions, and nobody who owns one reads the other.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import groupby
from typing import Any

from kompensate.orchestrator.definitions.catalogue import Catalogue
from kompensate.orchestrator.definitions.schedule import SAGA as SCHEDULE
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel import inputs as i
from kompensate.orchestrator.kernel.decide import Decision, Execution
from kompensate.orchestrator.kernel.errors import Rejected
from kompensate.orchestrator.kernel.folding import evolve
from kompensate.orchestrator.kernel.forking import first_events
from kompensate.orchestrator.kernel.program import storable
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.kernel.tables import CHILD
from kompensate.orchestrator.sagas.entry import Awake, Entry
from kompensate.orchestrator.sagas.journal import Damaged, Page, ReadPage, block_of, read_page
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.formats import SagaPayloads
from kompensate.schemas.messages import BadMessage


def page_of(run: str, events: list[tuple[e.Event, i.Origin]]) -> bytes:
    """One page with all of them, however many, each input's together."""
    page = Page(run)
    for origin, group in groupby(events, lambda found: found[1]):
        found = [event for event, _ in group]
        page.append(block_of(origin, found), len(found))
    return page.value()


def read_fork(origin: i.Origin, run: str, payload: bytes, *, held: bool) -> i.ForkAsked:
    """`run` is the one that this record begins where the id is free. Raises BadMessage."""
    page = _read(payload)
    first = page.events[0].event
    if not isinstance(first, e.SagaForked) or first.run != page.run:
        raise BadMessage(f"fork: expected SagaForked of run {page.run} as the first event, got {first!r:.200}")
    return i.ForkAsked(origin, run, first, [(recorded.event, recorded.origin) for recorded in page.events[1:]], held)


def read_reset(origin: i.Origin, payload: bytes) -> i.ResetAsked:
    """Raises BadMessage."""
    page = _read(payload)
    reset = page.events[0].event
    if not isinstance(reset, e.SagaReset) or len(page.events) != 1:
        raise BadMessage(f"reset: expected SagaReset as the only event, got {reset!r:.200} of {len(page.events)}")
    return i.ResetAsked(origin, reset.into, page.run, reset.operations, reset.who, reset.reason)


def _read(payload: bytes) -> ReadPage:
    try:
        page = read_page(payload)
    except (BadRecord, Damaged) as error:
        raise BadMessage(f"payload: expected a page of events, got one that does not read: {error}") from error
    if not page.events:
        raise BadMessage("payload: expected a page of events, got one without any")
    return page


def begin_fork(
    entry: Entry, catalogue: Catalogue, input_: i.Input, note: Callable[[Awake, i.Origin, Decision], None]
) -> str:
    """Have `note` write down what a fork begins with, input by input. Why that cannot be, else an empty text.

    Other inputs begin a saga without that.
    """
    if not isinstance(input_, i.ForkAsked):
        return ""
    assert entry.awake is not None  # it has just been made
    execution = entry.awake.execution
    try:
        found = _begun(execution, catalogue, input_)
    except Exception as error:  # no input stops a partition, whatever payloads, codecs and programs raise
        return f"fork of {input_.forked.origin!r}: {storable(error)}"
    for origin, group in groupby(found, lambda each: each[1]):
        decision = Decision([event for event, _ in group])
        for event in decision.events:
            evolve(execution.state, event, origin.time)
        note(entry.awake, origin, decision)
    return ""


def _begun(execution: Execution, catalogue: Catalogue, asked: i.ForkAsked) -> list[tuple[e.Event, i.Origin]]:
    state, forked = execution.state, asked.forked
    name = next((event.definition for event, _ in asked.kept if isinstance(event, e.SagaStarted)), "")
    if name == SCHEDULE:
        raise Rejected("expected a saga of the author's, got a schedule: create another")
    execution.definition = catalogue.find(name, forked.version)
    moved = _moved(asked.kept, catalogue.payloads.for_saga(forked.origin), state.saga_id)
    fresh = SagaState(state.app, state.saga_id, state.run)
    return first_events(fresh, execution.definition, replace(asked, kept=moved))


def _moved(
    kept: list[tuple[e.Event, i.Origin]], payloads: SagaPayloads, saga_id: str
) -> list[tuple[e.Event, i.Origin]]:
    """The events with their payloads as those of saga `saga_id`; what belongs to a child stays the child's."""
    found, children = [], set()
    for event, origin in kept:
        if isinstance(event, e.CallMade) and event.service == CHILD:
            children.add(event.number)
        if getattr(event, "number", 0) not in children:
            values = {field.name: getattr(event, field.name) for field in fields(event)}
            changed: dict[str, Any] = {
                name: payloads.moved(value, saga_id) for name, value in values.items() if type(value) is bytes
            }
            event = replace(event, **changed) if changed else event  # noqa: PLW2901  # the same event, for another
        found.append((event, origin))
    return found
