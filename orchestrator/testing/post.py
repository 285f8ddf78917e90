"""Messages under way to the worker: requests and replies, each with the time at which it arrives."""

from bisect import insort
from random import Random
from typing import NamedTuple

from kompensate.orchestrator.ports import HeaderList


class Mail(NamedTuple):
    """A record on its way to an input topic; it arrives at `due`, ms since the epoch."""

    due: int
    topic: str
    saga_id: str
    value: bytes | None
    headers: HeaderList


class Post:
    """Delivers in the order of arrival; with `random` in any order that a log allows.

    What one sender (a service, or those who ask) has for one saga stays in its order: it is one partition's.
    """

    def __init__(self, copies: int, random: Random | None) -> None:
        self._copies = copies
        self._random = random
        self._sent = 0
        self._under_way: list[tuple[int, int, Mail]] = []

    @property
    def next_due(self) -> int | None:
        return self._under_way[0][0] if self._under_way else None

    def send(self, mail: Mail) -> None:
        for _ in range(self._copies):
            self._sent += 1
            insort(self._under_way, (mail.due, self._sent, mail))

    def take(self, now: int) -> Mail | None:
        """The next one that has arrived by `now`."""
        ready: dict[tuple[str, str], tuple[int, int, Mail]] = {}
        for found in self._under_way:
            if found[0] > now or (ready and self._random is None):
                break
            ready.setdefault((found[2].topic, found[2].saga_id), found)
        if not ready:
            return None
        chosen = self._random.choice(list(ready.values())) if self._random else next(iter(ready.values()))
        self._under_way.remove(chosen)
        return chosen[2]
