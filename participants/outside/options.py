"""How an outside call is tried, bounded and found out about: what `Participant.external` takes, checked."""

from collections.abc import Callable
from dataclasses import dataclass

LEASE_MARGIN_SECONDS = 2.0
"""How long after its time-out a call's lease ends: room for the transaction that writes its result."""


@dataclass(frozen=True)  # no slots: its defaults are read from the class
class External:
    """The guards of one outside command. All times are in seconds.

    A try without an end or a heartbeat for `timeout` is broken off. At most `tries` calls, in at most `budget` of
    trying (calls and the waits between; the time for which the breaker is open is not counted); at most `concurrent` of
    them at once in a process. After `breaker_failures` in a row the breaker opens for `breaker_seconds`; then one may
    try. The provider knows a key for `window`; `reconcile` tells what became of a call that nobody may repeat.
    """

    timeout: float = 10.0
    tries: int = 5
    budget: float = 60.0
    concurrent: int = 8
    breaker_failures: int = 5
    breaker_seconds: float = 30.0
    window: float = 86_400.0
    reconcile: Callable[..., object] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError."""
        for name in ("timeout", "budget", "breaker_seconds"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise ValueError(f"external: expected {name} of more than 0 seconds, got {value!r}")
        for name in ("tries", "concurrent", "breaker_failures"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"external: expected {name} of at least 1, got {value!r}")
        if self.window < 0:
            raise ValueError(f"external: expected a window of 0 seconds (no keys) or more, got {self.window!r}")

    @property
    def lease(self) -> float:
        """Seconds for which nobody else takes up a call that was just begun, or gave a sign of life."""
        return self.timeout + LEASE_MARGIN_SECONDS
