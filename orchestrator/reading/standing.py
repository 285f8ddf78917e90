"""Where queued calls stand in their lines: worked out from the topics, as their worker does from its memory."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from logging import getLogger

from kompensate.orchestrator.kernel.errors import IllegalTransition
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.stored import Stored
from kompensate.orchestrator.sagas.entry import fold
from kompensate.orchestrator.sagas.journal import Damaged, read_pages
from kompensate.orchestrator.sagas.rooms import Queued, stand_of
from kompensate.schemas.codec import BadRecord

log = getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """A queued call: the `position`th of `waiting`, while `out` take room. `concurrent` is what the limit allows, None
    where that is not known or without end."""

    out: int
    waiting: int
    position: int
    concurrent: int | None = None

    def __str__(self) -> str:
        of = "" if self.concurrent is None else f" of {self.concurrent}"
        return f"{self.out}{of} out, position {self.position} of {self.waiting}"


def standings(
    looking: Lookup, state: SagaState, partitions: Collection[int], concurrent: Mapping[str, int | None]
) -> dict[int, Standing]:
    """By number, those of the saga's calls that are queued. `partitions` are those of the worker that has it,
    `concurrent` what limits allow as far as that is known."""
    queued = {n: stand for n in state.limited if isinstance(stand := stand_of(state, n), Queued)}
    if not queued:
        return {}
    stands = [stand_of(other, n) for other in _states(looking, partitions) for n in other.limited]
    return {n: _standing(queued[n], stands, concurrent.get(state.limited[n].limit)) for n in queued}


def _standing(mine: Queued, stands: list[Queued | str | None], concurrent: int | None) -> Standing:
    line = [stand for stand in stands if isinstance(stand, Queued) and stand.line == mine.line]
    return Standing(stands.count(mine.line), len(line), 1 + sum(p.order < mine.order for p in line), concurrent)


def _states(looking: Lookup, partitions: Collection[int]) -> Iterator[SagaState]:
    for partition in partitions:
        for found in looking.on(partition):
            if found.header.limited and not found.ended and not found.damaged:
                state = _state(looking.topics.app, found)
                if state is not None:
                    yield state


def _state(app: str, found: Stored) -> SagaState | None:
    try:
        return fold(app, found.saga_id, read_pages([record.value or b"" for record in found.records]))
    except (Damaged, BadRecord, IllegalTransition) as error:
        log.warning("saga %s is not counted, its pages are damaged: %s", found.saga_id, error)
        return None
