"""Commands that lie about for a while before their participant looks at them, and those behind them in the log."""

from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.testing import VirtualClock
from kompensate.simulator.scripted import Scripted


class Lateness:
    """Of one service's commands."""

    def __init__(self, scripted: Scripted, clock: VirtualClock) -> None:
        self._scripted, self._clock = scripted, clock
        self._until: dict[str, float] = {}
        self._came: set[str] = set()

    def held(self, record: Record) -> bool:
        """Is this command still lying about?"""
        if self._scripted.calm:
            return False
        id_ = (next((value for name, value in record.headers or () if name == "ce_id"), None) or b"").decode()
        late = self._scripted.late(id_)
        if not late or id_ in self._came:
            return False
        return self._until.setdefault(id_, self._clock.monotonic() + late) > self._clock.monotonic()

    def waits(self) -> list[float]:
        """For how many seconds each of them still lies there."""
        return [until - self._clock.monotonic() for until in self._until.values()]

    def release(self) -> bool:
        """Let go of those whose time has come; whether there were any."""
        now = self._clock.monotonic()
        over = [id_ for id_, until in self._until.items() if until <= now]
        for id_ in over:
            del self._until[id_]
        self._came.update(over)
        return bool(over)
