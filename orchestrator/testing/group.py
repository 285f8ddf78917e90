"""Who of a group's members owns which partition, as Kafka's cooperative rebalance has it.

A partition moves in two steps: its owner is told to give it up, and only when it has is the new owner told.
Every change of members or of owners is a new generation.
"""

from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple


@dataclass(slots=True)
class Member:
    """`owned` is what it was told it has; `target` what it is to have."""

    owned: set[int] = field(default_factory=set)
    target: set[int] = field(default_factory=set)


class Told(NamedTuple):
    """What a member hears when it polls."""

    generation: int
    assigned: frozenset[int]
    revoked: frozenset[int]


_NOTHING: frozenset[int] = frozenset()


class Group:
    """The members of one group, all reading partitions 0 to n-1 of one topic."""

    def __init__(self) -> None:
        self.generation = 0
        self.members: dict[str, Member] = {}
        self._partitions = 0
        self._names = count(1)

    def join(self, partitions: int) -> str:
        """A new member's id."""
        name = f"member-{next(self._names)}"
        self._partitions = partitions
        self.members[name] = Member()
        self._rebalance()
        return name

    def remove(self, name: str) -> None:
        """It has left, or was silent for too long."""
        if self.members.pop(name, None) is not None:
            self._rebalance()

    def poll(self, name: str) -> Told | None:
        """What has changed for this member; None: it is none any more."""
        member = self.members.get(name)
        if member is None:
            return None
        if member.owned == member.target:
            return Told(self.generation, _NOTHING, _NOTHING)
        revoked = member.owned - member.target
        if revoked:
            member.owned -= revoked
            self.generation += 1
        taken = {p for other in self.members.values() if other is not member for p in other.owned}
        assigned = member.target - member.owned - taken
        if assigned:
            member.owned |= assigned
        return Told(self.generation, frozenset(assigned), frozenset(revoked))

    def _rebalance(self) -> None:
        """Spread the partitions evenly; whoever has some keeps as many of them as is fair."""
        self.generation += 1
        names = sorted(self.members, key=lambda name: (-len(self.members[name].owned), name))
        if not names:
            return
        fair, more = divmod(self._partitions, len(names))
        free = set(range(self._partitions))
        for place, name in enumerate(names):
            keep = sorted(self.members[name].owned)[: fair + (place < more)]
            self.members[name].target = set(keep)
            free -= set(keep)
        for place, name in enumerate(names):
            target = self.members[name].target
            while len(target) < fair + (place < more):
                target.add(free.pop())
