"""What is known of a service beside the applications that call it: its commands, what it publishes and subscribes to.

Its topics and rights are made from it. A Participant is one; the orchestrator imports none.
"""

from collections.abc import Sequence
from typing import Protocol


class EventTopicLike(Protocol):
    """A topic of a service's own events."""

    @property
    def name(self) -> str: ...

    @property
    def partitions(self) -> int: ...


class ParticipantLike(Protocol):
    """What of a participant its topics and its rights are made from. `subscribes` are names of topics."""

    @property
    def name(self) -> str: ...

    @property
    def contracts(self) -> Sequence[str]: ...

    @property
    def publishes(self) -> Sequence[EventTopicLike]: ...

    @property
    def subscribes(self) -> Sequence[str]: ...
