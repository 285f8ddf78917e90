"""A heap of due times. Entries are never taken out early: who pops one asks the owner whether it still holds."""

from heapq import heappop, heappush


def sooner(one: int | None, other: int | None) -> int | None:
    """The sooner of two times, of which either may be none."""
    if one is None or (other is not None and other < one):
        return other
    return one


class Timers:
    """Due times (ms since the epoch) by saga id."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []

    def arm(self, due: int, saga_id: str) -> None:
        heappush(self._heap, (due, saga_id))

    def next_due(self) -> int | None:
        return self._heap[0][0] if self._heap else None

    def pop(self, now: int) -> tuple[int, str] | None:
        """The earliest entry that is due by `now`, taken out; None where there is none."""
        if self._heap and self._heap[0][0] <= now:
            return heappop(self._heap)
        return None
