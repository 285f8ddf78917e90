"""Named limits in one worker process: which calls of its sagas are out under each, and which wait for room.

Shared by the worker's partitions, and a cache as they are: each says where its sagas' calls stand, when it is loaded
and after each decision, and takes that back with its batch. So what is counted is what the log says, and survives
crashes. Nothing in here looks through what waits: who is next lies on top of a heap. One thread's alone.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from logging import getLogger
from math import ceil
from typing import NamedTuple

from kompensate.orchestrator.definitions.application import Limit
from kompensate.orchestrator.kernel.state import Call, SagaState
from kompensate.orchestrator.kernel.tables import CHILD, CallStatus
from kompensate.orchestrator.sagas.journal import life_of
from kompensate.schemas.topics import ORDERED

log = getLogger("kompensate.limits")

LAG_MS = 100
"""While calls wait for `per_second`, a loop that was busy for up to so long makes up for it."""
STALE_MIN = 1_000
"""Entries of a heap that no longer count are swept out once they are more than those that do, and than this."""


class Queued(NamedTuple):
    """A call waits in the `line` of a limit; the least `order` goes first."""

    line: str
    order: tuple[int, int, int, int]


Stand = Queued | str
"""Where a call stands: it waits, or it is out, counted in the line of that name."""
Key = tuple[int, str, int]
"""Partition, saga id and the call's number."""


def line_of(call: Call) -> str:
    """The line it stands in. Children have one of their own: a saga that takes room as a child could else wait for its
    own calls to get some."""
    return of_children(call.limit) if call.made.service == CHILD else call.limit


def of_children(limit: str) -> str:
    """The name of a limit's line for children."""
    return f"{limit} {CHILD}"


def stand_of(state: SagaState, number: int) -> Stand | None:
    """Where that call stands. One that is queued in a saga that is held waits for the saga, not for room.

    A higher priority goes first; among equals who has waited longest, then the saga that began first.
    """
    call = state.limited.get(number)
    if call is None or state.ended:
        return None
    if call.status is not CallStatus.QUEUED:
        return line_of(call)
    if state.hold is not None:
        return None
    began = int(life_of(state.run).partition(".")[2].removeprefix(ORDERED))
    return Queued(line_of(call), (-call.priority, call.queued_at, began, number))


@dataclass(slots=True)
class _Line:
    """Those under one limit, of one kind. `out` counts also those that were just given room."""

    limit: Limit
    out: int = 0
    waiting: int = 0
    heap: list[tuple[tuple[int, int, int, int], Key, Queued]] = field(default_factory=list)
    next_at: float = 0.0
    backlog: bool = False

    @property
    def room(self) -> bool:
        """May one more be out?"""
        return self.limit.concurrent is None or self.out < self.limit.concurrent

    @property
    def crowded(self) -> bool:
        """Are more out than may be?"""
        return self.limit.concurrent is not None and self.out > self.limit.concurrent

    def begun(self, now: int) -> None:
        """One more goes out: when the next one may."""
        if self.limit.per_second is not None:
            base = now - LAG_MS if self.backlog else now
            self.next_at = max(self.next_at, base) + 1_000 / self.limit.per_second


class Rooms:
    """Where calls stand under `limits`, by name. Times are ms since the epoch."""

    def __init__(self, limits: Mapping[str, Limit]) -> None:
        self._limits = {**{of_children(name): limit for name, limit in limits.items()}, **limits}
        self._lines: dict[str, _Line] = {}
        self._stands: dict[int, dict[str, dict[int, Stand]]] = {}
        self._promised: dict[Key, Queued] = {}
        self._given: dict[int, deque[tuple[Key, Queued]]] = {}

    def of(self, partition: int) -> Mapping[str, Mapping[int, Stand]]:
        """Where that partition's calls stand, by saga id and number; it stays up to date."""
        return self._stands.setdefault(partition, {})

    def put(self, key: Key, stand: Stand | None) -> Stand | None:
        """The call stands here now (None: nowhere any more). Returns where it stood."""
        partition, saga_id, number = key
        sagas = self._stands.setdefault(partition, {})
        before = sagas.get(saga_id, {}).pop(number, None)
        if before is not None:
            self._leave(key, before)
        if stand is None:
            if not sagas.get(saga_id, True):
                del sagas[saga_id]
            return before
        sagas.setdefault(saga_id, {})[number] = stand
        if isinstance(stand, str):
            self._line(stand).out += 1
        else:
            line = self._line(stand.line)
            line.waiting += 1
            heappush(line.heap, (stand.order, key, stand))
        return before

    def take(self, partition: int, now: int) -> Key | None:
        """A call of this partition that there is room for; None where there is none. Say by `put` that it is out."""
        given = self._given.get(partition)
        while given:
            key, queued = given.popleft()
            if self._promised.get(key) is queued:
                if not self._line(queued.line).crowded:
                    return key
                self.put(key, queued)  # since it was promised, others came that are out: it waits on
        for _, line in sorted(self._lines.items()):
            found = self._next(line, partition, now)
            if found is not None:
                return found
        return None

    def promised(self, key: Key) -> bool:
        """Was the call given room that it has not used?"""
        return key in self._promised

    def due(self, partition: int) -> int | None:
        """When to `take` again; 0: at once, None: not before something changes."""
        if self._given.get(partition):
            return 0
        times = [ceil(line.next_at) for line in self._lines.values() if line.waiting and line.room]
        return min(times) if times else None

    def leave(self, partition: int) -> None:
        """The partition is another worker's now."""
        for saga_id, stands in self._stands.pop(partition, {}).items():
            for number, stand in stands.items():
                self._leave((partition, saga_id, number), stand)
        self._given.pop(partition, None)

    def counts(self) -> dict[str, tuple[int, int]]:
        """By line how many are out, and how many wait. May be asked from any thread."""
        return {name: (line.out, line.waiting) for name, line in list(self._lines.items())}

    def rates(self) -> dict[str, int]:
        """When the next may begin in each line of so many a second: for who takes over."""
        return {name: ceil(line.next_at) for name, line in self._lines.items() if line.next_at}

    def resume(self, rates: Mapping[str, int]) -> None:
        """What `rates` said when a partition was last written."""
        for name, at in rates.items():
            line = self._line(name)
            if line.limit.per_second is not None:
                line.next_at = max(line.next_at, at)

    def _line(self, name: str) -> _Line:
        line = self._lines.get(name)
        if line is None:
            if name not in self._limits:
                log.warning("limit %r is none of the application's any more: what waits under it goes out now", name)
            line = self._lines[name] = _Line(self._limits.get(name, Limit()))
        return line

    def _leave(self, key: Key, stand: Stand) -> None:
        if isinstance(stand, str):
            self._line(stand).out -= 1
            return
        line = self._line(stand.line)
        if self._promised.pop(key, None) is not None:
            line.out -= 1
        else:
            line.waiting -= 1

    def _next(self, line: _Line, partition: int, now: int) -> Key | None:
        """The next call of this partition under one limit. Those of others that come before it are promised room."""
        found = None
        while found is None and line.waiting and line.room and line.next_at <= now:
            _, key, queued = heappop(line.heap)
            if not self._waits(key, queued):
                continue
            self._promised[key] = queued
            line.waiting -= 1
            line.out += 1
            line.begun(now)
            if key[0] == partition:
                found = key
            else:
                self._given.setdefault(key[0], deque()).append((key, queued))
        line.backlog = line.waiting > 0
        if len(line.heap) > 2 * line.waiting + STALE_MIN:
            line.heap = [entry for entry in line.heap if self._waits(*entry[1:])]
            heapify(line.heap)
        return found

    def _waits(self, key: Key, queued: Queued) -> bool:
        """Does this entry of a heap still count?"""
        partition, saga_id, number = key
        stand = self._stands.get(partition, {}).get(saga_id, {}).get(number)
        return stand is queued and key not in self._promised
