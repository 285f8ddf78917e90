"""Takes up what is due, in one transaction: calls to be made again or asked about, and commands that had to wait.

Any process of the service may, once the lease has passed. A call whose owner went silent may have arrived: it is in
doubt. What is in doubt is called again with the same key while the provider knows the key for certain, and while tries
and budget last; past that its query is asked, and who has none becomes a dead letter without an answer.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection

from kompensate.participants.outside.book import Book, Kept
from kompensate.participants.outside.breakers import Breakers
from kompensate.participants.outside.intake import Begun, Room
from kompensate.participants.outside.options import External
from kompensate.participants.outside.results import Bury, give_up
from kompensate.participants.participant import Handler, Participant
from kompensate.participants.ports import Record
from kompensate.participants.reading import payload_of, read
from kompensate.schemas.messages import Command
from kompensate.schemas.payloads import BadPayload, PayloadUnavailable

log = logging.getLogger("kompensate.participants")

TAKE_MAX = 64
"""Commands taken up in one transaction."""
HOLD_SECONDS = 30.0
"""For how long commands that had to wait are this process's, so that it can handle them."""
BROKEN_SECONDS = 60.0
"""Until a call is looked at again whose handler or payload is not there."""


@dataclass(slots=True)
class Due:
    """One look. Afterwards `begun` are to be called, `records` to be handled; `full`: there may be more."""

    participant: Participant
    owner: str
    connection: Connection
    now: float
    bury: Bury
    begun: list[Begun] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    full: bool = False

    def take_up(self, handlers: Mapping[str, Handler], rooms: Mapping[str, Room], busy: Collection[str]) -> None:
        """Take up as much as there is room for. `busy` are commands that this process is at work on."""
        book = Book(self.connection, self.participant.name, self.now)
        breakers = Breakers(self.connection, self.participant.name, self.now)
        for contract, handler in handlers.items():
            assert handler.external is not None
            room = min(rooms[contract].free, breakers.room(contract, handler.external), TAKE_MAX)
            if room <= 0:
                continue
            claimed = book.due(["claimed"], [contract], within=True, most=room)
            for kept in claimed:
                self._take_up_call(book, breakers, handler, kept, busy)
            if len(claimed) < room:
                self._take(book, [contract], within=True, most=room - len(claimed))
            else:
                self.full = True
        self._take(book, handlers.keys(), within=False, most=TAKE_MAX)
        for kept in book.due(["claimed"], handlers.keys(), within=False, most=TAKE_MAX):
            log.error("command %s: expected an external handler of %s, got none", kept.command_id, kept.contract)
            book.rest(kept.command_id, BROKEN_SECONDS)

    def _take(self, book: Book, contracts: Collection[str], *, within: bool, most: int) -> None:
        """Commands that went out to nobody: they are handled as if they came from Kafka."""
        found = book.due(["deferred"], contracts, within=within, most=most)
        book.hold([kept.command_id for kept in found], self.owner, HOLD_SECONDS)
        self.records += [kept.record for kept in found if kept.record is not None]
        self.full = self.full or len(found) == most

    def _take_up_call(
        self, book: Book, breakers: Breakers, handler: Handler, kept: Kept, busy: Collection[str]
    ) -> None:
        options = handler.external
        assert options is not None
        if kept.command_id in busy:
            book.hold([kept.command_id], self.owner, options.lease)
            return
        try:
            command, payload = self._read(kept)
        except (BadPayload, PayloadUnavailable) as error:
            log.error("command %s is in doubt, and cannot be called or asked about: %s", kept.command_id, error)
            book.rest(kept.command_id, BROKEN_SECONDS, reason=str(error))
            return
        silent = kept.owner is not None and kept.status == "called"
        doubt = kept.doubt or silent
        spent = kept.spent + (options.timeout if silent else 0.0)
        if kept.status == "called" and self._may_call(options, kept, spent, doubt=doubt):
            if wait := breakers.admit(kept.contract, options, kept.command_id):
                book.rest(kept.command_id, wait, doubt=doubt, spent=spent)
                return
            number = kept.tries + 1
            book.begin(kept.command_id, self.owner, options.lease, tries=number, doubt=doubt, spent=spent)
            self.begun.append(Begun("call", number, command, handler, payload, kept.progress))
        elif options.reconcile is None:
            give_up(book, kept, "it may not be called again, and there is no reconcile= to ask", self.bury)
        elif kept.asks >= options.tries:
            give_up(book, kept, "it may not be called again, and its reconcile= could not tell", self.bury)
        elif wait := breakers.admit(kept.contract, options, kept.command_id):
            book.rest(kept.command_id, wait, status="asked", doubt=doubt, spent=spent)
        else:
            number = kept.asks + 1
            book.begin(
                kept.command_id, self.owner, options.lease, status="asked", asks=number, doubt=doubt, spent=spent
            )
            self.begun.append(Begun("ask", number, command, handler, payload, kept.progress))

    def _may_call(self, options: External, kept: Kept, spent: float, *, doubt: bool) -> bool:
        """Whether the same key may go out once more: for what is in doubt, only if it surely arrives in the window."""
        if kept.tries >= options.tries or spent >= options.budget:
            return False
        return not doubt or (kept.called_at or 0.0) + options.window >= self.now + options.lease

    def _read(self, kept: Kept) -> tuple[Command, object]:
        if kept.record is None:
            raise BadPayload("expected its record beside it, got none")
        command, problem = read(kept.record)
        if command is None or problem is not None:
            raise BadPayload(problem or "unreadable")
        return command, payload_of(self.participant, command)[1]
