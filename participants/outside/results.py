"""What becomes of outside calls that have ended, written in one transaction: answers, or when to look again.

    a try ended with                    what is written
    a result, Refused, Failed           the answer; a compensation that waits for it goes on
    Retry                               not done: again after a while; at the end of the budget, failed
    anything else, or not in time       in doubt: again with the same key while that is allowed, then its query is asked

That it was done is an answer whoever holds the command by now. A no is one of its holder's newest try alone: after an
older one that said no, a provider which does not remember refusals may have done it. Only its holder says what is next.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from kompensate.outbox import inbox
from kompensate.outbox.writer import Row
from kompensate.participants import replies
from kompensate.participants.outcome import Failed, Refused, Retry
from kompensate.participants.outside.book import Book, Kept
from kompensate.participants.outside.breakers import Breakers
from kompensate.participants.outside.retrying import next_wait
from kompensate.participants.outside.tries import Ended, NotBegun
from kompensate.participants.participant import Participant
from kompensate.participants.ports import DeadLetter
from kompensate.participants.replies import Answer
from kompensate.schemas.faults import fault
from kompensate.schemas.payloads import BadPayload

log = logging.getLogger("kompensate.participants")

Bury = Callable[[Sequence[DeadLetter]], None]


class Unwritable(Exception):
    """The call was done and its result cannot be written: only a person can say what to answer."""


@dataclass(slots=True)
class Results:
    """One transaction's worth. `waits` are the seconds after which somebody has to look again."""

    participant: Participant
    owner: str
    connection: Connection
    now: float
    bury: Bury
    rows: list[Row] = field(default_factory=list)
    settled: set[str] = field(default_factory=set)
    waits: list[float] = field(default_factory=list)

    def write(self, ended: Sequence[Ended]) -> None:
        """Write all of it; the caller commits. Raises what the database and `bury` raise."""
        book = Book(self.connection, self.participant.name, self.now)
        known = book.locked({end.attempt.command.id for end in ended})
        for end in ended:
            kept = known.get(end.attempt.command.id)
            if kept is not None and kept.state == "claimed" and kept.command_id not in self.settled:
                self._write_one(book, kept, end)
        self._tell_breakers(ended)
        inbox.answer(self.connection, self.participant.name, self.rows, self.settled)
        if self.settled:
            book.close(sorted(self.settled))
        fault("outside.before_result_commit")

    def _write_one(self, book: Book, kept: Kept, end: Ended) -> None:
        try:
            answer = self._answer(kept, end)
        except Unwritable as error:
            give_up(book, kept, str(error), self.bury)
            return
        if answer is not None:
            self.rows.append(replies.address(self.participant, end.attempt.command, answer))
            self.settled.add(kept.command_id)
        elif self._is_current(kept, end):
            self._try_again(book, kept, end)

    def _answer(self, kept: Kept, end: Ended) -> Answer | None:
        """What to answer, if that is known. Raises Unwritable."""
        error = end.error
        if error is None:
            try:
                return replies.done(self.participant, end.attempt.handler, end.attempt.command, end.result)
            except BadPayload as bad:
                raise Unwritable(f"it was done, and its result cannot be written: {bad}") from bad
        if isinstance(error, (Refused, Failed)) and not self._is_current(kept, end):
            return None
        if isinstance(error, Refused):
            try:
                return replies.refused(self.participant, error.reason, error.detail)
            except BadPayload as bad:
                return replies.failed(self.participant, f"Refused({error.reason!r}): {bad}")
        if isinstance(error, Failed):
            return replies.failed(self.participant, str(error))
        if (
            isinstance(error, Retry)
            and self._is_current(kept, end)
            and not kept.doubt
            and self._next(kept, end) is None
        ):
            return replies.failed(self.participant, f"not done in {kept.tries} tries: {error}")
        return None

    def _is_current(self, kept: Kept, end: Ended) -> bool:
        """Whether this is the try that the database knows as the newest, and ours to go on with."""
        number = kept.tries if end.attempt.kind == "call" else kept.asks
        status = "called" if end.attempt.kind == "call" else "asked"
        return kept.owner == self.owner and kept.status == status and number == end.attempt.number

    def _next(self, kept: Kept, end: Ended) -> float | None:
        if isinstance(end.error, NotBegun):
            return 0.0
        if end.attempt.kind == "ask":
            return next_wait(end.attempt.options, kept.asks, 0.0)
        return next_wait(end.attempt.options, kept.tries, kept.spent + end.seconds)

    def _try_again(self, book: Book, kept: Kept, end: Ended) -> None:
        wait = self._next(kept, end)
        if wait is None and (end.attempt.kind == "ask" or end.attempt.options.reconcile is None):
            give_up(book, kept, reason_of(end), self.bury)
            return
        wait = wait or 0.0  # no calls left: who takes it up next sees that, and asks
        notes: dict[str, object] = {"reason": reason_of(end)}
        if isinstance(end.error, NotBegun):
            # Nothing went out: it is no try, and tells nothing about the provider.
            notes |= {"tries": kept.tries - 1} if end.attempt.kind == "call" else {"asks": kept.asks - 1}
        elif end.attempt.kind == "call":
            notes["spent"] = kept.spent + end.seconds + wait
            notes["doubt"] = kept.doubt or not isinstance(end.error, Retry)
        book.rest(kept.command_id, wait, **notes)
        self.waits.append(wait)

    def _tell_breakers(self, ended: Sequence[Ended]) -> None:
        breakers = Breakers(self.connection, self.participant.name, self.now)
        by_contract: dict[str, list[Ended]] = {}
        for end in (end for end in ended if not isinstance(end.error, NotBegun)):
            by_contract.setdefault(end.attempt.command.type, []).append(end)
        for contract, ends in sorted(by_contract.items()):
            told = [(e.attempt.command.id, e.error is None or isinstance(e.error, Refused)) for e in ends]
            breakers.tell(contract, ends[0].attempt.options, told)


def give_up(book: Book, kept: Kept, reason: str, bury: Bury) -> None:
    """Nobody can tell what became of it: a dead letter, no answer, and nobody takes it up again.

    One letter, however often it is asked about: a later round that cannot tell either says so in the log and the list.
    """
    text = f"outcome unknown after {kept.tries} calls and {kept.asks} queries: {reason}; the step stays in doubt"
    if kept.buried:
        text = f"asked again, {text}"
        log.error("command %s: %s; its dead letter stands", kept.command_id, text)
    elif kept.record is not None and kept.status != "unknown":
        bury([DeadLetter(kept.record, text)])
    book.rest(kept.command_id, None, status="unknown", reason=text, buried=True)


def reason_of(end: Ended) -> str:
    """The trouble, for people. PostgreSQL's text cannot hold NUL."""
    text = "no reason" if end.error is None else replies.said(end.error)
    return text[: replies.REASON_CHARS_MAX].replace("\0", "\\0")
