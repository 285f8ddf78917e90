"""What the loop asks of a unit, a command at a time, and what comes of each."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from kompensate.participants.ports import Record
from kompensate.schemas.messages import Command, Outcome


@dataclass(frozen=True, slots=True)
class Order:
    """A command to handle. Commands of one `lane` keep their order.

    `last`: an unexpected error is not to be tried again. `doom`: answer failed, for this reason, unhandled.
    `record` is where it came from; `kept`: the database had it, and this process has taken it up.
    """

    command: Command
    lane: Hashable
    last: bool = False
    doom: str | None = None
    record: Record | None = None
    kept: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """The command has its answer (an event has an outcome alone). `dead` is why it is a dead letter, if it is one.

    `stack` is where its handler raised then, without values.
    """

    outcome: Outcome
    dead: str | None = None
    stack: str | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing of the command is committed. `counts`: it was tried, so its tries are fewer.

    `outage`: what it needs is missing, and may be for long. `full`: it was not looked at, its turn comes with the next
    group. `seconds`: when it is to be tried again, if that is known.
    """

    reason: str
    counts: bool
    outage: bool = False
    full: bool = False
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """The database has the command: its answer comes later, or was given to another delivery. `dead` as of Settled."""

    dead: str | None = None
    outcome: None = None
    stack: None = None


Result: TypeAlias = Settled | Kept | Later
Bury: TypeAlias = Callable[[Sequence[tuple[int, Settled | Kept]]], None]


def named(command: Command) -> str:
    """The command in a line of the log."""
    return f"saga {command.saga_id}, step {command.step}, attempt {command.attempt} (command {command.id})"
