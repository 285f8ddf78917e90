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
from collections.abc import Callable, Sequence

from kompensate.orchestrator.errors import Aborted, Corrupted, Fatal, Fenced, Rejected
from kompensate.orchestrator.ports import Clock, Log, OutRecord, Record, Sagas, Steps
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.worker.place import Phase, Place
from kompensate.orchestrator.worker.places import Places, Status
from kompensate.orchestrator.worker.portion import Portion
from kompensate.schemas.faults import fault

logger = logging.getLogger(__name__)

FENCES_MAX, FENCES_SECONDS = 5, 60.0
"""A worker that is fenced so often is one of two with the same slot: they would take turns for ever (H12)."""
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.05, 5.0
"""The wait after a first failure, doubled for each that follows it."""
STEP_WAIT_SECONDS = 0.001
"""How long inputs are waited for while local steps run: nothing wakes the loop when one ends."""
RESTORE_WAIT_SECONDS = 0.002
"""How long inputs are waited for while a restore has nothing to read yet."""


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
        self._settings = settings
        self._clock = clock
        self._log: Log | None = None
        self._places = Places(sagas, settings, clock)
        self._portion = Portion(settings)
        self._aborts = 0
        self._fences: deque[float] = deque()
        self.committed_at = clock.monotonic()
        """When the last commit was, on the monotonic clock."""
        self.commits = 0
        self.stepped_at = clock.monotonic()
        """When the last step began: a loop that hangs shows by it."""

    @property
    def status(self) -> Status:
        """How it stands; any thread may ask."""
        return self._places.status

    def step(self) -> None:
        """One turn of the loop. Raises Fatal."""
        self.stepped_at = self._clock.monotonic()
        try:
            log = self._log or self._join()
            self._step(log)
        except Fenced as error:
            self._rejoin(error)
        except Corrupted as error:
            places = self._places.values()
            named = [place for place in places if error.partition in (None, place.number)]
            self._places.repair(named, error)
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
        self._places.leave()
        log, self._log = self._log, None
        if log is not None:
            log.close()

    def _join(self) -> Log:
        self._log = self._connect()
        self._aborts = 0
        self._places.join(self._log)
        return self._log

    def _step(self, log: Log) -> None:
        polled = log.poll(self._portion.limit, self._patience())
        fault("worker.after_poll")
        self._places.own(polled)
        for place in self._places.values():
            place.rewound = False
        self._handle(log, polled.records)
        self._fire()
        self._commit(log)
        self._places.restore(log)

    def _patience(self) -> float:
        """How long poll may wait."""
        if self._places.reading_on:
            return 0
        patience, settled = self._settings.idle_poll_seconds, self._places.settled
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
                refusal = self._portion.refusal(record)
                if refusal is None:
                    sagas.handle(record)
                else:
                    sagas.quarantine(record, refusal)
            except Exception as error:  # a defect of ours: it must not stop the other partitions
                self._places.break_(place, error, record)
                continue
            self._portion.handled.append(record)
            size += sagas.output_bytes - before
            if size > limit_bytes or (count & 63 == 0 and self._clock.monotonic() > until):
                self._commit(log)
                size, until = 0, self._clock.monotonic() + settings.batch_seconds_max

    def _fire(self) -> None:
        left = self._portion.timers_left
        now, settled = self._clock.now(), self._places.settled
        for place in self._places.running():
            sagas, due = place.sagas, place.due(settled)
            assert sagas is not None  # it runs
            if left > 0 and due is not None and due <= now:
                try:
                    fired = sagas.fire(now, left)
                    admitted = sagas.admit(now, left - fired) if settled else ()
                except Exception as error:  # as in _handle
                    self._places.break_(place, error, None)
                    continue
                self._portion.admitted += [(sagas, each) for each in admitted]
                left -= fired + len(admitted)
                self._portion.fired += fired + len(admitted)

    # Commits.

    def _commit(self, log: Log) -> None:
        now = self._clock.monotonic()
        stale = now - self._settings.recommit_seconds
        touched, records, offsets = [], [], {}
        for place in self._places.running():
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
                self._places.repair(touched, error)
            else:
                for place, positions in zip(touched, after, strict=True):
                    assert place.sagas is not None  # it runs
                    place.sagas.committed()
                    for job in place.sagas.take_jobs():
                        self._steps.start(job, place.sagas.answer)
                    place.positions, place.committed_at, place.failures = positions, now, 0
                self._grow(self._clock.monotonic() - now)
        self._portion.clear()

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
        self._portion.committed(took)

    def _take_back(self, log: Log, touched: Sequence[Place], error: Aborted) -> None:
        for place in touched:
            assert place.sagas is not None  # it ran
            place.sagas.discard()
            place.rewound = True
            log.resume(place.number, place.positions)
        if not isinstance(error, Rejected):
            self._back_off("a batch", error)
        elif not self._portion.narrow(error):
            for place in touched:
                self._places.stop(place, str(error))

    def _back_off(self, what: str, error: Exception) -> None:
        wait = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS * 2**self._aborts)
        self._aborts = min(self._aborts + 1, 16)
        logger.warning("%s: %s; again in %.2f s", what, error, wait)
        self._clock.sleep(wait)

    def _rejoin(self, error: Exception) -> None:
        now = self._clock.monotonic()
        self._fences.append(now)
        while self._fences[0] < now - FENCES_SECONDS:
            self._fences.popleft()
        self.close()
        self._portion.clear()
        if len(self._fences) > FENCES_MAX:
            raise Fatal(
                f"had to rejoin {len(self._fences)} times within {FENCES_SECONDS:.0f} s, the last time for: {error!r}; "
                "has another worker the same slot? Each needs one of its own"
            ) from error
        logger.warning("rejoining: %r", error)
        self._clock.sleep(BACKOFF_SECONDS)
