"""Outside commands in the transaction of the group that they came with: each is called after its commit, or kept.

Kept (deferred) is what the breaker or the bulkhead has no room for, and a compensation whose command is out. The
database has the record, so the offset moves on, and nothing else waits.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

from sqlalchemy import Connection

from kompensate.participants.outside.book import Book, request_hash
from kompensate.participants.outside.breakers import Breakers
from kompensate.participants.participant import Handler
from kompensate.participants.ports import Record
from kompensate.participants.reading import read
from kompensate.schemas.messages import Command

WAIT_LOOK_SECONDS = 5.0
"""How often a compensation looks whether its command has ended, should nobody have woken it."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A call to be made once its intent is committed. `progress` is JSON."""

    kind: Literal["call", "ask"]
    number: int
    command: Command
    handler: Handler
    payload: object
    progress: str | None = None


@dataclass(slots=True)
class Room:
    """How many calls of a contract may begin now, in this process; `short` once one had to wait for it."""

    free: int
    short: bool = False


@dataclass(slots=True)
class Intake:
    """One group's outside commands; the desk makes it, and reads it after the commit.

    `since` is when it was made, by the desk's monotonic clock; `rooms` are of this process, by contract.
    """

    connection: Connection
    consumer: str
    owner: str
    since: float
    clock: Callable[[Connection], float]
    rooms: dict[str, Room]
    begun: list[Begun] = field(default_factory=list)
    _book: Book | None = None

    @property
    def book(self) -> Book:
        """Made when it is asked for: a group without outside commands does not ask the database for its time."""
        if self._book is None:
            self._book = Book(self.connection, self.consumer, self.clock(self.connection))
        return self._book

    def mine(self, command_ids: Collection[str]) -> set[str]:
        """Which commands, taken up from the database, this process still holds."""
        return self.book.mine(command_ids, self.owner) if command_ids else set()

    def take(
        self, command: Command, record: Record, handler: Handler, payload: object, *, kept: bool
    ) -> Literal["claimed", "deferred"]:
        """The intent: its inbox row is claimed and it is called after the commit; or deferred until there is room."""
        options = handler.external
        assert options is not None
        book, room = self.book, self.rooms[handler.contract]
        if not kept:
            book.enter(command, record)
        wait = 0.0
        if room.free <= 0:
            room.short = True
        else:
            wait = Breakers(self.connection, self.consumer, book.now).admit(handler.contract, options, command.id)
        if room.free <= 0 or wait > 0:
            book.defer(command.id, wait)
            return "deferred"
        room.free -= 1
        book.begin(command.id, self.owner, options.lease, status="called", tries=1, called_at=book.called_now())
        self.begun.append(Begun("call", 1, command, handler, payload))
        return "claimed"

    def wait(self, command: Command, record: Record, *, kept: bool) -> None:
        """Keep a compensation until its command has ended."""
        if not kept:
            self.book.enter(command, record)
        self.book.defer(command.id, WAIT_LOOK_SECONDS, command.compensates)

    def cancel(self, command_id: str) -> Command | None:
        """Cancel a command that went out to nobody, and return it; None: its call was begun meanwhile."""
        kept = self.book.locked([command_id]).get(command_id)
        if kept is None or kept.record is None or not self.book.cancel(command_id):
            return None
        return read(kept.record)[0]

    def close(self, command_ids: Collection[str]) -> None:
        """These, of those taken up, have their answer."""
        if command_ids:
            self.book.close(command_ids)

    def another_request(self, command: Command) -> str | None:
        """Why this command is not the one that its key was used for, if so."""
        known = self.book.hashes([command.id]).get(command.id)
        got = request_hash(command)
        if known is None or known == got:
            return None
        return (
            f"idempotency key {command.id} used again for another request: expected type and payload with SHA-256 "
            f"{known}, got {got}; the first request stands, and this one was not sent"
        )
