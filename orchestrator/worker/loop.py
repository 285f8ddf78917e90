"""The worker's loop: poll, handle, commit, react. On ports only, so that it runs on Kafka and in a simulator.

One step: inputs and changes of ownership are polled; each input goes to its partition's sagas, then due
timers; what all of them have to say is written in one transaction; partitions that are being taken over
read a little further. A batch grows by itself: what arrives during a commit is the next one.

Memory is a cache of the log. After an abort the sagas take the batch back and the inputs are read again;
wherever memory could differ from the log, a partition's memory is dropped and read anew. So the reactions are:

    Aborted     take the batch back, rewind, try again
    Rejected    the same with half as much; a single input that is still refused is quarantined
    Fenced      drop everything, rejoin
    Corrupted   drop that partition and take it over again; a contradiction that is still there then stops it
    Fatal       stop

No transaction is open while anything else is done: they begin and end inside `Log.commit`.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kompensate.orchestrator.errors import Aborted, Corrupted, Fatal, Fenced, Rejected
from kompensate.orchestrator.ports import Clock, Log, OutRecord, Polled, Record, Sagas, Steps
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.worker.place import Phase, Place
from kompensate.schemas.faults import fault

logger = logging.getLogger(__name__)

FENCES_MAX, FENCES_SECONDS = 5, 60.0
"""A worker that is fenced so often is one of two with the same slot: they would take turns for ever (H12)."""
FAILURES_MAX = 3
"""Unexpected errors of a partition in a row: a defect, which reading the log again does not mend."""
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.05, 5.0
"""The wait after a first failure, doubled for each that follows it."""
STEP_WAIT_SECONDS = 0.001
"""How long inputs are waited for while local steps run: nothing wakes the loop when one ends."""
RESTORE_WAIT_SECONDS = 0.002
"""How long inputs are waited for while a restore has nothing to read yet."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a worker stands, for its health. `stopped` gives the reason by partition."""

    running: tuple[int, ...] = ()
    restoring: tuple[int, ...] = ()
    stopped: tuple[tuple[int, str], ...] = ()
    joined: bool = False


class Loop:
    """Steps one worker. `connect` makes a Log, anew after each fence; `sagas` the sagas of one partition, empty."""

    def __init__(
        self,
        connect: Callable[[], Log],
        sagas: Callable[[int], Sagas],
        settings: Settings,
        clock: Clock,
        steps: Steps,
    ) -> None:
        self._connect = connect
        self._steps = steps
        self._new_sagas = sagas
        self._settings = settings
        self._clock = clock
        self._log: Log | None = None
        self._places: dict[int, Place] = {}
        self._limit = settings.batch_records_max
        self._handled: list[Record] = []
        self._fired = 0
        self._admitted: list[tuple[Sagas, Any]] = []
        self._refused: dict[tuple[str, int, int], str] = {}
        self._aborts = 0
        self._fences: deque[float] = deque()
        self._reading_on = False
        self.status = Status()
        self.committed_at = clock.monotonic()
        """When the last commit was, on the monotonic clock."""
        self.commits = 0
        self.stepped_at = clock.monotonic()
        """When the last step began: a loop that hangs shows by it."""

    def step(self) -> None:
        """One turn of the loop. Raises Fatal."""
        self.stepped_at = self._clock.monotonic()
        try:
            log = self._log or self._join()
            self._step(log)
        except Fenced as error:
            self._rejoin(error)
        except Corrupted as error:
            self._repair(self._places.values() if error.partition is None else self._named(error.partition), error)
        except Aborted as error:
            # Only from joining: the log could not be reached.
            self._back_off("joining", error)
        except Fatal:
            raise
        except Exception as error:  # a defect of ours: begin anew, but not for ever
            logger.exception("unexpected error")
            self._rejoin(error)

    def close(self) -> None:
        """Leave the group. No batch is open between steps, so there is nothing to finish."""
        self._forget(list(self._places.values()))
        log, self._log = self._log, None
        if log is not None:
            log.close()
        self._show()

    def _join(self) -> Log:
        self._log = self._connect()
        self._aborts = 0
        self._show()
        return self._log

    def _step(self, log: Log) -> None:
        polled = log.poll(self._limit, self._patience())
        fault("worker.after_poll")
        self._own(polled)
        for place in self._places.values():
            place.rewound = False
        self._handle(log, polled.records)
        self._fire()
        self._commit(log)
        self._restore(log)

    def _patience(self) -> float:
        """How long poll may wait."""
        if self._reading_on:
            return 0
        patience, settled = self._settings.idle_poll_seconds, self._settled
        now = self._clock.now()
        for place in self._places.values():
            if place.phase is Phase.RUNNING and place.sagas is not None:
                due = place.due(settled)
                if due is not None:
                    patience = min(patience, max(0, due - now) / 1000)
                if place.sagas.busy:
                    patience = min(patience, STEP_WAIT_SECONDS)
            elif place.phase is Phase.RESTORING:
                patience = min(patience, RESTORE_WAIT_SECONDS)
        return patience

    # Ownership.

    def _own(self, polled: Polled) -> None:
        gone = polled.revoked | polled.lost
        if gone:
            logger.info("partitions %s: %s", sorted(gone), "lost" if polled.lost else "given away")
            self._forget([self._places[number] for number in gone if number in self._places])
        for number in sorted(polled.assigned):
            logger.info("partition %d: assigned", number)
            self._places[number] = Place(number)
        if gone or polled.assigned:
            self._show()

    def _forget(self, places: Sequence[Place]) -> None:
        for place in places:
            self._drop(place)
            del self._places[place.number]

    def _drop(self, place: Place) -> None:
        """Let go of its memory."""
        if place.sagas is not None:
            place.sagas.close()
        takeover, place.takeover, place.sagas = place.takeover, None, None
        close = getattr(takeover.records, "close", None) if takeover is not None else None
        if close is not None:
            close()

    # Inputs and timers.

    def _handle(self, log: Log, records: Sequence[Record]) -> None:
        places, settings = self._places, self._settings
        limit_bytes, size = settings.batch_bytes_max, 0
        until = self._clock.monotonic() + settings.batch_seconds_max
        for count, record in enumerate(records, 1):
            place = places.get(record.partition)
            if place is None or place.rewound or place.phase is not Phase.RUNNING:
                continue
            sagas = place.sagas
            assert sagas is not None  # it runs
            before = sagas.output_bytes
            try:
                if self._refused and (record.topic, record.partition, record.offset) in self._refused:
                    sagas.quarantine(record, self._refused[record.topic, record.partition, record.offset])
                else:
                    sagas.handle(record)
            except Exception as error:  # a defect of ours: it must not stop the other partitions
                self._break(place, error, record)
                continue
            self._handled.append(record)
            size += sagas.output_bytes - before
            if size > limit_bytes or (count & 63 == 0 and self._clock.monotonic() > until):
                self._commit(log)
                size, until = 0, self._clock.monotonic() + settings.batch_seconds_max

    def _fire(self) -> None:
        # While a refused batch is narrowed down, one input at a time is all there is in it.
        left = 0 if self._limit == 1 and self._handled else min(self._settings.timers_batch_max, self._limit)
        now, settled = self._clock.now(), self._settled
        for place in self._running():
            sagas, due = place.sagas, place.due(settled)
            assert sagas is not None  # it runs
            if left > 0 and due is not None and due <= now:
                try:
                    fired = sagas.fire(now, left)
                    admitted = sagas.admit(now, left - fired) if settled else ()
                except Exception as error:  # as in _handle
                    self._break(place, error, None)
                    continue
                self._admitted += [(sagas, each) for each in admitted]
                left -= fired + len(admitted)
                self._fired += fired + len(admitted)

    @property
    def _settled(self) -> bool:
        """Is every partition read that it has? Before, it does not know what is out under limits."""
        return all(place.phase in (Phase.RUNNING, Phase.STOPPED) for place in self._places.values())

    def _running(self) -> list[Place]:
        return [place for place in self._places.values() if place.phase is Phase.RUNNING]

    # Commits.

    def _commit(self, log: Log) -> None:
        now = self._clock.monotonic()
        stale = now - self._settings.recommit_seconds
        touched, records, offsets = [], [], {}
        for place in self._running():
            assert place.sagas is not None  # it runs
            # An idle partition commits now and then: the offsets of topics nobody subscribes to expire.
            if place.sagas.dirty or place.committed_at < stale:
                touched.append(place)
        writer = log.writer if touched else ""
        after: list[dict[str, int]] = []
        for place in touched:
            assert place.sagas is not None  # it runs
            written, positions = place.sagas.output(writer)
            records.extend(written)
            offsets.update({(topic, place.number): offset for topic, offset in positions.items()})
            after.append(positions)
        if touched:
            try:
                self._write(log, touched, records, offsets)
            except Aborted as error:
                self._take_back(log, touched, error)
            except Corrupted as error:
                self._repair(touched, error)
            else:
                for place, positions in zip(touched, after, strict=True):
                    assert place.sagas is not None  # it runs
                    place.sagas.committed()
                    for job in place.sagas.take_jobs():
                        self._steps.start(job, place.sagas.answer)
                    place.positions, place.committed_at, place.failures = positions, now, 0
                self._grow(self._clock.monotonic() - now)
        self._handled.clear()
        self._admitted.clear()
        self._fired = 0

    def _write(
        self, log: Log, touched: Sequence[Place], records: list[OutRecord], offsets: dict[tuple[str, int], int]
    ) -> None:
        fault("worker.before_commit")
        log.commit(records, offsets)
        fault("worker.after_commit")
        logger.debug("committed %d records of partitions %s", len(records), [place.number for place in touched])

    def _grow(self, took: float) -> None:
        self.commits += 1
        self._aborts = 0
        self.committed_at = self._clock.monotonic()
        for record in self._handled if self._refused else ():
            self._refused.pop((record.topic, record.partition, record.offset), None)
        if took > self._settings.transaction_timeout_seconds / 4:
            # Too near to its time-out: less at once (H18).
            self._limit = max(1, min(self._limit, len(self._handled)) // 2)
            logger.warning("a commit took %.1f s: at most %d inputs at once now", took, self._limit)
        elif self._limit < self._settings.batch_records_max:
            self._limit = min(self._settings.batch_records_max, 2 * self._limit)

    def _take_back(self, log: Log, touched: Sequence[Place], error: Aborted) -> None:
        for place in touched:
            assert place.sagas is not None  # it ran
            place.sagas.discard()
            place.rewound = True
            log.resume(place.number, place.positions)
        if isinstance(error, Rejected):
            self._narrow(touched, error)
        else:
            self._back_off("a batch", error)

    def _narrow(self, touched: Sequence[Place], error: Rejected) -> None:
        """The log refuses something in the batch for good: find the input that leads to it."""
        count = len(self._handled) + self._fired
        if count > 1:
            self._limit = max(1, min(self._limit, count) // 2)
            logger.warning("a batch of %d inputs is refused, trying %d at once: %s", count, self._limit, error)
        elif self._handled:
            record = self._handled[0]
            self._refused[record.topic, record.partition, record.offset] = str(error)
            logger.error(
                "%s/%d@%d is to be quarantined: what it leads to cannot be written: %s",
                *(record.topic, record.partition, record.offset, error),
            )
        elif self._admitted:
            sagas, admitted = self._admitted[0]
            sagas.refuse(admitted, str(error))
            logger.error("%s: its saga is to be held: what was queued cannot be written: %s", admitted, error)
        else:
            # A timer, or nothing but the offsets: there is no input to put aside.
            for place in touched:
                self._stop(place, str(error))

    def _back_off(self, what: str, error: Exception) -> None:
        wait = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS * 2**self._aborts)
        self._aborts = min(self._aborts + 1, 16)
        logger.warning("%s: %s; again in %.2f s", what, error, wait)
        self._clock.sleep(wait)

    # Restores.

    def _restore(self, log: Log) -> None:
        now = self._clock.monotonic()
        under_way = [place for place in self._places.values() if place.phase is Phase.RESTORING]
        for place in self._places.values():
            if len(under_way) < self._settings.restores_max and place.phase is Phase.WAITING and place.again_at <= now:
                under_way.append(place)
        self._reading_on = False
        for place in under_way:
            try:
                self._read_on(log, place)
            except Corrupted as error:
                self._repair([place], error)
            except (Fenced, Fatal):
                raise
            except Exception as error:  # as in _handle
                self._break(place, error, None)

    def _read_on(self, log: Log, place: Place) -> None:
        if place.takeover is None or place.sagas is None:
            place.takeover, place.sagas, place.phase = (
                log.take_over(place.number),
                self._new_sagas(place.number),
                Phase.RESTORING,
            )
            self._show()
        for batch in place.takeover.records:
            if batch:
                place.sagas.load(batch)
            self._reading_on |= batch is not None
            return
        place.positions = place.sagas.loaded(place.takeover.committed, place.takeover.beginning)
        place.takeover, place.phase, place.error = None, Phase.RUNNING, None
        place.contradictions, place.committed_at = 0, self._clock.monotonic()
        log.resume(place.number, place.positions)
        logger.info("partition %d: running from %s", place.number, place.positions)
        self._show()

    # What went wrong.

    def _named(self, number: int) -> list[Place]:
        return [self._places[number]] if number in self._places else []

    def _repair(self, places: Iterable[Place], error: Corrupted) -> None:
        """Read these partitions again. A contradiction is believed when it is seen twice: the first may come of a
        rebalance that we have not heard of."""
        for place in list(places):
            place.contradictions += not error.retry
            if place.contradictions > 1:
                self._stop(place, str(error))
            else:
                self._retake(place, str(error))

    def _break(self, place: Place, error: Exception, record: Record | None) -> None:
        where = f"{record.topic}/{record.partition}@{record.offset}" if record else f"partition {place.number}"
        logger.error("%s: unexpected %s", where, type(error).__name__, exc_info=error)
        place.failures += 1
        text = f"{where}: unexpected {type(error).__name__}: {error}"
        if place.failures > FAILURES_MAX:
            self._stop(place, text)
        else:
            self._retake(place, text)

    def _retake(self, place: Place, text: str) -> None:
        wait = BACKOFF_SECONDS if place.error is None else min(BACKOFF_SECONDS_MAX, 1.0)
        logger.warning("partition %d is read again in %.2f s: %s", place.number, wait, text)
        self._silence(place, Phase.WAITING, text)
        place.again_at = self._clock.monotonic() + wait

    def _stop(self, place: Place, text: str) -> None:
        logger.critical("partition %d is stopped, the others go on: %s", place.number, text)
        self._silence(place, Phase.STOPPED, text)

    def _silence(self, place: Place, phase: Phase, text: str) -> None:
        self._drop(place)
        place.phase, place.error, place.rewound = phase, text, True
        if self._log is not None:
            self._log.pause(place.number)
        self._show()

    def _rejoin(self, error: Exception) -> None:
        now = self._clock.monotonic()
        self._fences.append(now)
        while self._fences[0] < now - FENCES_SECONDS:
            self._fences.popleft()
        self.close()
        self._handled.clear()
        self._admitted.clear()
        self._fired = 0
        if len(self._fences) > FENCES_MAX:
            raise Fatal(
                f"had to rejoin {len(self._fences)} times within {FENCES_SECONDS:.0f} s, the last time for: {error!r}; "
                "has another worker the same slot? Each needs one of its own"
            ) from error
        logger.warning("rejoining: %r", error)
        self._clock.sleep(BACKOFF_SECONDS)

    def _show(self) -> None:
        by_phase: dict[Phase, list[Place]] = {phase: [] for phase in Phase}
        for place in sorted(self._places.values(), key=lambda place: place.number):
            by_phase[place.phase].append(place)
        waiting = [*by_phase[Phase.WAITING], *by_phase[Phase.RESTORING]]
        self.status = Status(
            tuple(place.number for place in by_phase[Phase.RUNNING]),
            tuple(place.number for place in waiting),
            tuple((place.number, place.error or "") for place in by_phase[Phase.STOPPED]),
            self._log is not None,
        )
