"""Slot → topics: the relay's loop, on ports, in one thread.

    read the slot → row → record → broker's acknowledgement → confirm

What is confirmed is the end of the newest transaction such that every row of it, and of every earlier
one, was acknowledged by the broker. Rows of one statement may share a log position (so a row is named by
its transaction's position and its index in it), and a confirmed row never comes again; anything else does.
So the relay is at least once: after a crash the rows of about the last second come twice, in order.
Participants' inboxes and the kernel absorb that by `ce_id`.

A transaction is never held: its rows go out as they are read, bounded by what the sink takes in, however
many there are. While the sink takes nothing (Kafka is away) the loop reads nothing and only tells
PostgreSQL that it lives; what piles up is the server's log, which `max_slot_wal_keep_size` bounds.

A row that its topic will never take (no such topic or partition, too large) goes to the dead-letter topic
with its bytes, the reason and where it stood; if that is refused as well the relay stops with nothing
of it confirmed. Updates, deletes and truncations are no messages; an insert-only publication sends none.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

from kompensate.outbox.errors import Misconfigured, Undeliverable
from kompensate.outbox.pgoutput import (
    Begin,
    Commit,
    Ignored,
    Insert,
    Keepalive,
    Message,
    ProtocolError,
    Relation,
    lsn_text,
)
from kompensate.outbox.records import BadTable, Header, Mapping, Record
from kompensate.schemas import letters
from kompensate.schemas.faults import fault
from kompensate.schemas.messages import timestamp

log = logging.getLogger(__name__)


class Refusal(NamedTuple):
    """A record will never be taken, however often it is sent."""

    reason: str
    too_large: bool = False


Delivered: TypeAlias = Callable[[Any, object], None]
"""Takes an error, which `Sink.refusal` understands, or None: the broker has the record for good. The second is not
looked at: librdkafka's callbacks have two, and one of our own between costs each row more than the rest of its answer.
"""


class Source(Protocol):
    """A held replication slot, read from its confirmed position on. Raises Disconnected."""

    def read(self, timeout: float) -> Sequence[Message]:
        """What has come, at once; else wait up to `timeout` seconds. Empty: nothing."""

    def confirm(self, lsn: int) -> None:
        """Everything up to `lsn` is safe: keep that, then tell the server. Never called with less than before."""

    def heartbeat(self) -> None:
        """Tell the server that its reader lives, with the last confirmed position."""


class Sink(Protocol):
    """A broker that keeps the order of each partition and sends again by itself until it has an answer."""

    def send(self, record: Record, delivered: Delivered) -> bool:
        """Take `record`, or return False: too much is under way, poll and try again.

        `delivered` is called once, from `poll` or from here.
        A record with partition -1 goes where its key says.
        """

    def refusal(self, error: Any, record: Record) -> Refusal | None:
        """What an error that `delivered` was called with says of its record; None: that the sink cannot go on."""

    def poll(self, timeout: float) -> bool:
        """Hand out the answers that have come; whether nothing is under way any more.

        With a `timeout` it waits up to so many seconds for some. That says that nothing more is to be sent now, so what
        came after a rest need not be kept back for a larger batch. Raises Disconnected where it is broken.
        """


@dataclass(frozen=True, slots=True)
class Limits:
    """The loop's times, in seconds, and bounds."""

    confirm: float = 1.0
    """Rows of so long are sent again after a crash; each confirmation costs a small commit."""
    confirm_idle: float = 30.0
    """Nothing came but the server's log went on (other tables): let go of that much of it."""
    heartbeat: float = 0.75
    """Far below `replication.SILENCE_MS`, so that a busy or blocked relay is not taken for dead."""
    idle_wait: float = 0.2
    """How long one read waits: the time that a request to stop may take to be seen."""
    ack_wait: float = 0.005
    """How long acknowledgements are awaited before the slot is looked at again."""
    drain: float = 10.0
    """After a request to stop: how long acknowledgements are awaited before leaving without them."""
    transactions_max: int = 100_000
    """Transactions not yet confirmed: beyond it nothing is read until the oldest is answered."""


class _Transaction:
    """One database transaction under way. `end_lsn` is 0 until its commit was read."""

    __slots__ = ("commit_lsn", "end_lsn", "rows", "time", "unanswered")

    def __init__(self, commit_lsn: int, time: int = 0) -> None:
        self.commit_lsn = commit_lsn
        self.time = time
        self.end_lsn = 0
        self.rows = 0
        self.unanswered = 0


class _Place(NamedTuple):
    """A row: its transaction and its index in it."""

    transaction: _Transaction
    row: int

    def __str__(self) -> str:
        return f"{lsn_text(self.transaction.commit_lsn)} row {self.row}"


class Relay:
    """Carries one outbox to its topics. `stopping` is asked often; once true, the loop drains and returns.

    The outbox is the table of that name, and the one with `oid`, as which it is known when it is renamed.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        dead_topic: str,
        stopping: Callable[[], bool],
        *,
        table: str = "outbox",
        oid: int | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._sink = sink
        self._dead_topic = dead_topic
        self._stopping = stopping
        self._table, self._oid = table, oid
        self._limits = limits or Limits()
        self._clock = clock
        self._mappings: dict[int, Mapping | None] = {}
        self._open: deque[_Transaction] = deque()  # oldest first; the last one may still be being read
        self._refused: deque[tuple[_Place, Record, bool, Refusal]] = deque()
        self._warned: set[str] = set()
        self._heard = self._awaits = False
        self._safe = self._confirmed = self._idle = 0
        self._confirmed_at = self._told_at = clock()
        self.rows = 0
        """Rows handed to the broker so far."""
        self.dead = 0
        """Rows put on the dead-letter topic so far."""
        self.turned_at = clock()
        """When the loop came round last."""

    def run(self) -> None:
        """Carry rows until `stopping`, then wait for what is under way and confirm it.

        Raises Disconnected, Misconfigured, Undeliverable.
        """
        while not self._stopping():
            self.step()
        self._drain()

    def publish(self, mapping: Mapping, rows: Iterable[Sequence[bytes | None]]) -> bool:
        """Send `rows`, which did not come from the slot, for a resync before `run`.

        True: the broker has every one. False: `stopping` turned true before that.
        """
        transaction = _Transaction(0)
        for row in rows:
            if self._stopping() or not self._carry(transaction, mapping, row):
                return False
            if not transaction.rows % 100:
                self._answers(0)
                self._confirm()
        while transaction.unanswered:
            if self._stopping():
                return False
            self._answers(self._limits.ack_wait)
            self._confirm()
        return True

    @property
    def oldest(self) -> int | None:
        """Commit time, as in Begin, of the oldest transaction of which Kafka lacks a row. For any thread."""
        try:
            return self._open[0].time
        except IndexError:
            return None

    def step(self) -> None:
        """One turn of the loop: what the slot has, then the broker's answers, then what can be confirmed."""
        if len(self._open) >= self._limits.transactions_max:
            self._answers(self._limits.ack_wait)
            self._confirm()
            return
        messages = self._source.read(0 if self._awaits else self._limits.idle_wait)
        if messages:
            fault("relay.after_read")
            for message in messages:
                if not self._handle(message):
                    return
            fault("relay.before_ack")
        self._awaits = not self._answers(0 if messages else self._limits.ack_wait)
        self._confirm()

    def _handle(self, message: Message) -> bool:
        """False: asked to stop where the sink takes no more."""
        if type(message) is Insert:
            mapping = self._mapping(message.oid)
            if mapping is None:
                self._warn("rows of a table that is not the outbox ignored: the publication should list no other")
                return True
            if not self._open or self._open[-1].end_lsn:
                raise ProtocolError("replication stream: expected a begin before an insert, got none")
            return self._carry(self._open[-1], mapping, message.values)
        match message:
            case Begin(commit_lsn, committed_at):
                self._open.append(_Transaction(commit_lsn, committed_at))
            case Commit(end_lsn=end_lsn):
                self._open[-1].end_lsn = end_lsn
            case Keepalive(end_lsn, reply_requested):
                self._rest(end_lsn, reply_requested)
            case Relation():
                self._mappings[message.oid] = self._map(message)
            case Ignored(kind):
                self._warn(f"{kind} in the publication ignored: only inserted rows are messages")
        return True

    def _mapping(self, oid: int) -> Mapping | None:
        try:
            return self._mappings[oid]
        except KeyError:
            raise ProtocolError(
                f"replication stream: expected a relation message before rows of table oid {oid}, got none"
            ) from None

    def _map(self, relation: Relation) -> Mapping | None:
        if relation.name != self._table and relation.oid != self._oid:
            return None  # a partition describes itself as well, though its rows come as the root's
        try:
            return Mapping(f"{relation.schema}.{relation.name}", relation.columns)
        except BadTable as error:
            raise Misconfigured(
                f"{error}. Rows written without it can go out by a resync alone: mend the table, drop the slot, "
                "and start the relay once with --resync"
            ) from error

    def _carry(self, transaction: _Transaction, mapping: Mapping, values: Sequence[bytes | None]) -> bool:
        """Send one row. False: asked to stop while the sink was full, so the row was not sent."""
        record = mapping.record(values)
        row = transaction.rows
        transaction.rows = row + 1
        transaction.unanswered += 1
        if record.partition < 0:
            refusal = Refusal(f"partition {record.partition} is below 0")
            self._refused.append((_Place(transaction, row), record, False, refusal))
            return True
        # What waits for its answer is the row: a record's many small objects go at once, while they are in the cache.
        if not self._send(record, partial(self._answered, transaction, row, mapping, values)):
            return False
        self.rows += 1
        return True

    def _send(self, record: Record, delivered: Delivered) -> bool:
        while not self._sink.send(record, delivered):
            if self._stopping():
                return False
            self._sink.poll(self._limits.ack_wait)
            self._confirm()
        return True

    def _answered(
        self,
        transaction: _Transaction,
        row: int,
        mapping: Mapping,
        values: Sequence[bytes | None],
        error: Any,
        _sent: object,
    ) -> None:
        self._heard = True
        if error is None:
            transaction.unanswered -= 1
        else:
            self._refuse(_Place(transaction, row), mapping.record(values), False, error)

    def _letter_answered(self, place: _Place, letter: Record, error: Any, _sent: object) -> None:
        self._heard = True
        if error is None:
            place.transaction.unanswered -= 1
        else:
            self._refuse(place, letter, True, error)

    def _refuse(self, place: _Place, record: Record, is_dead: bool, error: Any) -> None:
        refusal = self._sink.refusal(error, record)
        if refusal is not None:
            # Sending from within the sink's own callback could call back for ever: `_answers` sees to it.
            self._refused.append((place, record, is_dead, refusal))

    def _answers(self, timeout: float) -> bool:
        """Take in what the broker says; whether nothing is under way any more."""
        is_all = self._sink.poll(timeout)
        while self._refused and not self._stopping():
            self._bury(*self._refused.popleft())
            is_all = False
        if self._heard:
            self._heard = False
            fault("relay.after_ack")
        return is_all

    def _bury(self, place: _Place, record: Record, is_dead: bool, refusal: Refusal) -> None:
        """Put a refused row on the dead-letter topic; a dead letter that is itself too large goes without its value."""
        if not is_dead:
            log.error("row at %s for topic %s refused (%s): dead letter", place, record.topic, refusal.reason)
            self.dead += 1
            letter = self._letter(place, record, refusal)
        elif refusal.too_large and record.value is not None:
            left_out = f"value of {len(record.value)} bytes left out: it stands in the outbox row of this id"
            letter = record._replace(value=None, headers=[*record.headers, (letters.OMITTED, left_out.encode())])
        else:
            raise Undeliverable(
                f"row at {place}: expected dead-letter topic {self._dead_topic!r} to take what its own topic refused, "
                f"got {refusal.reason!r} from it too: create that topic, or let this relay write to it. Nothing of the "
                "row's transaction is confirmed, so it comes again at the next start"
            )
        self._send(letter, partial(self._letter_answered, place, letter))

    def _letter(self, place: _Place, record: Record, refusal: Refusal) -> Record:
        added: list[Header] = [
            (letters.REASON, refusal.reason.encode()),
            (letters.TOPIC, record.topic.encode()),
            (letters.PARTITION, b"%d" % record.partition),
            (letters.LSN, lsn_text(place.transaction.commit_lsn).encode()),
            (letters.INDEX, b"%d" % place.row),
            (letters.TIME, timestamp(time.time_ns() // 1_000_000).encode()),
        ]
        return Record(self._dead_topic, -1, record.key, record.value, [*record.headers, *added])

    def _rest(self, end_lsn: int, reply_requested: bool) -> None:
        """The server has nothing more up to `end_lsn`. With nothing under way that much may go."""
        self._settle()
        if self._open:
            return
        self._idle = end_lsn
        if reply_requested and end_lsn > self._confirmed:
            # A server that shuts down waits for this position.
            self._tell(end_lsn)

    def _settle(self) -> None:
        """Find the newest position with everything before it answered."""
        transactions = self._open
        while transactions and transactions[0].end_lsn and not transactions[0].unanswered:
            self._safe = transactions.popleft().end_lsn

    def _confirm(self) -> None:
        self._settle()
        now, limits = self._clock(), self._limits
        self.turned_at = now
        if self._safe > self._confirmed:
            if now - self._confirmed_at >= limits.confirm:
                self._tell(self._safe)
                return
        elif not self._open and self._idle > self._confirmed and now - self._confirmed_at >= limits.confirm_idle:
            self._tell(self._idle)
            return
        if now - self._told_at >= limits.heartbeat:
            self._source.heartbeat()
            self._told_at = now

    def _tell(self, lsn: int) -> None:
        self._source.confirm(lsn)
        self._confirmed = lsn
        self._confirmed_at = self._told_at = self._clock()
        fault("relay.after_confirm")

    def _drain(self) -> None:
        deadline = self._clock() + self._limits.drain
        while any(t.unanswered for t in self._open) and not self._refused and self._clock() < deadline:
            self._sink.poll(self._limits.ack_wait)
            self._confirm()
        self._settle()
        if self._safe > self._confirmed:
            self._tell(self._safe)
        if self._open:
            log.warning("stopped with %d transactions not confirmed: they come again", len(self._open))

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)
