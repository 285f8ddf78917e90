"""Ids of sagas that have ended: none of them starts again until the dedup window has passed."""

from collections.abc import Mapping

from kompensate.orchestrator.sagas.timers import Timers


class Ended(dict[str, int]):
    """When each ended, ms since the epoch; remembered for `window` ms. Add by `remember` only."""

    def __init__(self, window: int, ended: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self._window = window
        self._expiries = Timers()
        for saga_id, ended_at in (ended or {}).items():
            self.remember(saga_id, ended_at)

    def remember(self, saga_id: str, ended_at: int) -> None:
        self[saga_id] = ended_at
        self._expiries.arm(ended_at, saga_id)

    @property
    def due(self) -> int | None:
        """When the first may be forgotten."""
        ended_at = self._expiries.next_due()
        return None if ended_at is None else ended_at + self._window

    def forget(self, now: int) -> tuple[str, int] | None:
        """One whose window has passed, with when it ended: it is not remembered any more. None: there is none."""
        while (found := self._expiries.pop(now - self._window)) is not None:
            ended_at, saga_id = found
            if self.get(saga_id) == ended_at:
                del self[saga_id]
                return saga_id, ended_at
        return None
