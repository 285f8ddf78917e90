"""What the runner needs of Kafka, as Protocols: where commands come from, and where the dead ones go.

The real ones stand in `kafka.py`; tests use their own. All calls come from the runner's one thread.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from kompensate.schemas.messages import Outcome

Headers: TypeAlias = Sequence[tuple[str, bytes | str | None]]


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it lay in its topic."""

    place: Place
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that cannot be handled, and why.

    `answered` is the outcome that its saga is told in the transaction that buries it; None: nobody is told.
    `stack` is where the handler raised, without values.
    """

    record: Record
    reason: str
    answered: Outcome | None = None
    stack: str | None = None


# Told which partitions go away, and whether their offsets may still be committed (another may own them already).
Leaving: TypeAlias = Callable[[Sequence[Place], bool], None]


class Unburied(Exception):
    """A dead letter is not in Kafka: nothing of its group may be committed; wait, then the same group again."""


class Source(Protocol):
    """The command topic, as a member of the service's consumer group."""

    def open(self, leaving: Leaving) -> None:
        """Join. `leaving` is called from within `poll` and `rest`."""

    def poll(self, records_max: int, timeout: float) -> Sequence[Record]:
        """Records there are, at most `records_max`; waits up to `timeout` seconds for the first one only."""

    def rest(self, seconds: float) -> None:
        """Wait, remaining a member of the group, without taking records."""

    def commit(self, offsets: Mapping[Place, int], *, wait: bool) -> None:
        """Commit the offsets that come next, in the background unless `wait`. Failing is logged, not raised."""

    def close(self) -> None:
        """Leave the group."""


class Grave(Protocol):
    """The topic of dead letters."""

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Return when Kafka has all `letters`. Raises Unburied."""

    def close(self) -> None:
        """Let go of the connection."""
