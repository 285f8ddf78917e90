"""The partitions that a worker has: given, read, running, stopped, taken away.

Memory is a cache of the log: wherever the two could differ, a partition's memory is dropped and read anew. What is
seen twice, or breaks too often, stops that partition; the others go on.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kompensate.orchestrator.errors import Corrupted, Fatal, Fenced
from kompensate.orchestrator.ports import Clock, Log, Polled, Record, Sagas
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.worker.place import Phase, Place

logger = logging.getLogger(__name__)

FAILURES_MAX = 3
"""Unexpected errors of a partition in a row: a defect, which reading the log again does not mend."""
RETAKE_SECONDS, RETAKE_SECONDS_MAX = 0.05, 1.0
"""The wait before a partition is read again, the first time and after that."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a worker stands, for its health. `stopped` gives the reason by partition."""

    running: tuple[int, ...] = ()
    restoring: tuple[int, ...] = ()
    stopped: tuple[tuple[int, str], ...] = ()
    joined: bool = False


class Places(dict[int, Place]):
    """A worker's partitions by their numbers. `sagas` makes those of one partition, empty.

    `log` is where they are paused and resumed; None while the worker is in no group.
    """

    def __init__(self, sagas: Callable[[int], Sagas], settings: Settings, clock: Clock) -> None:
        super().__init__()
        self.status = Status()
        """Replaced as a whole, so that any thread may read it."""
        self.reading_on = False
        """A restore found records, and goes on at once."""
        self._log: Log | None = None
        self._new_sagas = sagas
        self._settings = settings
        self._clock = clock

    # -- ownership

    def join(self, log: Log) -> None:
        """The worker is in the group."""
        self._log = log
        self._show()

    def leave(self) -> None:
        """It is not any more, and nothing is its."""
        self._log = None
        self._forget(list(self))
        self._show()

    def own(self, polled: Polled) -> None:
        """What was given and taken away since the last poll."""
        gone = polled.revoked | polled.lost
        if gone:
            logger.info("partitions %s: %s", sorted(gone), "lost" if polled.lost else "given away")
            self._forget(gone & self.keys())
        for number in sorted(polled.assigned):
            logger.info("partition %d: assigned", number)
            self[number] = Place(number)
        if gone or polled.assigned:
            self._show()

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            _drop(self.pop(number))

    # -- how they stand

    def running(self) -> list[Place]:
        """Those whose sagas handle inputs."""
        return [place for place in self.values() if place.phase is Phase.RUNNING]

    @property
    def settled(self) -> bool:
        """Is every partition read that it has? Before, it does not know what is out under limits."""
        return all(place.phase in (Phase.RUNNING, Phase.STOPPED) for place in self.values())

    def _show(self) -> None:
        by_phase: dict[Phase, list[Place]] = {phase: [] for phase in Phase}
        for place in sorted(self.values(), key=lambda place: place.number):
            by_phase[place.phase].append(place)
        waiting = [*by_phase[Phase.WAITING], *by_phase[Phase.RESTORING]]
        self.status = Status(
            tuple(place.number for place in by_phase[Phase.RUNNING]),
            tuple(place.number for place in waiting),
            tuple((place.number, place.error or "") for place in by_phase[Phase.STOPPED]),
            self._log is not None,
        )

    # -- reading

    def restore(self, log: Log) -> None:
        """Read a little further in those that are being taken over."""
        now = self._clock.monotonic()
        under_way = [place for place in self.values() if place.phase is Phase.RESTORING]
        for place in self.values():
            if len(under_way) < self._settings.restores_max and place.phase is Phase.WAITING and place.again_at <= now:
                under_way.append(place)
        self.reading_on = False
        for place in under_way:
            try:
                self._read_on(log, place)
            except Corrupted as error:
                self.repair([place], error)
            except (Fenced, Fatal):
                raise
            except Exception as error:  # a defect of ours: it must not stop the other partitions
                self.break_(place, error, None)

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
            self.reading_on |= batch is not None
            return
        place.positions = place.sagas.loaded(place.takeover.committed, place.takeover.beginning)
        place.takeover, place.phase, place.error = None, Phase.RUNNING, None
        place.contradictions, place.committed_at = 0, self._clock.monotonic()
        log.resume(place.number, place.positions)
        logger.info("partition %d: running from %s", place.number, place.positions)
        self._show()

    # -- what went wrong

    def repair(self, places: Iterable[Place], error: Corrupted) -> None:
        """Read these partitions again. A contradiction is believed when it is seen twice: the first may come of a
        rebalance that we have not heard of."""
        for place in list(places):
            place.contradictions += not error.retry
            if place.contradictions > 1:
                self.stop(place, str(error))
            else:
                self._retake(place, str(error))

    def break_(self, place: Place, error: Exception, record: Record | None) -> None:
        """Something of ours is defective: read the partition again, but not for ever."""
        where = f"{record.topic}/{record.partition}@{record.offset}" if record else f"partition {place.number}"
        logger.error("%s: unexpected %s", where, type(error).__name__, exc_info=error)
        place.failures += 1
        text = f"{where}: unexpected {type(error).__name__}: {error}"
        if place.failures > FAILURES_MAX:
            self.stop(place, text)
        else:
            self._retake(place, text)

    def stop(self, place: Place, text: str) -> None:
        """Until somebody has looked."""
        logger.critical("partition %d is stopped, the others go on: %s", place.number, text)
        self._silence(place, Phase.STOPPED, text)

    def _retake(self, place: Place, text: str) -> None:
        wait = RETAKE_SECONDS if place.error is None else RETAKE_SECONDS_MAX
        logger.warning("partition %d is read again in %.2f s: %s", place.number, wait, text)
        self._silence(place, Phase.WAITING, text)
        place.again_at = self._clock.monotonic() + wait

    def _silence(self, place: Place, phase: Phase, text: str) -> None:
        _drop(place)
        place.phase, place.error, place.rewound = phase, text, True
        if self._log is not None:
            self._log.pause(place.number)
        self._show()


def _drop(place: Place) -> None:
    """Let go of its memory."""
    if place.sagas is not None:
        place.sagas.close()
    takeover, place.takeover, place.sagas = place.takeover, None, None
    close = getattr(takeover.records, "close", None) if takeover is not None else None
    if close is not None:
        close()
