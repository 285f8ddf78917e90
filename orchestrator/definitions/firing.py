"""The saga that keeps a schedule: it sleeps until the next firing, starts a child for it, and begins a new run.

A firing's id is the schedule's name and the time that it is for, so none can be done twice, and the next time stands in
the run's input, `Kept`: whatever happens to workers, the run that was recorded goes on. How overlapping
firings are dealt with follows from when the saga looks:

    SKIP, BUFFER_*   while a child runs there is no timer. At its end what became due meanwhile is passed over, but for
                     the first (BUFFER_ONE) or nothing (BUFFER_ALL, whose next time just stays behind)
    CANCEL_OTHER     what runs is undone when another is due, which starts once that has ended
    TERMINATE_OTHER  the same without waiting for its end: a saga is never cut off without undoing
    ALLOW_ALL        children are let go: nobody waits for them, so nothing is ever in the way

A run ends whenever nothing runs: its history is one firing. What is changed here has to replay the runs that are under
way, or to become another version of the definition.
"""

from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

from kompensate.orchestrator.definitions import calendar
from kompensate.orchestrator.definitions.keeping import Kept, check_saga, take
from kompensate.orchestrator.definitions.saga import AsyncSaga, Saga
from kompensate.orchestrator.definitions.schedule import SAGA
from kompensate.orchestrator.kernel.context import Context
from kompensate.orchestrator.kernel.errors import SagaError
from kompensate.orchestrator.kernel.operation import Operation

BATCH_MAX = 100
"""Firings started in one go: a backlog of thousands leaves its neighbours their turn."""
STOPPING = ("CANCEL_OTHER", "TERMINATE_OTHER")


class ScheduleSaga(AsyncSaga):
    """The built-in definition; `sagas` are those that a schedule may start."""

    def __init__(self, sagas: Mapping[str, Saga | AsyncSaga]) -> None:
        super().__init__(SAGA, keep, Kept)
        self._sagas = sagas

    def coroutine(self, context: Context, value: Any) -> Coroutine[Any, Any, Any]:
        """Raises ValueError for a schedule of a saga that is not there, or that cannot read its input."""
        if not value.deleted:
            check_saga(value.schedule, self._sagas)
        return keep(context, value, self._sagas)


async def keep(ctx: Context, kept: Kept, sagas: Mapping[str, Saga | AsyncSaga]) -> None:
    """The program of every schedule."""
    keeper = _Keeper(ctx, kept, sagas)
    if kept.next is None:
        kept.next = calendar.following(kept.schedule, ctx.now())
    while True:
        keeper.publish()
        told = await keeper.settled()
        if keeper.idle and ctx.continue_as_new_suggested:
            if told:
                await ctx.sleep(0)  # signals by the thousand must not become runs within runs
            ctx.continue_as_new(kept)
        keeper.advance()
        if keeper.idle and not told:
            ctx.continue_as_new(kept)


class _Keeper:
    """One run: what is under way in it, beside what is kept."""

    def __init__(self, ctx: Context, kept: Kept, sagas: Mapping[str, Saga | AsyncSaga]) -> None:
        self._ctx = ctx
        self._kept = kept
        self._sagas = sagas
        self._told: Operation | None = None
        self._timer: Operation | None = None
        self._timer_for = (0, 0)
        self._running: dict[str, Operation] = {}
        self._stopping: dict[str, Operation] = {}
        self._due = False
        self._published: dict[str, Any] = {}

    @property
    def idle(self) -> bool:
        """Does nothing run that is waited for?"""
        return not self._running and not self._stopping

    # -- waiting

    async def settled(self) -> bool:
        """Wait for whatever comes next, and note it; was it a signal only?"""
        ctx, kept = self._ctx, self._kept
        self._told = self._told or ctx.receive(SAGA)
        self._set_timer()
        waits = {"told": self._told, **{f"ended {id_}": child for id_, child in self._running.items()}}
        waits |= {f"stopped {id_}": undo for id_, undo in self._stopping.items()}
        if self._timer is not None:
            waits["timer"] = self._timer
        with suppress(SagaError):  # a child that did not complete: it is looked at below, with the others
            await ctx.select(cancel_losers=False, **waits)
        told = self._told.settled
        if told:
            said, self._told = await self._told, None
            take(kept, said, ctx.now(), busy=not self.idle, sagas=self._sagas)
        due = self._timer is not None and self._timer.settled
        if due:
            self._due, self._timer = self._timer_for[0] == kept.next, None
        ended = self._note_ended()
        return told and not due and not ended

    def _note_ended(self) -> bool:
        kept = self._kept
        ended = [id_ for id_, child in self._running.items() if child.settled]
        for id_ in ended:
            error = self._running.pop(id_).error
            if error is not None:
                kept.last_failure = f"{id_}: {getattr(error, 'reason', error)}"
        stopped = [id_ for id_, undo in self._stopping.items() if undo.settled]
        for id_ in stopped:
            del self._stopping[id_]
            kept.last_failure = f"{id_}: stopped for the next one"
        if (ended or stopped) and self.idle:
            kept.held = self._ctx.now()
            self._pass_over()
        return bool(ended or stopped)

    def _pass_over(self) -> None:
        """What ran has ended: what became due meanwhile is skipped, or its first waits no more."""
        kept, now = self._kept, self._ctx.now()
        first = kept.next
        if kept.schedule.overlap not in ("SKIP", "BUFFER_ONE") or first is None or not self._is_due(first):
            return
        if kept.schedule.overlap == "BUFFER_ONE" and not kept.waiting and not self._off:
            kept.waiting.append(calendar.text(first))
            first = calendar.following(kept.schedule, first)
        # What is older than the jitter is due for certain.
        after = max(first - 1, now - round(kept.schedule.jitter * 1000) - 1)
        kept.next = calendar.following(kept.schedule, after)
        while self._is_due(kept.next):
            kept.next = calendar.following(kept.schedule, kept.next)
        if kept.next > first and not self._off:
            kept.skipped = [calendar.text(first), calendar.text(now)]

    def _set_timer(self) -> None:
        """Wake at the next firing, or at once if more is waiting than was started in one go."""
        kept = self._kept
        when = None
        if self._may_start and (kept.waiting or (kept.backfills and self.idle)):
            when = self._ctx.now()
        elif not self._off and (self._may_start or self._stops_others) and kept.next is not None:
            when = kept.next
        if when is None:
            self._timer = None  # one that was set ends unheard
            return
        until = calendar.jittered(kept.schedule, when) if when == kept.next else when
        if self._timer is None or self._timer_for != (when, until):
            self._timer, self._timer_for = self._ctx.sleep(max(0, until - self._ctx.now()) / 1000), (when, until)

    # -- firing

    @property
    def _off(self) -> bool:
        return self._kept.deleted or self._kept.paused is not None

    @property
    def _may_start(self) -> bool:
        """Is nothing in the way of another firing?"""
        return self.idle or self._kept.schedule.overlap == "ALLOW_ALL" or (self._stops_others and not self._running)

    @property
    def _stops_others(self) -> bool:
        """Does a firing that is due stop what runs? Not again while one is stopped that is waited for."""
        overlap = self._kept.schedule.overlap
        # Stopped firings that are never all at their end would keep the run, and its history, for ever.
        waits = overlap == "CANCEL_OTHER" or self._ctx.continue_as_new_suggested
        return overlap in STOPPING and not (self._stopping and waits)

    def _is_due(self, time: int) -> bool:
        return calendar.jittered(self._kept.schedule, time) <= self._ctx.now()

    def advance(self) -> None:
        """Start what is to be started now."""
        kept = self._kept
        self._skip_missed()
        for _ in range(BATCH_MAX):
            regular = not self._off and kept.next is not None and (self._due or self._is_due(kept.next))
            if (regular or kept.waiting) and self._running and self._stops_others:
                self._stop_running()
            if not self._may_start:
                break
            if kept.waiting:
                self._start(kept.waiting.pop(0))
            elif regular:
                self._start(calendar.text(self._next_due()))
            elif kept.backfills and (self.idle or kept.schedule.overlap == "ALLOW_ALL"):
                self._backfill()
            else:
                break
        self._due = False

    def _skip_missed(self) -> None:
        """Nobody was there for what is older than the catch-up window: it is left out."""
        kept, schedule = self._kept, self._kept.schedule
        spread = round((schedule.catchup_window + schedule.jitter) * 1000)
        cut = self._ctx.now() - spread
        if self._off or kept.next is None or kept.next <= kept.held or kept.next >= cut:
            return
        kept.missed = [calendar.text(kept.next), calendar.text(cut)]
        kept.next = calendar.following(schedule, cut - 1)
        self._due = False

    def _next_due(self) -> int:
        """The time to fire for, and on to the next. Where firings stop each other only the last one counts."""
        kept, schedule = self._kept, self._kept.schedule
        assert kept.next is not None  # it is due
        time, certain = kept.next, self._ctx.now() - round(schedule.jitter * 1000)
        if schedule.overlap in STOPPING and time < certain:
            time = calendar.latest(schedule, time, certain)
            if time > kept.next:
                kept.skipped = [calendar.text(kept.next), calendar.text(time - 1)]
        kept.next, self._due = calendar.following(schedule, time), False
        return time

    def _backfill(self) -> None:
        kept = self._kept
        first, until = kept.backfills[0]
        following = calendar.following(kept.schedule, first)
        if following > until:
            kept.backfills.pop(0)
        else:
            kept.backfills[0] = [following, until]
        self._start(calendar.text(first))

    def _start(self, key: str) -> None:
        ctx, kept, schedule = self._ctx, self._kept, self._kept.schedule
        id_ = f"{schedule.name}:{key}"
        detached = schedule.overlap == "ALLOW_ALL"
        on_close = "request_cancel" if schedule.overlap in STOPPING else "abandon"
        child = ctx.child(schedule.saga, schedule.input, saga_id=id_, detached=detached, on_close=on_close)
        kept.fired, kept.last = kept.fired + 1, id_
        if not detached:
            self._running[id_] = child

    def _stop_running(self) -> None:
        for id_, child in self._running.items():
            self._stopping[id_] = self._ctx.undo(child)
        self._running.clear()

    # -- showing

    def publish(self) -> None:
        """Show how it stands, where that has changed."""
        kept, schedule = self._kept, self._kept.schedule
        upcoming = None
        if not self._off and kept.next is not None:
            upcoming = calendar.text(calendar.jittered(schedule, kept.next))
        shown = {
            "schedule": schedule,
            "next": upcoming,
            "last": kept.last,
            "running": [*self._running, *self._stopping],
            "waiting": list(kept.waiting),
            "backfills": [[calendar.text(time) for time in range_] for range_ in kept.backfills],
            "paused": kept.paused,
            "deleted": kept.deleted,
            "fired": kept.fired,
            "skipped": kept.skipped,
            "missed": kept.missed,
            "last_failure": kept.last_failure,
            "refused": kept.refused,
        }
        if shown != self._published:
            self._published = shown
            self._ctx.publish(SAGA, shown)
