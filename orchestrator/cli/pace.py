"""So many a second: how many of a long row may go by now. For verbs that ask many; no clock in here."""

RATE = 100.0
"""Asked a second unless --rate says otherwise: it wakes the services behind them too."""
TICK_SECONDS = 0.1


class Pace:
    """Begins with the first question."""

    def __init__(self) -> None:
        self._begun = 0.0

    def allowed(self, rate: float, seconds: float, gone: int) -> int:
        """How many may go now, where `gone` have; `seconds` is a clock that only goes forward."""
        self._begun = self._begun or seconds
        return int((seconds - self._begun) * rate) + 1 - gone
