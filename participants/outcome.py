"""What a handler can see of its command, and how it says no.

A handler that returns has done it. Raising Refused is the business's no: its writes are undone and the
saga goes back. Raising Retry, or anything else, is no answer yet: its writes are undone and it is run again
a few times before the command is given up as failed.

Of an outside call Retry and Failed say that nothing was done; anything else leaves that open.
"""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kompensate.schemas.messages import NOT_TRACED, Command, Phase, Trace

if TYPE_CHECKING:  # SQLAlchemy is not needed to declare handlers
    from sqlalchemy import Connection


class Refused(Exception):
    """The business says no. `reason` is for people, `detail` (JSON values) for the saga's code."""

    def __init__(self, reason: str, **detail: object) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Retry(Exception):
    """Not now: run this command again in a moment. The message says why."""


class Waits(Exception):
    """Not now, and nobody's fault: run this command again in `seconds`, as often as it takes.

    Unlike Retry it does not count; whoever raises it sees to it that it ends.
    """

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Noted(ABC):
    """A Refused or Waits that leaves something in the database, although its handler's own writes are undone."""

    @abstractmethod
    def note(self, connection: "Connection") -> None:
        """Write it, in the group's transaction, after they were undone."""


class Failed(Exception):
    """It was not done, and the same command would fail again: the saga may make a new attempt, or go back."""


@dataclass(frozen=True, slots=True)
class Call:
    """The command around the payload. `id` is the idempotency key: the same each time it is sent again.

    `source` is who asks: `kompensate:` and the application's name.
    """

    id: str
    saga_id: str
    saga_type: str
    step: str
    phase: Phase
    attempt: int
    compensates: str | None = None
    trace: Trace = NOT_TRACED
    source: str = ""


@dataclass(slots=True)
class Signs:
    """What an outside call in its thread and the participant's loop tell each other."""

    beaten: bool = False
    progress: str | None = None
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class OutsideCall(Call):
    """The same of a command that is handled outside of the transaction.

    After `timeout` seconds without an end or a heartbeat the call is broken off; give it to your client. `progress` is
    what the newest heartbeat said, in this process or in one that died, None at first.
    """

    timeout: float = 0.0
    progress: object = None
    signs: Signs = field(default_factory=Signs, repr=False, compare=False)

    def heartbeat(self, progress: object = None) -> None:
        """Say that this call is alive: it has `timeout` seconds again. Raises TypeError for what JSON cannot hold."""
        if progress is not None:
            self.signs.progress = json.dumps(progress)
        self.signs.beaten = True

    @property
    def cancelled(self) -> bool:
        """Whether to stop: a compensation waits for this call's end, or another process has taken it over."""
        return self.signs.cancelled


def call_of(command: Command) -> Call:
    return Call(
        command.id,
        command.saga_id,
        command.saga_type,
        command.step,
        command.phase,
        command.attempt,
        command.compensates,
        command.trace,
        command.source,
    )
