"""What has happened to a saga, in the past tense: the only thing that is stored.

`number` is an operation's number in the run, counted from 1 in the order the program asked for them.
Payloads are bytes and nobody in here looks into them. Times are milliseconds since the epoch.
"""

from typing import TypeAlias, get_args

from kompensate.orchestrator.kernel.policy import Policy
from kompensate.orchestrator.kernel.values import value


@value
class SagaStarted:
    """The saga began. `plan` is the hash of a declared saga's plan, None for an `async def`."""

    definition: str
    plan: str | None
    payload: bytes
    traceparent: str | None
    tracestate: str | None


@value
class CallMade:
    """The program asked for a command: it is sent in the same transaction.

    `undo_type` and `undo_payload` are its compensation, registered before the action is sent.
    """

    number: int
    step: str
    service: str
    type: str
    kind: str
    payload: bytes
    undo_type: str | None
    undo_payload: bytes | None
    policy: Policy


@value
class CommandResent:
    """Nobody answered within `resend_after`: the same command, with the same id, went out again."""

    number: int


@value
class AttemptFailed:
    """The command failed definitely; a new attempt with a new id goes out at `retry_at`."""

    number: int
    retry_at: int
    error: bytes


@value
class AttemptMade:
    """The new attempt went out."""

    number: int


@value
class CallSucceeded:
    """The participant has done it."""

    number: int
    result: bytes


@value
class CallRefused:
    """The participant said no."""

    number: int
    error: bytes


@value
class CallFailed:
    """It failed for good, or expired unhandled: it is known not to be done."""

    number: int
    error: bytes


@value
class CallInDoubt:
    """It was given up unanswered: it may have been done, and ranks as completed here."""

    number: int
    reason: str


@value
class LateReplyArrived:
    """The answer to a command that was in doubt came after all; its compensation covers both orders."""

    number: int
    outcome: str
    payload: bytes


@value
class SleepStarted:
    """The program sleeps until `until`."""

    number: int
    until: int


@value
class SleepEnded:
    """The sleep is over."""

    number: int


@value
class ReceiveStarted:
    """The program waits for a signal, until `until` if that is not None."""

    number: int
    name: str
    until: int | None


@value
class SignalKept:
    """A signal came; it is kept until the program receives it."""

    name: str
    signal_id: str
    payload: bytes


@value
class SignalReceived:
    """The oldest kept signal of that name went to the program."""

    number: int
    signal_id: str


@value
class ReceiveTimedOut:
    """No signal came in time."""

    number: int


@value
class CancelRequested:
    """Cancelling was asked for while the pivot is out: its answer decides."""

    reason: str


@value
class CancelRefused:
    """Cancelling was asked for past the pivot: the saga only goes forward."""

    reason: str


@value
class CompensationStarted:
    """The saga turned back. `cause` is one of tables.CAUSES, `reason` tells a person."""

    cause: str
    reason: str


@value
class UndoSent:
    """The compensation of a call went out."""

    number: int


@value
class UndoFailed:
    """The compensation failed or was refused; it is tried again at `retry_at`."""

    number: int
    retry_at: int
    error: bytes


@value
class CallUndone:
    """The compensation is done."""

    number: int


@value
class SagaCompleted:
    """The program returned."""

    result: bytes


@value
class SagaCompensated:
    """Everything that was done, or in doubt, is undone."""


@value
class SagaCancelled:
    """It was asked for, and everything is undone."""


@value
class SagaFailed:
    """The program raised FailSaga and nothing is left to undo."""


@value
class SagaPaused:
    """An operator holds the saga."""

    reason: str


@value
class SagaQuarantined:
    """The kernel holds the saga: somebody has to look. The reason names what was expected and got."""

    reason: str


@value
class SagaResumed:
    """The hold was released."""

    reason: str


@value
class SagaConfigured:
    """What a start asked for beyond the usual; it precedes SagaStarted.

    `version` is the definition's that the saga is pinned to, `deadline` when it is cancelled by itself.
    `parent` and `parent_command` name the saga that started this one as its child, and the call that waits for it.
    """

    version: int
    deadline: int | None
    parent: str | None
    parent_command: str | None


@value
class StartDelayed:
    """The start is kept until `until`."""

    definition: str
    payload: bytes
    traceparent: str | None
    tracestate: str | None
    until: int


@value
class PivotPassed:
    """The program declared its point of no return: from here on the saga only goes forward."""

    number: int


@value
class ValuePublished:
    """The program shows the outside this value; the newest of each name stands."""

    number: int
    name: str
    value: bytes


@value
class PatchMarked:
    """The program took the new road of a patch here: a replay takes it again."""

    number: int
    patch: str


@value
class UndoStarted:
    """The program had the operations numbered `first` to `last` undone, while it goes on itself."""

    number: int
    first: int
    last: int


@value
class UndoEnded:
    """Of those operations nothing is left to undo."""

    number: int


@value
class SagaContinued:
    """The run is over; the saga goes on as a new run with this input and an empty history."""

    payload: bytes


@value
class SignalsRemembered:
    """Earlier runs received signals of these ids, the newest last: should one come again, it is no other signal."""

    signal_ids: list[str]


@value
class OperatorActed:
    """A person interfered. `verb` is one of tables.VERBS, `number` the call that it was about, else 0."""

    verb: str
    who: str
    reason: str
    number: int


@value
class AttributesSet:
    """By these attributes operators find the saga from now on. `number` 0: they came with its start, before it."""

    number: int
    attributes: bytes


@value
class CallQueued:
    """The attempt just made is not sent yet: it waits for room under `limit`, those of a higher `priority` go first.

    `attributes` are those that a child is to start with.
    """

    number: int
    limit: str
    priority: int
    attributes: bytes


@value
class CallAdmitted:
    """There was room: the attempt went out, and its times count from here."""

    number: int


@value
class SagaForked:
    """The first event of a saga that goes on from another's history: the `events` that follow it are copied.

    They were `run` of saga `origin`, up to its operation `operations`: till then commands keep its ids, so that what
    undoes them finds what they did. `version` is the definition's.
    """

    origin: str
    run: str
    events: int
    operations: int
    version: int
    who: str
    reason: str


@value
class ForkHeld:
    """The saga waits until `origin`, whose history it was given, has ended: until then the steps are that one's."""

    origin: str
    reason: str


@value
class SagaReset:
    """An operator had another saga, `into`, go on from this one's history; this one undoes the rest, and ends."""

    into: str
    operations: int
    who: str
    reason: str


@value
class CallKeyed:
    """The records of the call just made, its compensation's too, carry this key in the saga id's place."""

    number: int
    key: str


# fmt: off
Event: TypeAlias = (
    SagaStarted | CallMade | CommandResent | AttemptFailed | AttemptMade | CallSucceeded | CallRefused | CallFailed
    | CallInDoubt | LateReplyArrived | SleepStarted | SleepEnded | ReceiveStarted | SignalKept | SignalReceived
    | ReceiveTimedOut | CancelRequested | CancelRefused | CompensationStarted | UndoSent | UndoFailed | CallUndone
    | SagaCompleted | SagaCompensated | SagaCancelled | SagaFailed | SagaPaused | SagaQuarantined | SagaResumed
    | SagaConfigured | StartDelayed | PivotPassed | ValuePublished | PatchMarked | UndoStarted | UndoEnded
    | SagaContinued | OperatorActed | SignalsRemembered | AttributesSet | CallQueued | CallAdmitted | SagaForked
    | ForkHeld | SagaReset | CallKeyed
)
# fmt: on

Asked: TypeAlias = (
    CallMade | SleepStarted | ReceiveStarted | PivotPassed | ValuePublished | PatchMarked | UndoStarted | AttributesSet
)
"""What records that the program asked for an operation, each with its number."""

EVENTS: tuple[type, ...] = get_args(Event)
"""Every kind of event. The order is the wire's: new kinds are added at the end."""
