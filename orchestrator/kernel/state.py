"""A saga's state: the fold of its events, which `kompensate.orchestrator.kernel.folding` makes.

It holds no more than deciding needs: statuses by the tables, open calls with their due times, kept signals.
It never holds the program: that is a cache beside it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.tables import (
    CHILD,
    ENDS,
    LET_GO_CHILD,
    SIGNALS_REMEMBERED_MAX,
    CallStatus,
    Hold,
    Status,
)

OPEN = frozenset({CallStatus.SENT, CallStatus.QUEUED, CallStatus.WAITING, CallStatus.UNDOING, CallStatus.UNDO_WAITING})
"""Calls that something is still expected of: a reply, room under their limit, or the time for the next attempt."""
_OUT = frozenset({CallStatus.SENT, CallStatus.WAITING})
_BACK = frozenset({CallStatus.UNDOING, CallStatus.UNDO_WAITING})


@dataclass(slots=True)
class Call:
    """One forward command with, where it can be undone, its compensation.

    `due` is when it is to be looked at again (resend or next attempt), `timeout_at` when it is given up,
    `rank` its place in the order of completion (0: not completed), `id` the command that is out,
    `doubted` that it was once in doubt, `late` the outcome that came after that. `limit` is what it is sent under
    (empty: nothing), with its `priority` there and since when it was last `queued_at`; while it is queued `left` is
    what is left of its time-out, and `attributes` what a child is to start with. `key` orders its commands (empty: the
    saga's id does).
    """

    made: e.CallMade
    status: CallStatus
    id: str
    forward_id: str
    due: int | None
    timeout_at: int | None
    attempt: int = 1
    resends: int = 0
    rank: int = 0
    doubted: bool = False
    late: str = ""
    limit: str = ""
    priority: int = 0
    queued_at: int = 0
    left: int | None = None
    attributes: bytes = b""
    key: str = ""

    @property
    def undoable(self) -> bool:
        """A child that has completed is not: it stands."""
        undo = self.made.undo_type
        stands = self.status is CallStatus.DONE and self.made.service == CHILD and undo != LET_GO_CHILD
        return undo is not None and not stands

    @property
    def undoing(self) -> bool:
        return self.status in _BACK


class Fork(NamedTuple):
    """The run that the operations up to `operations` were made by, of a saga that goes on from its history."""

    operations: int
    saga_id: str
    run: str


@dataclass(slots=True)
class SagaState:
    """One saga, folded. What grows with the history: `calls`, `commands` (by the id of every command ever
    sent), `done` (calls whose undo is still to be sent, in the order in which they completed) and `signal_ids`; the
    other lists and dictionaries hold what is still open. No transition looks through what grows. `operations` is the
    number of the last one that the program asked for. `local` are the open calls that the worker itself runs,
    `limited` those that are out or queued under a limit,
    `undos` the (first, last) operations of each undo that the program asked for and that is under way.
    `attributes` are those that operators find the saga by, written as whoever gave them wrote them; `delayed` is a
    start that is kept, `pivot_passed` that the program declared its point of no return.
    `forks` are the runs that this one's history was copied from, the oldest first; `reset_into` the saga that goes on
    from this one's; `waits_for` the one that has to end before this one goes on.

    `pivot` is the status that counts: done if any pivot is done (`pivots_done` of them are), else sent or waiting if
    any is out.
    """

    app: str
    saga_id: str
    run: str
    status: Status | None = None
    hold: Hold | None = None
    hold_reason: str = ""
    started: e.SagaStarted | None = None
    version: int = 1
    deadline: int | None = None
    parent: str | None = None
    parent_command: str | None = None
    delayed: e.StartDelayed | None = None
    started_at: int = 0
    updated_at: int = 0
    operations: int = 0
    calls: dict[int, Call] = field(default_factory=dict)
    commands: dict[str, Call] = field(default_factory=dict)
    open: dict[int, Call] = field(default_factory=dict)
    done: dict[int, Call] = field(default_factory=dict)
    local: dict[int, Call] = field(default_factory=dict)
    limited: dict[int, Call] = field(default_factory=dict)
    undos: dict[int, tuple[int, int]] = field(default_factory=dict)
    published: dict[str, bytes] = field(default_factory=dict)
    attributes: bytes = b""
    sleeps: dict[int, int] = field(default_factory=dict)
    receives: dict[int, e.ReceiveStarted] = field(default_factory=dict)
    signals: list[e.SignalKept] = field(default_factory=list)
    signal_ids: dict[str, None] = field(default_factory=dict)
    completions: int = 0
    pivot: CallStatus | None = None
    pivots_done: int = 0
    pivot_passed: bool = False
    cancel_reason: str | None = None
    cause: str | None = None
    reason: str = ""
    result: bytes | None = None
    forks: list[Fork] = field(default_factory=list)
    reset_into: str = ""
    waits_for: str = ""
    events: int = 0

    @property
    def ended(self) -> bool:
        return self.status in ENDS

    @property
    def pivot_out(self) -> bool:
        """The pivot's answer is still to come: nobody may turn back before it."""
        return self.pivot in _OUT

    def owner(self, number: int) -> tuple[str, str]:
        """(saga id, run) that the ids of this operation's commands derive from."""
        for fork in self.forks:
            if number <= fork.operations:
                return fork.saga_id, fork.run
        return self.saga_id, self.run

    def next_due(self) -> int | None:
        """When a worker that takes this saga over has to look at it: at once if a local step is to be run again."""
        due = self.next_timer()
        if self.local and self.hold is None and not self.ended:
            return self.updated_at if due is None else min(due, self.updated_at)
        return due

    def next_timer(self) -> int | None:
        """When this saga has to be looked at though nothing arrives; None: never, or it is held."""
        if self.hold is not None or self.ended:
            return None
        dues = [*self.sleeps.values()]
        for receive in self.receives.values():
            if receive.until is not None:
                dues.append(receive.until)
        for call in self.open.values():
            if call.due is not None:
                dues.append(call.due)
            if call.timeout_at is not None:
                dues.append(call.timeout_at)
        if self.deadline is not None:
            dues.append(self.deadline)
        if self.delayed is not None:
            dues.append(self.delayed.until)
        return min(dues) if dues else None

    def to_undo(self, first: int = 1, last: int | None = None) -> list[Call]:
        """Calls whose undo is still to be sent, of those numbered `first` to `last`; the last completed first."""
        found = self.done.values() if last is None else map(self.done.get, range(first, last + 1))
        calls = [call for call in found if call is not None and call.made.number >= first]
        return sorted(calls, key=lambda call: call.rank, reverse=True)

    def received_ids(self) -> list[str]:
        """Ids of signals that the program has received, in this run or before: the newest, at most as many as kept."""
        kept = {signal.signal_id for signal in self.signals}
        return [id_ for id_ in self.signal_ids if id_ not in kept][-SIGNALS_REMEMBERED_MAX:]

    def last_done(self) -> Call | None:
        """The first of `to_undo()`."""
        return next(reversed(self.done.values()), None)
