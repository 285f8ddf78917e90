"""The application's state topic, folded a second time as it is committed: the invariants of the log.

Told of every committed transaction, it folds the new events of each saga with the kernel's own `evolve` and holds:

    I4   the next compensation is that of the last completed step that is not undone yet
    I5   events follow each other, page by page, checksum by checksum; a saga that ended stays ended
    I6   what a worker holds in memory, after a restore and after each commit, is what the topic says
    I7   each command record belongs to an event of the same transaction, and each event has its command;
         each event from a record names one that is there, of this saga
    I8   an input leads to one batch of events, in the transaction that commits its offset; the watermark says so

It knows no kind of event by name: what `evolve` takes, it takes.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from zlib import crc32

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.errors import IllegalTransition
from kompensate.orchestrator.kernel.folding import evolve
from kompensate.orchestrator.kernel.state import Call, SagaState
from kompensate.orchestrator.kernel.tables import CHILD, WORKER, CallStatus, Status
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.sagas.journal import (
    ATTRIBUTES_HEADER,
    STATE_HEADER,
    Damaged,
    ReadPage,
    Recorded,
    StateHeader,
    read_page,
    read_watermark,
)
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.sagas.rooms import line_of
from kompensate.orchestrator.testing.broker import Offsets
from kompensate.schemas import codec
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.topics import PLAN_PREFIX, WATERMARK_PREFIX, Topics, saga_of_key
from kompensate.simulator.violation import Violation, expect

_SUMMARY, _PAGE = codec.prefix(codec.SUMMARY), codec.prefix(codec.PAGE)
_OURS = (WORKER, CHILD)
_WATERMARK = WATERMARK_PREFIX.encode()
_TO_UNDO = (CallStatus.DONE, CallStatus.IN_DOUBT)


class Shadow:
    """A saga as the topic tells it."""

    __slots__ = ("checksum", "commands", "copied", "head", "pages", "queued", "state")

    def __init__(self, app: str, saga_id: str, run: str) -> None:
        self.state = SagaState(app, saga_id, run)
        self.pages: list[bytes] = []
        self.head = 0
        self.checksum = b"\0\0\0\0"
        self.commands = 0
        self.queued: dict[str, Call] = {}
        self.copied = 0
        """How many of its first events it was begun with: another saga's, and what says so."""


class Ledger:
    """All sagas of one application."""

    def __init__(self, app: str, topics: Topics, services: Sequence[str]) -> None:
        self.live: dict[str, Shadow] = {}
        self.ended: dict[str, SagaState] = {}
        self.forgotten: set[str] = set()
        self.refused: set[str] = set()
        """Sagas of which an input went to the quarantine topic."""
        self.offsets: dict[tuple[str, int], int] = {}
        self.issued: dict[str, Call] = {}
        self.events = self.transactions = 0
        self.closed = 0
        """How many have ended that were nobody's children."""
        self.fresh: list[SagaState] = []
        """Sagas that ended with the last transaction."""
        self.admitted: set[tuple[int, str, str]] = set()
        """(partition, limit, line) of the calls that it let out under limits."""
        self._app = app
        self._state_topic, self._history_topic = topics.state, topics.history
        self._quarantine, self._control = topics.quarantine, topics.control
        self._command_topics = {topics.commands(service) for service in services}
        self._inputs: dict[tuple[str, int, int], bytes | None] = {}
        self._input_topics = set(topics.inputs(services))
        self._numbers: dict[int, int] = {}

    # What is written.

    def appended(self, record: Record) -> None:
        """A record outside a transaction: an input."""
        if record.topic in self._input_topics:
            self._inputs[record.topic, record.partition, record.offset] = record.key

    def committed(self, records: list[Record], groups: list[Offsets]) -> None:
        """A worker's transaction, at the moment of its decision. Raises Violation."""
        self.transactions += 1
        self.fresh, self.admitted = [], set()
        offsets = {place: offset for found in groups for place, offset in found.offsets.items()}
        before = {place: self.offsets.get(place, 0) for place in offsets}
        for place, offset in offsets.items():
            if offset < before[place]:
                raise Violation("I8", f"{place}: expected an offset from {before[place]} on, got {offset}")
        self.offsets.update(offsets)
        self._watermarks(records, offsets)
        taken = _Taken(before, offsets)
        touched: dict[str, Shadow] = {}
        sent: dict[str, set[str]] = {}
        for record in records:
            self._record(record, taken, touched, sent)
        for saga_id, shadow in touched.items():
            self._commands(saga_id, shadow, sent.pop(saga_id, set()))
        expect(not sent, "I7", f"commands of sagas without an event in their transaction: {sent}")
        for saga_id, shadow in touched.items():
            if shadow.state.ended:
                self.fresh.append(shadow.state)
                self.closed += shadow.state.parent is None
                expect(saga_id not in self.live, "I5", f"{saga_id} ended without its summary")

    def _record(self, record: Record, taken: "_Taken", touched: dict[str, Shadow], sent: dict[str, set[str]]) -> None:
        topic = record.topic
        if topic == self._state_topic:
            self._state(record, taken, touched)
        elif topic == self._history_topic:
            self._history(record, taken, touched)
        elif topic == self._quarantine:
            self.refused.add((record.key or b"").decode())
        elif topic == self._control:
            self.appended(record)  # what a saga asks of another
        elif topic in self._command_topics:
            headers = dict(record.headers or ())
            saga_id = (headers["ce_correlationid"] or b"").decode()
            sent.setdefault(saga_id, set()).add((headers["ce_id"] or b"").decode())

    def _watermarks(self, records: list[Record], offsets: dict[tuple[str, int], int]) -> None:
        marked = set()
        state = [record for record in records if record.topic == self._state_topic]
        for record in state:
            if (record.key or b"").startswith(_WATERMARK):
                mark = read_watermark(record.value or b"")
                marked.add(record.partition)
                expected = {topic: offset for (topic, number), offset in offsets.items() if number == record.partition}
                if mark.offsets != expected:
                    raise Violation(
                        "I8",
                        f"partition {record.partition}: expected a watermark of the committed {expected}, "
                        f"got {mark.offsets}",
                    )
                last = self._numbers.get(record.partition, 0)
                if mark.transaction != last + 1:
                    raise Violation(
                        "I8", f"partition {record.partition}: expected transaction {last + 1}, got {mark.transaction}"
                    )
                self._numbers[record.partition] = mark.transaction
        stray = {record.partition for record in state} - marked
        expect(not stray, "I8", f"partitions {stray}: records of state without a watermark in their transaction")
        for number in {number for _topic, number in offsets}:
            expect(number in marked, "I8", f"partition {number}: offsets without a watermark in their transaction")

    def _state(self, record: Record, taken: "_Taken", touched: dict[str, Shadow]) -> None:
        key = (record.key or b"").decode()
        if key.startswith((WATERMARK_PREFIX, PLAN_PREFIX)):
            return
        saga_id, number = saga_of_key(key)
        value = record.value
        if value is None:
            self._tombstone(saga_id, number)
        elif value.startswith(_SUMMARY):
            self._summary(saga_id, value)
        else:
            shadow = self._page(saga_id, number, value, taken, touched)
            self._header(saga_id, shadow, number, record)

    def _history(self, record: Record, taken: "_Taken", touched: dict[str, Shadow]) -> None:
        headers = dict(record.headers or ())
        number = int(headers["page"] or b"0")
        self._page((record.key or b"").decode(), number, record.value or b"", taken, touched)

    def _page(self, saga_id: str, number: int, value: bytes, taken: "_Taken", touched: dict[str, Shadow]) -> Shadow:
        shadow = self.live.get(saga_id)
        page = None
        if shadow is None:
            expect(saga_id not in self.ended, "I5", f"{saga_id}: expected nothing after its end, got page {number}")
        if shadow is None or (
            # The next run, in the transaction that ended this one.
            shadow.state.status is Status.CONTINUED and number == 0 and shadow.pages[0] != value
        ):
            page = self._read(saga_id, value)
            shadow = self.live[saga_id] = Shadow(self._app, saga_id, page.run)
        touched[saga_id] = shadow
        newest = len(shadow.pages) - 1
        if number <= newest and shadow.pages[number] == value:
            return shadow  # a closed page, for the history
        if number not in (newest, newest + 1):
            raise Violation("I5", f"{saga_id}: expected page {newest} or the next, got {number}")
        if number == newest:
            page = self._appended(saga_id, shadow, value)
            shadow.pages[-1] = value
        else:
            page = self._opened(saga_id, shadow, page or self._read(saga_id, value))
            shadow.pages.append(value)
        for recorded in page.events:
            self._event(saga_id, shadow, recorded, taken)
        return shadow

    def _event(self, saga_id: str, shadow: Shadow, recorded: Recorded, taken: "_Taken") -> None:
        origin, number = recorded.origin, shadow.state.events + 1
        if number == 1 and isinstance(recorded.event, e.SagaForked):
            shadow.copied = recorded.event.events + 1
        mine = number == 1 or number > shadow.copied
        if origin.offset >= 0 and mine:
            taken.take(saga_id, (origin.topic, origin.partition), origin.offset)
            key = self._inputs.get((origin.topic, origin.partition, origin.offset))
            if key != saga_id.encode():
                raise Violation("I7", f"{saga_id}: expected a record of its own at {origin}, got {key!r}")
        self._fold(shadow.state, recorded.event, origin.time)
        if type(recorded.event) is e.CallAdmitted:
            partition = int(shadow.state.run.partition(".")[0])
            call = shadow.state.calls[recorded.event.number]
            self.admitted.add((partition, call.limit, line_of(call)))
        if number == shadow.copied:
            shadow.commands = len(shadow.state.commands)  # another saga sent them

    @staticmethod
    def _opened(saga_id: str, shadow: Shadow, page: ReadPage) -> ReadPage:
        expected = (shadow.state.run, len(shadow.pages), shadow.state.events + 1, shadow.checksum)
        got = (page.run, page.number, page.first, page.previous)
        if expected != got:
            raise Violation("I5", f"{saga_id}: expected run, page, first event, checksum {expected}, got {got}")
        head = codec.encode_string(page.run) + codec.encode_long(page.number) + codec.encode_long(page.first)
        shadow.head = len(_PAGE) + len(head) + 4
        shadow.checksum = page.checksum
        return page

    def _appended(self, saga_id: str, shadow: Shadow, value: bytes) -> ReadPage:
        """Only the blocks that are new, as a page of their own: the cost does not grow with the page."""
        old, head = shadow.pages[-1], shadow.head
        body = head + 4
        if value[:head] != old[:head] or value[body : len(old) - 1] != old[body:-1]:
            raise Violation("I5", f"{saga_id}: expected its page to go on as it was")
        blocks = value[len(old) - 1 : -1]
        checksum = crc32(blocks, int.from_bytes(shadow.checksum, "big")).to_bytes(4, "big")
        if value[head:body] != checksum:
            raise Violation("I5", f"{saga_id}: expected checksum {checksum.hex()} on its page")
        shadow.checksum = checksum
        alone = crc32(blocks, crc32(value[len(_PAGE) : head])).to_bytes(4, "big")
        return self._read(saga_id, b"".join((value[:head], alone, blocks, b"\0")))

    @staticmethod
    def _read(saga_id: str, value: bytes) -> ReadPage:
        try:
            return read_page(value)
        except (Damaged, BadRecord) as error:
            raise Violation("I5", f"{saga_id}: {error}") from error

    def _fold(self, state: SagaState, event: e.Event, time: int) -> None:
        if type(event) is e.UndoSent:
            call = state.calls[event.number]
            if call.status in _TO_UNDO:
                spans = list(state.undos.values()) if state.status is Status.RUNNING else [(1, None)]
                waiting = [found[0] for first, last in spans if (found := state.to_undo(first, last))]
                expect(
                    call in waiting,
                    "I4",
                    f"{state.saga_id}: expected the undo of one of {[other.made.step for other in waiting]}, "
                    f"got that of {call.made.step!r}",
                )
        try:
            evolve(state, event, time)
        except IllegalTransition as error:
            raise Violation("I5", str(error)) from error
        self.events += 1

    @staticmethod
    def _header(saga_id: str, shadow: Shadow, number: int, record: Record) -> None:
        headers, state = dict(record.headers or ()), shadow.state
        text = headers.get(STATE_HEADER) or b""
        expected = f"{state.run} {state.events} {state.next_due() or 0} {state.status} {state.hold or '-'} "
        if not text.startswith(expected.encode()):
            if StateHeader.decode(text).events == 0 and number < len(shadow.pages):
                return  # of a closed page: nothing stands in it
            raise Violation("I6", f"{saga_id}: expected the header to begin {expected!r}, got {text!r}")
        attributes = headers.get(ATTRIBUTES_HEADER) or b""
        if attributes != state.attributes:
            raise Violation("I6", f"{saga_id}: expected attributes {state.attributes!r}, got {attributes!r}")

    def _summary(self, saga_id: str, value: bytes) -> None:
        shadow = self.live.pop(saga_id, None)
        expect(shadow is not None, "I5", f"{saga_id}: a summary of a saga that is not under way")
        assert shadow is not None
        state, found = shadow.state, codec.decode(value, codec.SUMMARY)
        expected = (state.run, str(state.status), state.events, len(shadow.pages), shadow.checksum)
        got = (found["run"], found["status"], found["events"], found["pages"], found["checksum"])
        if not state.ended or expected != got:
            raise Violation("I5", f"{saga_id}: expected a summary of {expected}, got {got}")
        self.ended[saga_id] = state

    def _tombstone(self, saga_id: str, number: int) -> None:
        state = self.ended.get(saga_id)
        if state is None and number > 0 and saga_id in self.live:
            return  # a page of a run that was continued
        expect(state is not None, "I5", f"{saga_id}: a tombstone for page {number} of a saga that has not ended")
        if number == 0:
            # Its id may start again from now on.
            del self.ended[saga_id]
            self.forgotten.add(saga_id)

    def _commands(self, saga_id: str, shadow: Shadow, sent: set[str]) -> None:
        commands = shadow.state.commands
        if not sent and not shadow.queued and len(commands) == shadow.commands:
            return
        made = islice(commands.items(), shadow.commands, None)
        made_or_queued = {**shadow.queued, **{id_: call for id_, call in made if _goes_out(id_, call)}}
        shadow.commands = len(commands)
        shadow.queued = {id_: call for id_, call in made_or_queued.items() if call.status is CallStatus.QUEUED}
        given_up = {id_ for id_, call in made_or_queued.items() if call.limit and call.status is CallStatus.FAILED}
        fresh = {id_: c for id_, c in made_or_queued.items() if id_ not in shadow.queued and id_ not in given_up}
        self.issued.update(fresh)
        unsent = given_up | shadow.queued.keys()
        if not sent.isdisjoint(unsent):
            raise Violation("I7", f"{saga_id}: expected none of {list(unsent)} to go out, got {sent}")
        if not sent.issuperset(fresh):
            raise Violation("I7", f"{saga_id}: expected commands {list(fresh)}, got {sorted(sent)}")
        if not sent <= commands.keys():
            raise Violation("I7", f"{saga_id}: commands {sent - commands.keys()} belong to no event of it")

    # What a worker holds.

    def restored(self, partition: Partition, committed: Mapping[str, int], owner: bool) -> None:
        """I6 after a restore: memory is what the topic says. One who is `owner` no more may be behind."""
        number = partition.number
        if not owner and partition._transaction < self._numbers.get(number, 0):
            return
        for topic, offset in committed.items():
            expected = self.offsets.get((topic, number), 0)
            expect(offset == expected, "I6", f"{topic}/{number}: restored to offset {offset}, committed is {expected}")
        self.compare(partition)

    def remembered(self, partition: Partition, changed: Sequence[str]) -> None:
        """I6 after a commit: the sagas that it changed, unless another has gone on with them meanwhile."""
        if partition._transaction != self._numbers.get(partition.number, 0):
            return
        held = partition._sagas
        for saga_id in changed:
            shadow, entry = self.live.get(saga_id), held.get(saga_id)
            if shadow is None or entry is None:
                expect(shadow is None and entry is None, "I6", f"{saga_id}: memory or topic has it, the other has not")
                continue
            if entry.pages != shadow.pages:
                raise Violation("I6", f"{saga_id}: memory and topic differ after a commit")

    def compare(self, partition: Partition) -> None:
        """I6: live memory between batches, byte for byte. It looks where nobody else does: that is its purpose."""
        held = partition._sagas
        mine = {s: shadow for s, shadow in self.live.items() if self.partition_of(s) == partition.number}
        expect(held.keys() == mine.keys(), "I6", f"partition {partition.number}: sagas {held.keys() ^ mine.keys()}")
        for saga_id, shadow in mine.items():
            entry = held[saga_id]
            expect(entry.pages == shadow.pages, "I6", f"{saga_id}: memory and topic differ in its pages")
            # Its own local steps are not looked at by the worker that runs them, but by whoever restores it.
            due = shadow.state.next_timer() or 0
            dues = (due, shadow.state.next_due() or 0)
            expect(entry.due in dues, "I6", f"{saga_id}: expected to be due at {due}, got {entry.due}")
            expect(not due or 0 < entry.armed <= due, "I6", f"{saga_id}: nobody will fire its timer at {due}")

    def partition_of(self, saga_id: str) -> int:
        """Where a saga under way or ended lives."""
        shadow = self.live.get(saga_id)
        return int((shadow.state if shadow else self.ended[saga_id]).run.partition(".")[0])


def _goes_out(id_: str, call: Call) -> bool:
    """Is there a command of this id? Not of what we do ourselves, nor of a compensation that is only registered."""
    return call.made.service not in _OURS and bool(call.made.type or id_ != call.forward_id)


class _Taken:
    """The inputs that a transaction's events came of."""

    def __init__(self, before: dict[tuple[str, int], int], offsets: dict[tuple[str, int], int]) -> None:
        self._before, self._offsets = before, offsets
        self._by: dict[tuple[tuple[str, int], int], str] = {}

    def take(self, saga_id: str, place: tuple[str, int], offset: int) -> None:
        low, high = self._before.get(place, 0), self._offsets.get(place, 0)
        if not low <= offset < high:
            raise Violation(
                "I8", f"{saga_id}: an event of {place}@{offset} in a transaction that commits {low} to {high}"
            )
        other = self._by.setdefault((place, offset), saga_id)
        if other != saga_id:
            raise Violation("I8", f"{place}@{offset} led to events of {other} and of {saga_id}")
