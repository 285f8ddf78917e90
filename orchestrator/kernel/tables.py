"""The two state machines as tables: the code, the tests and the documentation are made from these.

A saga's status and a call's status change only by events, and only as written here. What is not in a
table is illegal: `evolve` raises and changes nothing.

    saga:   (new) ──► running ──► completed | continued     pending: signals came before the start, or it is delayed
             │  ▲        └─► compensating ──► compensated | cancelled | failed
             ▼  │
            pending          beside it a hold: paused or quarantined

    call:   sent ──► done | refused | failed | in_doubt     waiting: between two attempts
             ▲ └─► waiting ─┘                               queued: made, and not sent before its limit has room
            done, in_doubt ──► undoing ──► undone | done    undo_waiting: between two attempts to undo
                                 ▲ └─► undo_waiting ─┘
"""

from enum import StrEnum

from kompensate.orchestrator.kernel import events as e


class Status(StrEnum):
    """Where a saga stands. The ends absorb: nothing leads out of them. `continued` ends a run, not the saga."""

    PENDING = "pending"
    RUNNING = "running"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    CANCELLED = "cancelled"
    FAILED = "failed"
    CONTINUED = "continued"


class CallStatus(StrEnum):
    """Where a call stands."""

    SENT = "sent"
    QUEUED = "queued"
    WAITING = "waiting"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    UNDOING = "undoing"
    UNDO_WAITING = "undo_waiting"
    UNDONE = "undone"


class Hold(StrEnum):
    """A mark beside the status: nothing goes out until it is released, and nothing is lost."""

    PAUSED = "paused"
    QUARANTINED = "quarantined"


ENDS = frozenset({Status.COMPLETED, Status.COMPENSATED, Status.CANCELLED, Status.FAILED, Status.CONTINUED})

WORKER, CHILD = "(worker)", "(saga)"
"""Who does a call that is no participant's: no service can be named so."""
CANCEL_CHILD, LET_GO_CHILD = "cancel", "cancel-detached"
"""What undoes a child: cancelling it and waiting for its end, whichever that is, or without waiting."""
ON_CLOSE = {
    "cancel": (CANCEL_CHILD, LET_GO_CHILD),
    "request_cancel": (CANCEL_CHILD, LET_GO_CHILD),
    "abandon": (None, None),
}
"""A child's `on_close` → what undoes it, where it is awaited and where it is detached."""
SIGNALS_REMEMBERED_MAX = 1_000
"""Ids of received signals that a run hands on to the next, the newest."""
VERBS = ("retry", "skip", "complete", "compensate", "close")
"""What an operator may order."""

KINDS = ("compensatable", "pivot", "retriable", "notification")
"""A step can be undone, is the point of no return, or comes after it and is only ever tried again; or it is sent, and
nobody waits for what becomes of it."""

CAUSES = ("step", "cancel", "fail", "operator")
"""Why a saga turns back: a step did not succeed, cancelling was asked for, the program raised FailSaga, somebody
ordered it."""

_S, _C = Status, CallStatus
_UNDER_WAY = (_S.RUNNING, _S.COMPENSATING)

SAGA: dict[tuple[Status | None, type], Status] = {
    (None, e.SignalKept): _S.PENDING,
    (None, e.StartDelayed): _S.PENDING,
    (_S.PENDING, e.StartDelayed): _S.PENDING,
    (None, e.SagaConfigured): _S.PENDING,
    (_S.PENDING, e.SagaConfigured): _S.PENDING,
    (None, e.SignalsRemembered): _S.PENDING,
    (_S.PENDING, e.SignalsRemembered): _S.PENDING,
    (None, e.AttributesSet): _S.PENDING,
    (_S.PENDING, e.AttributesSet): _S.PENDING,
    (None, e.SagaForked): _S.PENDING,
    (_S.PENDING, e.SagaForked): _S.PENDING,
    (None, e.SagaStarted): _S.RUNNING,
    (_S.PENDING, e.SagaStarted): _S.RUNNING,
    (_S.RUNNING, e.CompensationStarted): _S.COMPENSATING,
    (_S.RUNNING, e.SagaCompleted): _S.COMPLETED,
    (_S.RUNNING, e.SagaContinued): _S.CONTINUED,
    (_S.PENDING, e.SagaCancelled): _S.CANCELLED,
    (_S.RUNNING, e.SagaFailed): _S.FAILED,
    (_S.COMPENSATING, e.SagaCompensated): _S.COMPENSATED,
    (_S.COMPENSATING, e.SagaCancelled): _S.CANCELLED,
    (_S.COMPENSATING, e.SagaFailed): _S.FAILED,
    # events that leave the status as it is
    **{(s, e.SignalKept): s for s in (_S.PENDING, *_UNDER_WAY)},
    **{(s, kind): s for s in (_S.PENDING, *_UNDER_WAY) for kind in (e.SagaPaused, e.SagaResumed)},
    **{(s, e.SagaQuarantined): s for s in _UNDER_WAY},
    **{
        (_S.RUNNING, kind): _S.RUNNING
        for kind in (
            e.CallMade,
            e.AttemptFailed,
            e.AttemptMade,
            e.CallSucceeded,
            e.CallRefused,
            e.CallFailed,
            e.CallInDoubt,
            e.SleepStarted,
            e.SleepEnded,
            e.ReceiveStarted,
            e.SignalReceived,
            e.ReceiveTimedOut,
            e.CancelRequested,
            e.PivotPassed,
            e.ValuePublished,
            e.PatchMarked,
            e.UndoStarted,
            e.UndoEnded,
            e.AttributesSet,
            e.CallQueued,
            e.CallAdmitted,
            e.CallKeyed,
        )
    },
    **{(s, kind): s for s in _UNDER_WAY for kind in (e.UndoSent, e.UndoFailed, e.CallUndone)},
    **{(s, kind): s for s in _UNDER_WAY for kind in (e.CommandResent, e.LateReplyArrived)},
    (_S.COMPENSATING, e.CallSucceeded): _S.COMPENSATING,
    **{(s, e.OperatorActed): s for s in _UNDER_WAY},
    (_S.RUNNING, e.CancelRefused): _S.RUNNING,
    (_S.RUNNING, e.SagaReset): _S.RUNNING,
    (_S.RUNNING, e.ForkHeld): _S.RUNNING,
}
"""(status, kind of event) → next status. None is a saga that does not exist yet."""

CALL: dict[tuple[CallStatus | None, type], CallStatus] = {
    (None, e.CallMade): _C.SENT,
    (_C.SENT, e.CommandResent): _C.SENT,
    (_C.SENT, e.CallKeyed): _C.SENT,
    (_C.SENT, e.CallQueued): _C.QUEUED,
    (_C.QUEUED, e.CallAdmitted): _C.SENT,
    (_C.QUEUED, e.CallSucceeded): _C.DONE,
    (_C.QUEUED, e.CallFailed): _C.FAILED,
    (_C.SENT, e.AttemptFailed): _C.WAITING,
    (_C.WAITING, e.AttemptMade): _C.SENT,
    (_C.SENT, e.CallSucceeded): _C.DONE,
    (_C.SENT, e.CallRefused): _C.REFUSED,
    (_C.SENT, e.CallFailed): _C.FAILED,
    (_C.WAITING, e.CallFailed): _C.FAILED,
    (_C.WAITING, e.CallSucceeded): _C.DONE,
    (_C.SENT, e.CallInDoubt): _C.IN_DOUBT,
    (_C.DONE, e.UndoSent): _C.UNDOING,
    (_C.IN_DOUBT, e.UndoSent): _C.UNDOING,
    (_C.UNDOING, e.CommandResent): _C.UNDOING,
    (_C.UNDOING, e.UndoFailed): _C.UNDO_WAITING,
    (_C.UNDO_WAITING, e.UndoSent): _C.UNDOING,
    (_C.UNDOING, e.CallUndone): _C.UNDONE,
    (_C.UNDOING, e.CallSucceeded): _C.DONE,  # a child that completed before its cancel came: it stands
    (_C.UNDO_WAITING, e.CallUndone): _C.UNDONE,
    **{(s, e.LateReplyArrived): s for s in (_C.IN_DOUBT, _C.UNDOING, _C.UNDO_WAITING, _C.UNDONE)},
}
"""(call's status, kind of event) → the call's next status."""

CALL_EVENTS = frozenset(kind for _, kind in CALL)
"""The kinds of event that are about one call; their `number` says which."""
