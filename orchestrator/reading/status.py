"""The read model: from what the topics hold to what people ask about a saga. No Kafka, no worker.

`Fold` applies a run's events by the kernel's own `evolve`, and notes on the way what people ask: a line an
event, a view a call. `view` makes of a stored saga what is shown of it. One whose pages are damaged is still
a saga: its view says so, and the others are not held up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from kompensate.orchestrator.client_errors import DamagedSaga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.errors import IllegalTransition
from kompensate.orchestrator.kernel.folding import evolve
from kompensate.orchestrator.kernel.inputs import Origin
from kompensate.orchestrator.kernel.state import Call, SagaState
from kompensate.orchestrator.kernel.tables import CHILD, WORKER, CallStatus, Hold, Status
from kompensate.orchestrator.kernel.turn import child_id
from kompensate.orchestrator.reading.stored import Stored, Summary, read_summary
from kompensate.orchestrator.reading.words import detail_of, readable
from kompensate.orchestrator.sagas.journal import (
    Damaged,
    ReadPage,
    Recorded,
    definition_of,
    read_pages,
)
from kompensate.schemas import attributes
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.envelope import told
from kompensate.schemas.formats import PLAIN, SagaPayloads, legible
from kompensate.schemas.messages import timestamp


@dataclass(slots=True)
class StepView:
    """One call of the saga. Times in ms since the epoch; `error` is the last one's text, else empty.

    `command_id` is the newest command's: participants log it, and their inbox is keyed by it. A compensation of the
    author's own has no `type` and is `registered` until it is run.
    """

    number: int
    step: str
    service: str
    type: str
    kind: str
    status: str
    attempt: int
    resends: int
    sent_at: int
    answered_at: int | None = None
    undo_sent_at: int | None = None
    undone_at: int | None = None
    again_at: int | None = None
    timeout_at: int | None = None
    error: str = ""
    command_id: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One event of a history, in the words people ask in. `cause` is the input that led to it.

    `command_id` is that of the command which the event is about, empty where it is about none.
    """

    sequence: int
    time: int
    since_previous: int
    event: e.Event
    step: str
    attempt: int | None
    detail: str
    cause: Origin
    command_id: str

    @property
    def kind(self) -> str:
        return type(self.event).__name__


@dataclass(frozen=True, slots=True)
class SagaView:
    """A saga as people ask about it. Times in ms since the epoch.

    `detailed` tells whether it was folded from its events: a summary alone knows no steps and no `parent`. `damaged`
    says why it cannot be.
    """

    saga_id: str
    type: str
    status: str
    run: str
    partition: int
    events: int
    updated_at: int
    started_at: int | None = None
    hold: str = ""
    hold_reason: str = ""
    step: str = ""
    attempt: int | None = None
    wakes_at: int | None = None
    waits: tuple[str, ...] = ()
    last_error: str = ""
    compensations_left: int = 0
    signals_kept: int = 0
    reason: str = ""
    input: Any = None
    result: Any = None
    version: int = 1
    parent: str | None = None
    forked_from: str = ""
    reset_into: str = ""
    waits_for: str = ""
    published: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    orders: tuple[str, ...] = ()
    steps: tuple[StepView, ...] = ()
    detailed: bool = False
    damaged: str = ""

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "compensated", "cancelled", "failed")

    @property
    def shown_status(self) -> str:
        """Status and hold as one text: `running`, `running, paused`, `damaged`."""
        if self.damaged:
            return "damaged"
        return f"{self.status}, {self.hold}" if self.hold else self.status


class Fold:
    """A run's events folded one by one: the state, its calls with their times, and a line per event.

    What `payloads` can read is shown as JSON, the rest as a text that says what it is. `add` raises
    IllegalTransition where an event cannot follow.
    """

    def __init__(self, app: str, saga_id: str, run: str, payloads: SagaPayloads = PLAIN) -> None:
        self.state = SagaState(app, saga_id, run)
        self._payloads = payloads.for_saga(saga_id)
        self.steps: dict[int, StepView] = {}
        self.lines: list[Line] = []
        self.last_error = ""

    def add(self, recorded: Recorded) -> None:
        """Apply one event."""
        event, time = opened(recorded.event, self._payloads), recorded.origin.time
        evolve(self.state, recorded.event, time)
        detail = detail_of(event)
        call = self.state.calls.get(getattr(event, "number", 0))
        if call is not None:
            if isinstance(event, e.CallSucceeded) and self.steps[event.number].undo_sent_at is not None:
                detail = "the child completed before its cancel came: it stands"
            self._step(call, event, time, detail)
        before = self.lines[-1].time if self.lines else time
        step = call.made.step if call is not None else ""
        attempt = call.attempt if call is not None else None
        id_ = call.id if call is not None else ""
        # What a fork's first event is followed by happened before it.
        since = max(0, time - before)
        line = Line(recorded.sequence, time, since, event, step, attempt, detail, recorded.origin, id_)
        self.lines.append(line)

    def readable(self, payload: bytes | None) -> Any:
        """A payload of the saga as its JSON value, as text where it is none or cannot be read."""
        return readable(payload if payload is None else legible(payload, self._payloads))

    def _step(self, call: Call, event: e.Event, time: int, detail: str) -> None:
        made = call.made
        step = self.steps.get(made.number)
        if step is None:
            step = StepView(made.number, made.step, made.service, made.type, made.kind, "", 1, 0, time)
            self.steps[made.number] = step
        match event:
            case e.CallAdmitted() if call.attempt == 1:
                step.sent_at = time
            case e.CallSucceeded():
                step.answered_at = time if made.type else None
            case e.CallRefused() | e.CallFailed() | e.CallInDoubt():
                step.answered_at = time
                step.error = self.last_error = detail
            case e.AttemptFailed() | e.UndoFailed():
                step.error = self.last_error = detail
            case e.UndoSent():
                step.undo_sent_at = step.undo_sent_at or time
            case e.CallUndone():
                step.undone_at = time
        registered = not made.type and call.status is CallStatus.DONE
        step.status = "registered" if registered else str(call.status)
        step.attempt, step.resends = call.attempt, call.resends
        step.again_at, step.timeout_at, step.command_id = call.due, call.timeout_at, call.id


def opened(event: e.Event, payloads: SagaPayloads) -> e.Event:
    """The event with all its payloads as JSON."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    sealed: dict[str, Any] = {
        name: legible(value, payloads) for name, value in values.items() if type(value) is bytes and told(value)
    }
    return replace(event, **sealed) if sealed else event


def fold(app: str, saga_id: str, pages: Sequence[ReadPage], payloads: SagaPayloads = PLAIN) -> Fold:
    """Fold a run's pages. Raises DamagedSaga where an event cannot follow the ones before it."""
    found = Fold(app, saga_id, pages[0].run, payloads)
    for page in pages:
        for recorded in page.events:
            try:
                found.add(recorded)
            except IllegalTransition as error:
                raise DamagedSaga(
                    f"saga {saga_id!r}: page {page.number}, event {recorded.sequence}: {error}"
                ) from error
    return found


def view(
    app: str, found: Stored, history: Sequence[bytes] | None = None, *, payloads: SagaPayloads = PLAIN
) -> SagaView:
    """What is known of `found`. `history` are an ended saga's pages, where its steps are wanted.

    Never raises for damaged records: the view says so.
    """
    header = found.header
    bare = SagaView(
        found.saga_id,
        header.definition,
        header.status,
        header.run,
        found.partition,
        header.events,
        found.updated_at,
        hold="" if header.hold == "-" else header.hold,
        damaged=found.damaged,
        attributes=found.attributes,
    )
    if found.damaged:
        return bare
    try:
        if not found.ended:
            pages = read_pages([record.value or b"" for record in found.records])
            return view_of(fold(app, found.saga_id, pages, payloads), found.partition)
        summary = read_summary(found)
        ended = _view_of_summary(bare, summary, payloads.for_saga(found.saga_id))
        if history is None:
            return ended
        detailed = view_of(fold(app, found.saga_id, read_pages(history), payloads), found.partition)
        return replace(detailed, status=summary.status, result=ended.result, events=summary.events)
    except (Damaged, DamagedSaga, BadRecord) as error:
        return replace(bare, damaged=str(error))


def _view_of_summary(bare: SagaView, summary: Summary, payloads: SagaPayloads) -> SagaView:
    return replace(
        bare,
        type=summary.definition,
        status=summary.status,
        events=summary.events,
        started_at=summary.started_at,
        updated_at=summary.ended_at,
        reason=summary.reason,
        result=None if summary.result is None else readable(legible(summary.result, payloads)),
    )


def view_of(found: Fold, partition: int) -> SagaView:
    """The view of a saga folded from its events."""
    state, started = found.state, found.state.started
    calls = [call for call in state.calls.values() if call.made.number in state.open]
    return SagaView(
        state.saga_id,
        definition_of(state),
        str(state.status),
        state.run,
        partition,
        state.events,
        state.updated_at,
        started_at=state.started_at if started else None,
        hold=str(state.hold or ""),
        hold_reason=state.hold_reason,
        step=_step_text(state, calls),
        attempt=max((call.attempt for call in calls), default=None),
        wakes_at=state.next_timer(),
        waits=tuple(waits(found)),
        last_error=found.last_error,
        compensations_left=_left(state),
        signals_kept=len(state.signals),
        version=state.version,
        parent=state.parent,
        forked_from=found.lines[0].detail.removeprefix("from ") if state.forks else "",
        reset_into=state.reset_into,
        waits_for=state.waits_for,
        published={name: found.readable(value) for name, value in state.published.items()},
        attributes=attributes.read(state.attributes),
        orders=tuple(
            f"{timestamp(line.time)} {line.detail}" for line in found.lines if isinstance(line.event, e.OperatorActed)
        ),
        reason=state.reason,
        input=found.readable(started.payload) if started else None,
        result=found.readable(state.result),
        steps=tuple(found.steps.values()),
        detailed=True,
    )


def _step_text(state: SagaState, calls: list[Call]) -> str:
    parts = [f"undo {call.made.step}" if call.undoing else call.made.step for call in calls]
    if state.status is Status.RUNNING:
        parts += ["(sleeps)" for _ in state.sleeps]
        parts += [f"(signal {receive.name})" for receive in state.receives.values()]
    return ", ".join(parts)


def _left(state: SagaState) -> int:
    if state.status is not Status.COMPENSATING:
        return 0
    return len(state.done) + sum(call.undoing for call in state.calls.values())


def waits(found: Fold) -> Iterator[str]:
    """Why the saga does not move, a sentence each; nothing for one that ended."""
    state = found.state
    if state.ended:
        return
    if state.hold is not None:
        yield _held(state)
    if state.delayed is not None:
        yield f"for its time: it starts at {timestamp(state.delayed.until)}"
    elif state.status is Status.PENDING:
        yield "for its start: only signals have come"
    for number, call in state.open.items():
        yield _waits_for(call, found.steps[number])
    for until in state.sleeps.values():
        yield f"asleep until {timestamp(until)}"
    for receive in state.receives.values():
        until_text = "" if receive.until is None else f" until {timestamp(receive.until)}"
        yield f"for a signal {receive.name!r}{until_text}"


def _waits_for(call: Call, step: StepView) -> str:
    made, since = call.made, timestamp((step.undo_sent_at if call.undoing else None) or step.sent_at)
    if call.status in (CallStatus.WAITING, CallStatus.UNDO_WAITING):
        return f"before attempt {call.attempt + 1} of {_named(call)}, after: {step.error}"
    if call.status is CallStatus.QUEUED:
        return f"for room under limit {call.limit!r} to begin {_named(call)}, since {timestamp(call.queued_at)}"
    if made.service in _OWN:
        return f"for {_OWN[made.service]} {_named(call)}, begun {since}"
    again = f", sent again {call.resends} times" if call.resends else ""
    return f"for a reply from {made.service} to {_named(call)}, out since {since}{again}"


def _held(state: SagaState) -> str:
    if state.waits_for:
        return f"until {state.waits_for!r} has ended; {state.hold_reason}"
    verb = "paused by an operator" if state.hold is Hold.PAUSED else "held until somebody has looked"
    text = f"{verb}: {state.hold_reason}" if state.hold_reason else verb
    return text if state.hold is Hold.PAUSED else f"{text}; mend the cause, then `kompensate resume {state.saga_id}`"


_OWN = {WORKER: "a worker to run", CHILD: "the end of child saga"}
"""What is waited for of those who are no participants."""


def _named(call: Call) -> str:
    made = call.made
    if made.service == CHILD:
        return f"{child_id(call)}, which is being cancelled" if call.undoing else f"{child_id(call)} ({made.type})"
    if not made.type:
        return f"{made.undo_type} (compensation {made.step})"
    return f"{made.undo_type} (undo of {made.step})" if call.undoing else f"{made.type} (step {made.step})"
