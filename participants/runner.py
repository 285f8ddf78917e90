"""The loop of a participant: takes whatever commands there are, has them handled as a group, commits offsets.

A single command is handled at once; under load the group grows by itself while the one before it commits, up to what
slow handlers leave room for: a group that ran out of its time says how many fit, and the next ones may double that.
An offset is committed after the database transaction of every command below it. What is to be tried again
waits in memory, and the offsets stay below it, so that a crash brings it back; behind a waiting command wait
the later ones of its lane (its record key), so that order holds.

What the loop does about an error is in the error's name (unit.py): Unreachable and Unburied wait as long as it
takes, in the consumer group; Undone repeats the group, then splits it down to the command that spoils it, which
is given up: answered failed, and a dead letter.
"""

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import TypeAlias

from kompensate.participants.orders import Bury, Kept, Later, Order, Result, Settled
from kompensate.participants.outside.desk import Desk
from kompensate.participants.ports import DeadLetter, Grave, Place, Record, Source, Unburied
from kompensate.participants.reading import read, read_event
from kompensate.participants.settings import Settings
from kompensate.participants.unit import Undone, Unreachable
from kompensate.schemas.faults import fault
from kompensate.schemas.messages import Command

log = logging.getLogger("kompensate.participants")

Handle: TypeAlias = Callable[[Sequence[Order], Bury], list[Result]]


@dataclass(slots=True, eq=False)
class Parcel:
    """A command on its way through: its record, what was read from it, and how often it was tried.

    `command` is None where nobody can be answered; `doom` is why it cannot be handled. `kept`: the database had it, so
    no offset waits for it, and it is ours wherever its partition is.
    """

    record: Record
    command: Command | None
    lane: Hashable
    doom: str | None = None
    tries: int = 0
    due: float = 0.0
    buried: bool = False
    kept: bool = False


@dataclass(slots=True)
class _Group:
    """Parcels that share a transaction, and how often it came to nothing."""

    parcels: list[Parcel]
    undone: int = 0


@dataclass(slots=True)
class _Progress:
    """One partition: the offset after the newest record taken, the offsets below it that are not settled."""

    taken: int
    open: set[int] = field(default_factory=set)
    committed: int = -1

    @property
    def next(self) -> int:
        return min(self.open) if self.open else self.taken


class Runner:
    """Runs one participant until it is stopped: `handle` is a Unit's, `events` says where those stand that it takes."""

    def __init__(
        self,
        source: Source,
        grave: Grave,
        handle: Handle,
        settings: Settings,
        *,
        events: Mapping[str, str] | None = None,
        chore: Callable[[], bool] = lambda: False,
        outside: Desk | None = None,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._uniform = uniform
        self._source = source
        self._grave = grave
        self._handle_group = handle
        self._settings = settings
        self._events = dict(events or {})
        self._event_topics = frozenset(self._events.values())
        self._chore = chore
        self._outside = outside
        self._clock = clock
        self._stopping = Event()
        self._progress: dict[Place, _Progress] = {}
        self._waiting: dict[Hashable, deque[Parcel]] = {}
        self._size = settings.group_max
        self._commit_due = 0.0
        self._chore_due = 0.0

    def stop(self) -> None:
        """Ask the loop to end after the group in hand; from any thread or signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Loop until stopped, then commit offsets and leave the group. Raises what cannot be waited for."""
        self.open()
        try:
            while not self._stopping.is_set():
                self.turn()
        finally:
            self.close()

    def open(self) -> None:
        """Join the group; then `turn`, again and again."""
        self._source.open(self._leaving)

    def close(self) -> None:
        """Wait for outside calls that end soon, commit offsets and leave the group."""
        if self._outside is not None:
            self._outside.close()
        self._commit(wait=True)
        self._source.close()
        self._grave.close()

    def turn(self) -> None:
        """One round: what is due again and what has arrived, as one group; then the offsets, when they are due."""
        self._keep_house()
        now = self._clock()
        group = self._take_due(now)
        if self._outside is not None:
            self._outside.turn()
            kept = self._outside.taken(self._size - len(group))
            group.extend(self._take_kept(record) for record in kept)
        room = min(self._size - len(group), self._settings.waiting_max - self._waiting_count())
        if room > 0:
            timeout = 0.0 if group else self.idle_seconds()
            records = self._source.poll(room, timeout)
            group.extend(parcel for parcel in map(self._take, records) if parcel is not None)
        elif not group:
            self._source.rest(self.idle_seconds())
        if group:
            fault("participant.after_poll")
            self._handle(group)
        if not group or self._clock() >= self._commit_due:
            self._commit(wait=False)

    def _take(self, record: Record) -> Parcel | None:
        """The record on its way, or None for an event that is not for us."""
        progress = self._progress.setdefault(record.place, _Progress(record.offset))
        progress.taken = record.offset + 1
        event = record.place.topic in self._event_topics
        found = read_event(record, self._events) if event else read(record)
        if found is None:
            return None
        progress.open.add(record.offset)
        command, doom = found
        return Parcel(record, command, self._lane(record), doom)

    def _take_kept(self, record: Record) -> Parcel:
        command, doom = read(record)
        return Parcel(record, command, self._lane(record), doom, kept=True)

    def _lane(self, record: Record) -> Hashable:
        """What keeps its order: records of one key. A saga's commands are not in the way of the events about it."""
        if record.key is None:
            return (record.place, record.offset)
        return (record.place.topic, record.key) if record.place.topic in self._event_topics else record.key

    def _take_due(self, now: float) -> list[Parcel]:
        """The first of every lane whose time has come; it stays at the head of its lane until it is settled."""
        due = [lane[0] for lane in self._waiting.values() if lane[0].due <= now]
        return due[: self._size]

    def _handle(self, parcels: list[Parcel]) -> None:
        """Handle `parcels` until each is settled or waits, unless stopped or taken away meanwhile."""
        groups = deque([_Group(parcels)])
        waits = 0
        while groups and not self._stopping.is_set():
            group = groups.popleft()
            group.parcels = self._ready(group.parcels)
            if not group.parcels:
                continue
            try:
                self._handle_once(group)
                waits = 0
            except (Unreachable, Unburied) as error:
                log.error("nothing is lost, trying again: %s", error)
                groups.appendleft(group)
                self._pause(self._settings.outage_backoff(waits))
                waits += 1
            except Undone as error:
                groups.extendleft(reversed(self._after_undone(group, error)))

    def _ready(self, parcels: list[Parcel]) -> list[Parcel]:
        """Those that are still ours and next in their lanes; the others go behind what waits there."""
        ready = []
        for parcel in parcels:
            progress = self._progress.get(parcel.record.place)
            if not parcel.kept and (progress is None or parcel.record.offset not in progress.open):
                continue
            lane = self._waiting.get(parcel.lane)
            if lane is None or lane[0] is parcel:
                ready.append(parcel)
            elif parcel not in lane:
                lane.append(parcel)
        return ready

    def _handle_once(self, group: _Group) -> None:
        mute = [parcel for parcel in group.parcels if parcel.command is None]
        if mute:
            self._bury([(parcel, DeadLetter(parcel.record, parcel.doom or "unreadable")) for parcel in mute])
            for parcel in mute:
                self._settle(parcel)
        spoken = [parcel for parcel in group.parcels if parcel.command is not None]
        if not spoken:
            return

        def bury(dead: Sequence[tuple[int, Settled | Kept]]) -> None:
            self._bury([(spoken[n], _letter(spoken[n], settled)) for n, settled in dead])

        results = self._handle_group([self._order(parcel) for parcel in spoken], bury)
        for parcel, result in zip(spoken, results, strict=True):
            if isinstance(result, Later):
                self._wait(parcel, result)
            else:
                self._settle(parcel)
        left = sum(isinstance(result, Later) and result.full for result in results)
        self._size = len(results) - left if left else min(2 * self._size, self._settings.group_max)

    def _bury(self, dead: Sequence[tuple[Parcel, DeadLetter]]) -> None:
        """Have the dead letters in Kafka before their group commits: a crash may double one, never lose it."""
        for parcel, letter in dead:
            log.error(
                "dead letter from %s/%d@%d, saga %s: %s",
                *parcel.record.place,
                parcel.record.offset,
                parcel.command.saga_id if parcel.command else "unknown",
                letter.reason,
                extra={"command": parcel.command.id if parcel.command else None},
            )
        self._grave.bury([letter for parcel, letter in dead if not parcel.buried])
        for parcel, _ in dead:
            parcel.buried = True

    def _order(self, parcel: Parcel) -> Order:
        assert parcel.command is not None
        last = parcel.tries + 1 >= self._settings.tries_max
        return Order(parcel.command, parcel.lane, last, parcel.doom, parcel.record, parcel.kept)

    def _after_undone(self, group: _Group, error: Undone) -> list[_Group]:
        """What to do next with a group whose transaction came to nothing: again, in halves, or without its handler."""
        group.undone += 1
        limit = self._settings.undone_max if len(group.parcels) > 1 else self._settings.undone_alone_max
        log.warning("group of %d undone (%d of %d): %s", len(group.parcels), group.undone, limit, error)
        if group.undone < limit:
            self._pause(self._settings.undone_backoff(group.undone) * self._uniform(0.5, 1.5))
            return [group]
        if len(group.parcels) > 1:
            half = len(group.parcels) // 2
            return [_Group(group.parcels[:half]), _Group(group.parcels[half:])]
        parcel = group.parcels[0]
        if parcel.doom is None:
            parcel.doom = f"its transaction came to nothing {group.undone} times: {error}"
            return [_Group([parcel])]
        # Not even the answer can be written: all that is left is to keep the record itself.
        parcel.command = None
        parcel.doom = f"{parcel.doom}; answering failed: {error}"
        return [_Group([parcel])]

    def _settle(self, parcel: Parcel) -> None:
        lane = self._waiting.get(parcel.lane)
        if lane is not None and lane[0] is parcel:
            lane.popleft()
            if lane:
                lane[0].due = 0.0
            else:
                del self._waiting[parcel.lane]
        progress = self._progress.get(parcel.record.place)
        if progress is not None and not parcel.kept:
            progress.open.discard(parcel.record.offset)

    def _wait(self, parcel: Parcel, result: Later) -> None:
        """Have it tried again after a while; it is at the head of its lane, or goes behind those that are there."""
        parcel.tries += result.counts
        lane = self._waiting.setdefault(parcel.lane, deque())
        if not lane or lane[0] is not parcel:
            lane.append(parcel)
        seconds = 0.0 if result.full else result.seconds
        if seconds is None:
            outage, backoff = self._settings.outage_seconds_max, self._settings.retry_backoff
            seconds = outage if result.outage else backoff(parcel.tries)
        parcel.due = self._clock() + seconds * self._uniform(0.8, 1.2)

    def _leaving(self, places: Sequence[Place], commit: bool) -> None:
        """Partitions go to another member: commit what is settled if that is allowed, and forget the rest."""
        if commit:
            self._commit(wait=True, places=places)
        for place in places:
            self._progress.pop(place, None)
        for lane, parcels in list(self._waiting.items()):
            kept = deque(parcel for parcel in parcels if parcel.kept or parcel.record.place in self._progress)
            if kept:
                self._waiting[lane] = kept
            else:
                del self._waiting[lane]

    def _commit(self, *, wait: bool, places: Sequence[Place] | None = None) -> None:
        self._commit_due = self._clock() + self._settings.commit_interval_seconds
        offsets = {}
        for place in self._progress if places is None else places:
            progress = self._progress.get(place)
            if progress is not None and progress.next > progress.committed:
                offsets[place] = progress.committed = progress.next
        if offsets:
            self._source.commit(offsets, wait=wait)
            fault("participant.after_offset_commit")

    def _keep_house(self) -> None:
        """Run the chore when it is due, sooner if it says that there is more to do; its failing stops no command."""
        if self._clock() < self._chore_due:
            return
        self._chore_due = self._clock() + self._settings.chore_seconds
        try:
            if self._chore():
                self._chore_due = self._clock() + self._settings.chore_again_seconds
        except Exception:
            log.exception("housekeeping failed, the next try is in %g s", self._settings.chore_seconds)

    def _pause(self, seconds: float) -> None:
        """Wait: short waits simply, long ones as a member of the group that takes nothing."""
        if seconds < self._settings.rest_seconds_min:
            self._stopping.wait(seconds)
            return
        until = self._clock() + seconds
        while not self._stopping.is_set() and self._clock() < until:
            self._source.rest(min(self._settings.rest_seconds_min, until - self._clock()))

    def idle_seconds(self) -> float:
        """How long there is nothing to do but for new records, in seconds; at most `poll_seconds`."""
        now = self._clock()
        due = min([lane[0].due for lane in self._waiting.values()]) if self._waiting else now + 60
        uncommitted = any(progress.next > progress.committed for progress in self._progress.values())
        commit = self._commit_due if uncommitted else now + 60
        outside = 60.0 if self._outside is None else self._outside.idle_seconds()
        return max(0.0, min(self._settings.poll_seconds, due - now, commit - now, outside))

    def _waiting_count(self) -> int:
        return sum(len(lane) for lane in self._waiting.values())


def _letter(parcel: Parcel, settled: Settled | Kept) -> DeadLetter:
    waited_for = parcel.command is not None and parcel.command.reply_to
    return DeadLetter(parcel.record, settled.dead or "", settled.outcome if waited_for else None, settled.stack)
