"""What arrives at the kernel. Each input carries where it came from and its time.

What is made for every record is a NamedTuple: a frozen dataclass takes five times as long to make.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from kompensate.orchestrator.kernel.events import Event, SagaForked


class Origin(NamedTuple):
    """The record an input came in, and its time in milliseconds since the epoch.

    Timers come from no record: their topic is empty and their offset -1.
    """

    topic: str
    partition: int
    offset: int
    time: int


@dataclass(frozen=True, slots=True)
class StartAsked:
    """Start this saga. `definition` names it; `payload` is its input, encoded.

    Times are ms since the epoch: not before `not_before`, cancelled at `deadline`. `parent` and `parent_command` are
    those of a child's start, `signal_ids` of signals that earlier runs received. Operators find the saga by its
    `attributes`, as `Payloads.attributes` writes them.
    """

    origin: Origin
    definition: str
    payload: bytes
    traceparent: str | None = None
    tracestate: str | None = None
    not_before: int | None = None
    deadline: int | None = None
    parent: str | None = None
    parent_command: str | None = None
    signal_ids: list[str] | None = None
    attributes: bytes = b""


class ReplyArrived(NamedTuple):
    """The answer to a call. `service` is whose reply topic it came on, or tables.WORKER or tables.CHILD.

    Outcomes are the wire's; of a local step's reconciliation also `not_done` and `unknown`.
    """

    origin: Origin
    service: str
    command_id: str
    outcome: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class SignalArrived:
    """A message to the saga; `signal_id` is its sender's idempotency key."""

    origin: Origin
    name: str
    signal_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class TimersDue:
    """Time has passed: whatever was due by `origin.time` is now. `running` are the ids of local steps that run."""

    origin: Origin
    running: frozenset[str] = frozenset()


class RoomGiven(NamedTuple):
    """There is room under the limit of the queued call of that number. `refusal`: why it could not be written."""

    origin: Origin
    number: int
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Stop going forward and undo what was done."""

    origin: Origin
    reason: str


@dataclass(frozen=True, slots=True)
class PauseAsked:
    """Hold the saga where it is: replies and signals are kept, nothing is sent."""

    origin: Origin
    reason: str


@dataclass(frozen=True, slots=True)
class ResumeAsked:
    """Release a hold, also a quarantine: the program is replayed and goes on."""

    origin: Origin
    reason: str


@dataclass(frozen=True, slots=True)
class OrderAsked:
    """An operator's order: `verb` is one of tables.VERBS, `who` gave it, and why.

    `step` names the step that it is about, by name or number (empty: the only open one); `payload` is its result.
    `command_id` is the command that was the step's newest when the order was given; empty: whichever it is by now.
    """

    origin: Origin
    verb: str
    who: str
    reason: str
    step: str = ""
    payload: bytes = b""
    command_id: str = ""


@dataclass(frozen=True, slots=True)
class ForkAsked:
    """Begin a saga with the first events of another's history, each with the input that led to it.

    `run` is the one that this record begins; `held`: it waits until that other saga has ended.
    """

    origin: Origin
    run: str
    forked: SagaForked
    kept: list[tuple[Event, Origin]]
    held: bool


@dataclass(frozen=True, slots=True)
class ForkReleased:
    """The saga that a fork waits for has ended."""

    origin: Origin
    saga: str


@dataclass(frozen=True, slots=True)
class ResetAsked:
    """Saga `into` goes on from this one's history, as it was at operation `operations` of `run`."""

    origin: Origin
    into: str
    run: str
    operations: int
    who: str
    reason: str


Input: TypeAlias = (
    StartAsked
    | ReplyArrived
    | SignalArrived
    | TimersDue
    | RoomGiven
    | CancelAsked
    | PauseAsked
    | ResumeAsked
    | OrderAsked
    | ForkAsked
    | ForkReleased
    | ResetAsked
)

WORDS: dict[type, str] = {
    StartAsked: "a start",
    ReplyArrived: "a reply",
    SignalArrived: "a signal",
    TimersDue: "a due timer",
    RoomGiven: "room under a limit",
    CancelAsked: "a cancel",
    PauseAsked: "a pause",
    ResumeAsked: "a resume",
    OrderAsked: "an operator's order",
    ForkAsked: "a fork",
    ForkReleased: "a fork's release",
    ResetAsked: "a reset",
}
"""What each kind of input is called in messages to people."""
