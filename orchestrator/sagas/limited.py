"""Where one partition's calls stand under limits, taken back with the batch that moved them."""

from collections.abc import Iterable, Mapping, Sequence

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.sagas.rooms import Key, Rooms, Stand, stand_of

_HOLDING = (e.SagaPaused, e.SagaQuarantined, e.SagaResumed)


class LimitedCalls:
    """The calls of partition `number` in `rooms`, which the worker's partitions share."""

    def __init__(self, number: int, rooms: Rooms) -> None:
        self._number = number
        self._rooms = rooms
        self._stands = rooms.of(number)
        self._moved: list[tuple[Key, Stand | None]] = []
        self.refused: dict[tuple[str, int], str] = {}
        """Calls (saga and number) whose commands cannot be written, and why."""

    @property
    def due(self) -> int | None:
        """When a call may be given room, ms since the epoch (0: now); None: not before something changes."""
        return self._rooms.due(self._number)

    def rates(self) -> dict[str, int]:
        """When the next may go out under each limit per second."""
        return self._rooms.rates()

    def load(self, rates: Mapping[str, int], states: Iterable[tuple[str, SagaState]]) -> None:
        """The partition was restored to this: sagas by their ids."""
        self._rooms.resume(rates)
        for saga_id, state in states:
            for number in state.limited:
                self._rooms.put((self._number, saga_id, number), stand_of(state, number))

    def follow(self, saga_id: str, state: SagaState, events: Sequence[e.Event]) -> None:
        """The saga has come to `state` by these events: its calls stand where that says."""
        known = self._stands.get(saga_id)
        if known is None and not state.limited:
            return
        known = known or {}
        if state.ended or any(type(event) in _HOLDING for event in events):
            numbers = {*known, *state.limited}
        else:
            numbers = {getattr(event, "number", 0) for event in events}
        for number in numbers:
            stand = stand_of(state, number)
            if known.get(number) != stand:
                key = (self._number, saga_id, number)
                self._moved.append((key, self._rooms.put(key, stand)))

    def take(self, now: int) -> tuple[str, int] | None:
        """The saga and number of a queued call that there is room for now."""
        found = self._rooms.take(self._number, now)
        return None if found is None else found[1:]

    def unused(self, saga_id: str, number: int) -> None:
        """Where the room that it was given was not used, it does not wait for any."""
        key = (self._number, saga_id, number)
        if self._rooms.promised(key):
            self._rooms.put(key, None)

    def stands(self) -> None:
        """The batch stands."""
        self._moved.clear()

    def take_back(self) -> None:
        """It does not."""
        for key, stand in reversed(self._moved):
            self._rooms.put(key, stand)
        self._moved.clear()

    def leave(self) -> None:
        """The partition is another worker's now."""
        self._rooms.leave(self._number)
