"""What a violation is about: the sagas that its text names, with their events, as `kompensate history` tells them."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kompensate.orchestrator.client_errors import ClientError
from kompensate.orchestrator.kernel.errors import IllegalTransition
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.status import Fold, Line
from kompensate.schemas.formats import payloads_of
from kompensate.simulator.reading import MemoryReader
from kompensate.simulator.violation import Violation

if TYPE_CHECKING:
    from kompensate.simulator.run import Run

SAGAS_MAX = 3
"""So many are told; the rest of a long list will be like them."""
_WORD = re.compile(r"[^\s'\"(),:;\[\]{}]+")


def told(run: "Run", violation: Violation) -> dict[str, list[Line]]:
    """By saga id, as far as their topics can be read. The run is over: what is under way in it arrives first."""
    broker, world = run.world.broker, run.world
    for id_, left in broker.undelivered().items():
        for _ in range(left):
            broker.write_marker(id_)
    payloads = payloads_of(world.application.payloads, world.application.name)
    lookup = Lookup(MemoryReader(broker, world.topics), world.topics, payloads)
    found: dict[str, list[Line]] = {}
    for saga_id in _named(run, str(violation)):
        if len(found) < SAGAS_MAX and saga_id not in found:
            found[saga_id] = _lines(lookup, saga_id)
    return {saga_id: lines for saga_id, lines in found.items() if lines}


def _named(run: "Run", text: str) -> Iterator[str]:
    """The sagas that a text names, by their own ids or by those of their commands."""
    ledger = run.ledger
    states = {saga_id: shadow.state for saga_id, shadow in ledger.live.items()} | ledger.ended
    for word in _WORD.findall(text):
        if word in states or word in ledger.forgotten:
            yield word
        elif word in ledger.issued:
            yield from (saga_id for saga_id, state in states.items() if word in state.commands)


def _lines(lookup: Lookup, saga_id: str) -> list[Line]:
    """What was broken may be the history itself: up to where it can be followed."""
    try:
        pages = lookup.history(saga_id)
    except (ClientError, ValueError):
        return []
    fold = Fold(lookup.topics.app, saga_id, pages[0].run, lookup.payloads)
    try:
        for page in pages:
            for recorded in page.events:
                fold.add(recorded)
    except IllegalTransition:
        pass
    return fold.lines
