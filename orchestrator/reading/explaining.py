"""Why a saga is not moving, and what would move it.

What the saga itself waits for comes from its events, folded; whether anybody is there to move it from its surroundings.
Each reason is one thing to do something about. No Kafka in here, no clock: `now` is given.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kompensate.orchestrator.kernel.policy import UNLIMITED
from kompensate.orchestrator.kernel.state import Call
from kompensate.orchestrator.kernel.tables import CHILD, WORKER, CallStatus, Hold, Status
from kompensate.orchestrator.kernel.turn import child_id
from kompensate.orchestrator.reading.standing import Standing
from kompensate.orchestrator.reading.status import Fold, SagaView, waits
from kompensate.orchestrator.reading.surroundings import Surroundings
from kompensate.schemas.messages import timestamp

OVERDUE_MS = 5_000
"""A saga whose time came so long ago should have been looked at: a worker does so within a second."""
_TOLD = (
    "until ",
    "paused by",
    "held until",
    "for its start",
    "for its time",
    "for a worker to run",
    "for the end of child saga",
    "before attempt",
    "for room under",
    "for a reply from",
    "asleep until",
    "for a signal",
)
"""How the sentences of `waits` begin that are told here in more detail."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that keeps a saga where it is. Times in ms since the epoch; `kind` is for programs.

    `next_at` is when something happens by itself, `until_at` when it is given up.
    """

    kind: str
    why: str
    moves: str
    step: str = ""
    service: str = ""
    since_at: int | None = None
    next_at: int | None = None
    until_at: int | None = None
    error: str = ""


def of_saga(found: Fold, now: int, standings: Mapping[int, Standing] | None = None) -> Iterator[Reason]:
    """What a saga that has not ended waits for. `standings` are those of its queued calls, by number."""
    state = found.state
    if state.hold is not None:
        yield _held(found)
    if state.status is Status.PENDING:
        yield _pending(found)
    for number, call in state.open.items():
        if call.status is CallStatus.QUEUED:
            yield _queued(found, call, (standings or {}).get(number))
            continue
        again = call.status in (CallStatus.WAITING, CallStatus.UNDO_WAITING)
        yield _own(found, call) if call.made.service in (WORKER, CHILD) and not again else _call(found, call)
    yield from _times(found, now)
    for receive in state.receives.values():
        yield _receive(found, receive.name, receive.until)
    for text in waits(found):
        if not text.startswith(_TOLD):
            yield Reason("other", text, f"`kompensate history {state.saga_id}` shows how it came there")


def _times(found: Fold, now: int) -> Iterator[Reason]:
    state = found.state
    for until in state.sleeps.values():
        yield Reason("sleep", f"asleep until {timestamp(until)}", "time", next_at=until)
    if state.deadline is not None and state.status is Status.RUNNING:
        why = f"its deadline is at {timestamp(state.deadline)}"
        yield Reason("deadline", why, "time: then it is cancelled", next_at=state.deadline)
    due = state.next_timer()
    if due is not None and due < now - OVERDUE_MS:
        yield Reason("overdue", f"its time came at {timestamp(due)}, and nobody has looked", "a worker", next_at=due)


def _pending(found: Fold) -> Reason:
    state = found.state
    if state.delayed is not None:
        until = state.delayed.until
        return Reason("delayed", f"its start is delayed until {timestamp(until)}", "time", next_at=until)
    names = ", ".join(sorted({signal.name for signal in state.signals}))
    why = f"pending: it has not begun{f', only signals have come ({names})' if names else ''}"
    return Reason("pending", why, f"`kompensate start DEFINITION --id {state.saga_id}`; is the id the one meant?")


def _held(found: Fold) -> Reason:
    state = found.state
    since = found.lines[-1].time if found.lines else None
    for line in found.lines:
        if line.kind in ("SagaPaused", "SagaQuarantined", "ForkHeld"):
            since = line.time
    resume = f"`kompensate resume {state.saga_id}`"
    if other := state.waits_for:
        why = f"waits until {other!r}, from whose history it goes on, has undone the rest and ended"
        return Reason("reset", why, f"its end; `kompensate explain {other}` says what that waits for", since_at=since)
    if state.hold is Hold.PAUSED:
        why = "paused by an operator" + (f": {state.hold_reason}" if state.hold_reason else "")
        return Reason("paused", why, resume, since_at=since)
    moves = (
        f"mend the cause, then {resume} (`kompensate replay --id {state.saga_id}` tells whether today's code goes on)"
    )
    steps = ", ".join(call.made.step for call in state.open.values())
    if steps:
        moves += f"; or say what became of {steps}: `kompensate retry | skip | complete {state.saga_id}`"
    return Reason("quarantined", f"held: {state.hold_reason}", moves, since_at=since, error=state.hold_reason)


def _queued(found: Fold, call: Call, standing: Standing | None) -> Reason:
    """Made, and not sent yet."""
    made = call.made
    what = f"start child saga {child_id(call)!r}" if made.service == CHILD else f"send {made.type}"
    why = f"waits for room under limit {call.limit!r} to {what} (step {made.step}), since {timestamp(call.queued_at)}"
    why += f": {standing}" if standing is not None else ""
    moves = f"the end of one that is out; `kompensate retry {found.state.saga_id} --step {made.step}` sends it at once"
    return Reason("limit", why, moves, step=made.step, service=made.service, since_at=call.queued_at)


def _own(found: Fold, call: Call) -> Reason:
    """What the worker itself does for a saga: a local step, or a child."""
    made, step = call.made, found.steps[call.made.number]
    since = (step.undo_sent_at if call.undoing else None) or step.sent_at
    if made.service == CHILD:
        child = child_id(call)
        kind, why = "child", f"waits for child saga {child!r} ({made.type}), started at {timestamp(since)}"
        if call.undoing:
            why = f"waits for child saga {child!r}, which is being cancelled since {timestamp(since)}"
        moves = f"its end: `kompensate explain {child}`"
    else:
        named = _named(call)
        kind, why = "local", f"waits for its worker to run {named}, begun at {timestamp(since)}"
        moves = "the function's end; where its worker died, the next one that takes the partition over"
    return Reason(kind, why, moves, step=made.step, since_at=since, until_at=call.timeout_at, error=step.error)


def _call(found: Fold, call: Call) -> Reason:
    made, step = call.made, found.steps[call.made.number]
    named = _named(call)
    since = (step.undo_sent_at if call.undoing else None) or step.sent_at
    limit = made.policy.undo_attempts if call.undoing else made.policy.attempts
    of = "" if limit == UNLIMITED else f" of {limit}"
    common = {"step": made.step, "service": made.service, "error": step.error}
    if call.status in (CallStatus.WAITING, CallStatus.UNDO_WAITING):
        where = "" if made.service in (WORKER, CHILD) else f" in {made.service}"
        verb, kind = ("undo", "undo") if call.undoing else ("attempt", "retry")
        why = f"waits before {verb} {call.attempt + 1}{of} of {named}; the last failed: {step.error}"
        moves = f"time: tried again at {_at(call.due)}{_after(call, limit)}; or mend the cause{where}"
        return Reason(kind, why, moves, since_at=since, next_at=call.due, until_at=call.timeout_at, **common)
    again = f", sent again {call.resends} times" if call.resends else ""
    why = f"waits for a reply from {made.service} to {named}, out since {timestamp(since)}{again}"
    moves = f"the reply: do {made.service}'s participant and relay run? Sent again at {_at(call.due)}"
    if call.timeout_at is not None:
        then = "held" if made.kind != "compensatable" else "in doubt, and the saga turns back"
        moves += f"; given up at {_at(call.timeout_at)}: it is {then}"
    if call.resends:  # a service that answers does so before
        moves += "; `kompensate outside list --dsn` of its database tells of outside calls in doubt and open breakers"
    return Reason("reply", why, moves, since_at=since, next_at=call.due, until_at=call.timeout_at, **common)


def _named(call: Call) -> str:
    made = call.made
    if not made.type:
        return f"{made.undo_type} (compensation {made.step})"
    return f"{made.undo_type} (undo of step {made.step})" if call.undoing else f"{made.type} (step {made.step})"


def _after(call: Call, limit: int) -> str:
    """What comes after the last attempt."""
    if limit == UNLIMITED:
        return ", without limit"
    held = call.undoing or call.made.kind == "retriable"
    return f", after {limit} times {'it is held' if held else 'the saga turns back'}"


def _receive(found: Fold, name: str, until: int | None) -> Reason:
    state = found.state
    others = sorted({signal.name for signal in state.signals})
    kept = f"; kept are only others: {', '.join(others)}" if others else ""
    limit = "for ever" if until is None else f"until {timestamp(until)}"
    why = f"waits {limit} for signal {name!r}{kept}"
    return Reason("signal", why, f"`kompensate signal {name} {state.saga_id}`", next_at=until, until_at=until)


def _at(time: int | None) -> str:
    return "?" if time is None else timestamp(time)


def of_ended(view: SagaView) -> Reason:
    """A saga that will not move any more."""
    why = f"it has ended: {view.status} at {timestamp(view.updated_at)}" + (f", {view.reason}" if view.reason else "")
    return Reason("ended", why, "nothing: start another one", since_at=view.updated_at)


def of_damage(saga_id: str, damaged: str) -> Reason:
    """A saga whose pages do not read."""
    moves = f"nothing by itself: look at the records named; `kompensate rebuild {saga_id}` compares state and history"
    return Reason("damaged", f"its pages are damaged: {damaged}", moves)


def of_unknown(saga_id: str, rejected: str | None, around: Surroundings) -> Reason:
    """A saga that the topics do not have."""
    if rejected is not None:
        return Reason(
            "rejected", rejected, "send it again, mended: what was rejected is not tried again", error=rejected
        )
    if around.unhandled:
        return Reason("unhandled", f"not begun: {_listed(around)}", "a worker")
    why = f"no saga {saga_id!r}: none in state, history or quarantine topic, and no request for it"
    return Reason(
        "unknown", why, f"`kompensate start DEFINITION --id {saga_id}`; are application, prefix and id right?"
    )


def of_surroundings(around: Surroundings) -> Iterator[Reason]:
    """What keeps everything on its partition: nobody there, or somebody who lags."""
    owners = around.owners
    if owners is not None and not owners.members:
        yield Reason("unowned", f"no worker runs: group {owners.group} has no members", "start `kompensate worker`")
    elif owners is not None and around.owner is None:
        why = (
            f"no worker owns partition {around.partition}: group {owners.group} is {owners.state} with "
            f"{owners.members} members"
        )
        yield Reason("unowned", why, "the end of the rebalance; if it lasts, the workers' logs")
    if around.unhandled:
        moves = "the worker, when it comes to them" if around.owner else "a worker"
        yield Reason("unhandled", f"not handled yet: {_listed(around)}", moves, since_at=around.unhandled[0].time)


def _listed(around: Surroundings) -> str:
    shown = ", ".join(str(each) for each in around.unhandled[:5])
    more = len(around.unhandled) - 5
    return f"{shown} and {more} more" if more > 0 else shown
