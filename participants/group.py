"""One group of commands inside its transaction: each through the barrier, its handler at a savepoint, its answer kept.

    claim all ids in one statement → per command: barrier, handler at a savepoint → answers and replies in one
    statement

The transaction is `unit`'s: what raises here undoes the whole group, but for what a handler alone is to blame for.
"""

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from kompensate.outbox import inbox
from kompensate.outbox.inbox import Entry
from kompensate.outbox.writer import Row
from kompensate.participants import replies
from kompensate.participants.barrier import Verdict, judge
from kompensate.participants.calling import Caller
from kompensate.participants.causes import raise_if_whole
from kompensate.participants.orders import Kept, Later, Order, Result, Settled, named
from kompensate.participants.outcome import Noted, Refused, Retry, Waits, call_of
from kompensate.participants.outside.intake import Intake
from kompensate.participants.participant import Handler, Participant
from kompensate.participants.reading import payload_of
from kompensate.participants.replies import Answer
from kompensate.participants.scratch import Misuse, Scratch
from kompensate.participants.stack import stack_of
from kompensate.schemas.faults import fault
from kompensate.schemas.messages import Command
from kompensate.schemas.payloads import BadPayload, PayloadUnavailable

log = logging.getLogger("kompensate.participants")


@dataclass(slots=True)
class Group:
    """One group in its transaction. `book` is what is known of every command it touches, as it goes.

    `stack` is of the command in hand, where its handler failed for good.
    """

    participant: Participant
    connection: Connection
    caller: Caller
    now_ms: int
    intake: Intake | None = None
    book: dict[str, Entry | None] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    held: set[Hashable] = field(default_factory=set)
    rows: list[Row] = field(default_factory=list)
    taken_up: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    scratch: Scratch | None = None
    stack: str | None = None

    def claim(self, orders: Sequence[Order]) -> None:
        """Claim the commands and those that they compensate: the same rows guard both."""
        ids = [order.command.id for order in orders]
        ids += [order.command.compensates for order in orders if order.command.compensates is not None]
        self.book = inbox.claim(self.connection, self.participant.name, ids)
        self.fresh = {command_id for command_id, entry in self.book.items() if entry is None}
        if self.intake is not None:
            self.taken_up = self.intake.mine([order.command.id for order in orders if order.kept])
            for command_id in self.taken_up:
                self.book[command_id] = None  # ours to begin, as if it had just come

    def handle(self, order: Order) -> Result:
        """One command or event; what it leads to waits for `settle`."""
        if order.lane in self.held:
            return Later("an earlier command of its lane waits", counts=False)
        result = self._handle(order) if order.command.reply_to else self._hear(order)
        if isinstance(result, Later):
            self.held.add(order.lane)
        return result

    def _hear(self, order: Order) -> Result:
        """An event, once. Nobody waits for an answer; a dead one stays unknown, so that it can be tried again."""
        event = order.command
        if self.book[event.id] is not None:
            return Settled("done")
        self.stack = None
        answer, dead = self._run(order)
        if not isinstance(answer, Answer):
            return answer
        if dead is None:
            self.book[event.id] = Entry("answered", "done")
            self.seen.add(event.id)
        return Settled(answer.outcome, dead, self.stack)

    def _handle(self, order: Order) -> Result:
        """A command through the barrier."""
        command = order.command
        if order.kept and command.id not in self.taken_up:
            return Kept()  # its hold passed, or it was cancelled: it is another's
        forward = None if command.compensates is None else self.book[command.compensates]
        verdict = judge(command, self.book[command.id], forward, self.now_ms)
        answer: Answer | Kept | Later
        dead = self.stack = None
        match verdict:
            case Verdict.RUN:
                answer, dead = self._run(order)
            case Verdict.WAIT | Verdict.CANCEL:
                answer = self._after_outside(order, verdict)
            case Verdict.IN_HAND:
                answer = Kept(self._another_request(command))
            case Verdict.REPEAT if (another := self._another_request(command)) is not None:
                answer = Kept(another)
            case _:
                answer = self._without_handler(verdict, command)
        if not isinstance(answer, Answer):
            return answer
        self.rows.append(replies.address(self.participant, command, answer))
        if self.book[command.id] is None:
            self.book[command.id] = Entry("answered", answer.outcome, answer.payload, answer.type, answer.content_type)
            self.settled.add(command.id)
        return Settled(answer.outcome, dead, self.stack)

    def settle(self) -> None:
        """Write answers and replies; give up the claims that came to nothing."""
        if self.scratch is not None:
            self.scratch.close()
        inbox.answer(self.connection, self.participant.name, self.rows, self.settled)
        inbox.note(self.connection, self.participant.name, sorted(self.seen))
        inbox.cancel(self.connection, self.participant.name, sorted(self.cancelled))
        unused = self.fresh - self.settled - self.seen - self.cancelled - self.kept
        inbox.release(self.connection, self.participant.name, sorted(unused))
        if self.intake is not None:
            self.intake.close(sorted(self.taken_up & self.settled))

    def _after_outside(self, order: Order, verdict: Verdict) -> Answer | Kept | Later:
        """A compensation whose command is handled outside: cancel that if nobody has called yet, else wait for it."""
        command, forward = order.command, order.command.compensates
        assert forward is not None
        if self.intake is None or order.record is None:
            return Later("its command is claimed or deferred: an outside call is out", counts=False)
        cancelled = self.intake.cancel(forward) if verdict is Verdict.CANCEL else None
        if cancelled is not None:
            self.book[forward] = Entry("cancelled")
            self.rows.append(replies.address(self.participant, cancelled, self._compensated_before()))
            return replies.nothing_to_undo(self.participant, f"command {forward} was cancelled before it was called")
        self.intake.wait(command, order.record, kept=command.id in self.taken_up)
        self.book[command.id] = Entry("deferred")
        self.kept.add(command.id)
        return Kept()

    def _compensated_before(self) -> Answer:
        return replies.refused(self.participant, "compensated before it arrived", {})

    def _outside(self, order: Order, handler: Handler, payload: object) -> Kept:
        """An external handler: it is called when this transaction stands, or later."""
        assert self.intake is not None
        command = order.command
        assert order.record is not None, f"{named(command)}: an outside command needs its record"
        state = self.intake.take(command, order.record, handler, payload, kept=command.id in self.taken_up)
        self.book[command.id] = Entry(state)
        self.kept.add(command.id)
        return Kept()

    def _another_request(self, command: Command) -> str | None:
        """Why this is another request than the one that its idempotency key was used for, if so."""
        handler = self.participant.handler(command.type)
        if self.intake is None or handler is None or handler.external is None:
            return None
        return self.intake.another_request(command)

    def _without_handler(self, verdict: Verdict, command: Command) -> Answer:
        own = self.book[command.id]
        match verdict:
            case Verdict.REPEAT:
                assert own is not None
                return replies.stored(own)
            case Verdict.LATE:
                return self._compensated_before()
            case Verdict.EXPIRED:
                return replies.expired(self.participant, f"expired at {command.expires_at}, read at {self.now_ms} (ms)")
            case Verdict.EMPTY:
                assert command.compensates is not None
                self.book[command.compensates] = Entry("cancelled")
                self.cancelled.add(command.compensates)
                return replies.nothing_to_undo(self.participant, f"command {command.compensates} never arrived")
            case _:
                return replies.nothing_to_undo(self.participant, f"command {command.compensates} had no effect")

    def _run(self, order: Order) -> tuple[Answer | Kept | Later, str | None]:
        """The handler's answer, or failed with the reason for which the command is a dead letter."""
        if order.doom is not None:
            return self._give_up(order.doom)
        try:
            handler, payload = payload_of(self.participant, order.command)
        except PayloadUnavailable as error:
            return _put_off(order.command, error)
        except BadPayload as error:
            return self._give_up(str(error))
        if handler.external is not None:
            return self._outside(order, handler, payload), None
        return self._run_inside(order, handler, payload)

    def _run_inside(self, order: Order, handler: Handler, payload: object) -> tuple[Answer | Later, str | None]:
        # Outside the try: a savepoint that cannot be set is the whole group's trouble, not this handler's.
        scratch = self._begin(handler) if handler.writes else None
        try:
            result = self.caller.call(handler, payload, call_of(order.command), scratch)
            fault("participant.after_handler")
            answer = replies.done(self.participant, handler, order.command, result)
            if scratch is not None:
                scratch.keep()
            return answer, None
        except Exception as error:
            raise_if_whole(error, self.connection)
            if scratch is not None:
                scratch.undo()
            if isinstance(error, Waits) or (isinstance(error, Refused) and order.command.reply_to):
                return self._refuse(error)
            if isinstance(error, PayloadUnavailable):
                return _put_off(order.command, error)
            reason = f"handler of {handler.contract}: {replies.said(error)}"
            if order.last or isinstance(error, (BadPayload, Misuse, Refused)):
                log.exception("%s failed", named(order.command), extra=_extra(order.command), exc_info=error)
                self.stack = stack_of(error)
                return self._give_up(reason)
            level = logging.INFO if isinstance(error, Retry) else logging.WARNING
            log.log(
                level,
                "%s will be tried again: %s",
                named(order.command),
                reason,
                extra=_extra(order.command),
            )
            return Later(reason, counts=True), None

    def _refuse(self, error: Refused | Waits) -> tuple[Answer | Later, str | None]:
        if isinstance(error, Noted):
            error.note(self.connection)
        if isinstance(error, Waits):
            return Later(str(error), counts=False, seconds=error.seconds), None
        try:
            return replies.refused(self.participant, error.reason, error.detail), None
        except BadPayload as bad:
            return self._give_up(f"Refused({error.reason!r}): {replies.said(bad)}")

    def _give_up(self, reason: str) -> tuple[Answer, str]:
        return replies.failed(self.participant, reason), reason

    def _begin(self, handler: Handler) -> Scratch:
        if self.scratch is None:
            self.scratch = Scratch(self.connection)
        self.scratch.begin(session=handler.wants_session)
        return self.scratch


def _put_off(command: Command, error: PayloadUnavailable) -> tuple[Later, None]:
    """Neither its sender nor its handler is wrong: it waits until key, codec or blob are there."""
    log.error("%s waits: %s", named(command), error, extra=_extra(command))
    return Later(str(error), counts=False, outage=True), None


def _extra(command: Command) -> dict[str, object]:
    return {"saga": command.saga_id, "step": command.step, "attempt": command.attempt, "command": command.id}
