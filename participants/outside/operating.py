"""What an operator sees of outside calls, and how he ends one of which nobody can tell what became of it.

All of it runs in the caller's transaction. Only an unknown outcome is his to say: as long as a call may be made or
asked about, the service is nearer to the truth.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection

from kompensate.outbox import inbox
from kompensate.participants import replies
from kompensate.participants.outside.book import Book, Kept
from kompensate.participants.outside.desk import database_time
from kompensate.participants.participant import Participant
from kompensate.participants.reading import read
from kompensate.participants.replies import Answer
from kompensate.schemas.messages import Command
from kompensate.schemas.payloads import encode


class NotThere(LookupError):
    """The service's database has no such outside command."""


class NotYours(ValueError):
    """The command's outcome is not unknown; the text says where it stands."""


@dataclass(frozen=True, slots=True)
class Standing:
    """An outside command that has no answer yet, and the saga that waits for it."""

    service: str
    kept: Kept
    saga_id: str
    reason: str | None
    lease: float | None


def standing(connection: Connection) -> list[Standing]:
    """All that have no answer yet, of every service of this database, the oldest call first."""
    found = []
    for service, kept, reason, lease in Book.open_everywhere(connection):
        command = None if kept.record is None else read(kept.record)[0]
        found.append(Standing(service, kept, "" if command is None else command.saga_id, reason, lease))
    return found


def ask_again(connection: Connection, command_id: str) -> None:
    """Have the service's `reconcile` asked once more. Raises NotThere and NotYours."""
    book, _, _ = _unknown(connection, command_id)
    book.rest(command_id, 0.0, status="asked", asks=0)


def answer(
    connection: Connection,
    command_id: str,
    outcome: Literal["done", "refused", "failed"],
    said: object,
    *,
    clock: Callable[[Connection], float] = database_time,
) -> None:
    """Answer for the provider: `said` is a result (JSON values), or the reason of a no. Raises NotThere, NotYours."""
    book, service, command = _unknown(connection, command_id, clock)
    participant = Participant(service)
    if outcome == "done":
        found = Answer("done", f"{service}.Done", encode(said))
    else:
        found = (
            replies.refused(participant, str(said), {})
            if outcome == "refused"
            else replies.failed(participant, str(said))
        )
    inbox.answer(connection, service, [replies.address(participant, command, found)], [command_id])
    book.close([command_id])


def _unknown(
    connection: Connection, command_id: str, clock: Callable[[Connection], float] = database_time
) -> tuple[Book, str, Command]:
    services: Sequence[str] = [s for s, kept, _, _ in Book.open_everywhere(connection) if kept.command_id == command_id]
    if not services:
        raise NotThere(f"expected the id of an outside command without an answer, got {command_id!r}")
    book = Book(connection, services[0], clock(connection))
    kept = book.locked([command_id])[command_id]
    if kept.status != "unknown" or kept.record is None:
        raise NotYours(
            f"command {command_id}: expected one whose outcome is unknown, got {kept.status}: the service is at it"
        )
    command, _ = read(kept.record)
    assert command is not None, command_id
    return book, services[0], command
