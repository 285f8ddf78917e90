"""A clock that moves when it is told to."""


class VirtualClock:
    """Starts at `now` milliseconds since the epoch. Sleeping advances it."""

    def __init__(self, now: int = 1_700_000_000_000) -> None:
        self._started = self._now = now
        self._elapsed = 0.0

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        assert seconds >= 0, f"time does not go back, got {seconds}"
        self._elapsed += seconds
        self._now = self._started + round(self._elapsed * 1000)
