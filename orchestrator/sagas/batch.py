"""What one partition writes in one transaction, and what is needed to take it back."""

from dataclasses import replace
from logging import getLogger

from kompensate.orchestrator.definitions.plan import Plan
from kompensate.orchestrator.kernel.effects import (
    AnswerParent,
    CancelChild,
    Effect,
    ReleaseFork,
    RunWork,
    SendCommand,
    StartChild,
)
from kompensate.orchestrator.kernel.inputs import StartAsked
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.ports import Job, OutRecord, Ran, Record
from kompensate.orchestrator.sagas.entry import Entry
from kompensate.orchestrator.sagas.journal import (
    STATE_HEADER,
    Page,
    StateHeader,
    definition_of,
    header_of,
    headers_of,
    rates_header,
    summary_value,
    watermark_value,
)
from kompensate.schemas import codec, letters
from kompensate.schemas.envelope import content_type
from kompensate.schemas.messages import (
    CANCEL,
    CHILD_ENDED,
    NOT_TRACED,
    RELEASE,
    START,
    Outcome,
    Phase,
    Request,
    Trace,
    command_headers,
)
from kompensate.schemas.payloads import to_json
from kompensate.schemas.topics import PLAN_PREFIX, WATERMARK_PREFIX, Topics, page_key, partition_of

log = getLogger("kompensate.batch")


class Batch:
    """Records gathered for one transaction of partition `number`, of `partitions`."""

    def __init__(self, number: int, topics: Topics, offsets: dict[str, int], partitions: int) -> None:
        self.offsets_before = dict(offsets)
        self.dirty = False
        self.written = False
        self.bytes = 0
        self.changed: dict[str, Entry] = {}
        self.before: dict[str, tuple[list[bytes], int] | None] = {}
        self.ended: dict[str, int] = {}
        self.forgotten: dict[str, int] = {}
        self.plans: set[str] = set()
        self.jobs: list[tuple[int, Job]] = []
        self.handled: list[Ran] = []
        self._partitions = partitions
        self._number = number
        self._topics = topics
        self._state_topic = topics.state
        self._records: list[OutRecord] = []
        self._events = 0

    def touch(self, saga_id: str, entry: Entry) -> None:
        """This saga changes: remember it as it was."""
        self.changed[saga_id] = entry
        if saga_id not in self.before:
            self.before[saga_id] = (entry.pages, entry.due)
        self.dirty = True

    def count(self, events: int, size: int) -> None:
        self._events += events
        self.bytes += size

    def record(self, effect: Effect, state: SagaState, now: int) -> OutRecord | None:
        """The record that an effect is, None for a local step; `now` in ms since the epoch."""
        match effect:
            case SendCommand():
                return self._command(effect, state)
            case StartChild(id_, saga_id, definition, payload, answers, attributes):
                started = state.started
                assert started is not None  # only started sagas have children
                trace = Trace(started.traceparent, started.tracestate) if started.traceparent else NOT_TRACED
                asked = Request(id_, START, saga_id, self._source(state), definition, None, payload, now, trace=trace)
                asked = replace(asked, parent=state.saga_id, command_id=answers, attributes=attributes or None)
                return self._request(asked)
            case CancelChild(id_, saga_id, reason):
                asked = Request(id_, CANCEL, saga_id, self._source(state), subject=reason, time=now)
                return self._request(replace(asked, parent=state.saga_id))
            case AnswerParent(saga_id, command_id, outcome, payload):
                answer = Request(f"{command_id}-end", CHILD_ENDED, saga_id, self._source(state), subject=state.saga_id)
                return self._request(replace(answer, payload=payload, command_id=command_id, outcome=outcome, time=now))
            case ReleaseFork(saga_id):
                id_, ended = f"{state.saga_id}/{state.run}-end", state.saga_id
                return self._request(Request(id_, RELEASE, saga_id, self._source(state), subject=ended, time=now))
            case RunWork():
                return None

    def refuse_child(self, saga_id: str, asked: StartAsked, source: str, reason: str) -> None:
        """A child's start that leads to no saga: its parent hears why."""
        assert asked.parent is not None
        self.send(
            [
                self._request(
                    Request(
                        f"{asked.parent_command}-end",
                        CHILD_ENDED,
                        asked.parent,
                        source,
                        subject=saga_id,
                        payload=to_json({"reason": reason}),
                        command_id=asked.parent_command,
                        outcome="refused",
                    )
                )
            ]
        )

    @staticmethod
    def _source(state: SagaState) -> str:
        return f"kompensate:{state.app}"

    def _request(self, request: Request) -> OutRecord:
        kind = content_type(request.payload)
        if kind != request.content_type:
            request = replace(request, content_type=kind)
        partition = partition_of(request.saga_id, self._partitions)
        return OutRecord(self._topics.control, partition, request.saga_id.encode(), request.payload, request.headers())

    def _command(self, effect: SendCommand, state: SagaState) -> OutRecord:
        """A command's record, keyed by the saga or as its step says: librdkafka's murmur2 of that places it."""
        started = state.started
        assert started is not None  # only started sagas send
        service = effect.service
        phase: Phase = "compensate" if effect.compensates else "forward"
        headers = command_headers(
            effect.id,
            state.saga_id,
            (f"kompensate:{state.app}", effect.type, content_type(effect.payload)),
            (started.definition, effect.step, phase, effect.attempt, self._topics.replies(service), self._number),
            effect.compensates,
            effect.expires_at,
            Trace(started.traceparent, started.tracestate) if started.traceparent else NOT_TRACED,
        )
        key = (effect.key or state.saga_id).encode()
        return OutRecord(self._topics.commands(service), None, key, effect.payload, headers)

    def send(self, commands: list[OutRecord]) -> None:
        """These commands go out."""
        for record in commands:
            self._add(record)
            self.bytes += len(record.value or b"")

    def close_page(self, saga_id: str, run: str, number: int, value: bytes) -> None:
        """A page is full: its last version goes to the state topic and, for good, to the history."""
        header = f"{run} 0 0 - - -".encode()
        self._state(page_key(saga_id, number), value, [(STATE_HEADER, header)])
        self._history(saga_id, run, number, value)
        self.bytes += 2 * len(value)

    def write(self, saga_id: str, entry: Entry) -> None:
        """A saga that the batch changed, as it stands after it."""
        assert entry.awake is not None  # the batch changed it
        state, page = entry.awake.execution.state, entry.awake.page
        entry.pages = [*entry.awake.closed, page.value()]
        if state.ended:
            self.end(saga_id, state, page)
        else:
            # Whoever takes over looks at once at what this worker's own local steps are waited for.
            due = (state.next_due() or 0) if state.local else entry.due
            self.write_page(saga_id, state, due, page.number, entry.pages[-1])

    def write_page(self, saga_id: str, state: SagaState, due: int, number: int, value: bytes) -> None:
        """The page that is being written, as it stands after the batch; `due` is the saga's next."""
        self._state(page_key(saga_id, number), value, headers_of(state, header_of(state, due)))

    def end_run(self, saga_id: str, state: SagaState, page: Page) -> None:
        """Its last page goes to the history; later ones are tombstoned: no old event can come back to life."""
        self._history(saga_id, state.run, page.number, page.value())
        self._bury(saga_id, page.number)

    def end(self, saga_id: str, state: SagaState, page: Page) -> None:
        """The saga has ended: a summary overwrites page 0."""
        self._history(saga_id, state.run, page.number, page.value())
        header = StateHeader(state.run, state.events, state.updated_at, str(state.status), "-", definition_of(state))
        self._state(saga_id, summary_value(state, page.number + 1, page.checksum), headers_of(state, header.encode()))
        self._bury(saga_id, page.number)
        self.ended[saga_id] = state.updated_at

    def store_plan(self, plan: Plan) -> None:
        self.plans.add(plan.hash)
        self._state(f"{PLAN_PREFIX}{plan.name}/{plan.hash}", codec.encode(codec.PLAN, {"plan": plan.encode()}), None)

    def forget(self, saga_id: str, ended_at: int) -> None:
        self.forgotten[saga_id] = ended_at
        self._state(saga_id, None, None)

    def quarantine(self, record: Record, reason: str, *, answered: Outcome | None = None) -> None:
        """Original bytes and headers, with where they came from and why they are here, and what was `answered`."""
        headers = [
            *(record.headers or ()),
            *letters.put_aside(record.topic, record.partition, record.offset, reason, record.timestamp),
            *([] if answered is None else [(letters.ANSWERED, answered.encode())]),
        ]
        self._add(OutRecord(self._topics.quarantine, self._number, record.key, record.value, headers))

    def records(self, writer: str, transaction: int, offsets: dict[str, int], rates: dict[str, int]) -> list[OutRecord]:
        """Everything, the watermark first."""
        self.written = True
        key = f"{WATERMARK_PREFIX}{self._number}".encode()
        value = watermark_value(writer, transaction, self._events, offsets)
        return [OutRecord(self._topics.state, self._number, key, value, rates_header(rates)), *self._records]

    def _state(self, key: str, value: bytes | None, headers: list[tuple[str, bytes | None]] | None) -> None:
        self._add(OutRecord(self._state_topic, self._number, key.encode(), value, headers))

    def _bury(self, saga_id: str, last: int) -> None:
        for number in range(1, last + 1):
            self._state(page_key(saga_id, number), None, None)

    def _history(self, saga_id: str, run: str, number: int, value: bytes) -> None:
        headers: list[tuple[str, bytes | None]] = [("run", run.encode()), ("page", b"%d" % number)]
        self._add(OutRecord(self._topics.history, self._number, saga_id.encode(), value, headers))

    def _add(self, record: OutRecord) -> None:
        self._records.append(record)
        self.dirty = True
