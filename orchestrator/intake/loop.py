"""The intake's loop: records of source topics in, requests out, each batch with its offsets in one transaction.

So a record leads to its requests exactly once, whatever dies between. The reactions are the worker's:

    Aborted     rewind, try again
    Rejected    the same with half as much; a single record that is still refused is quarantined
    Fenced      rejoin
    Corrupted   rejoin: what was committed is asked of the group
    Fatal       stop

The loop holds no state that the log does not have, but for which records are known to be refused.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence

from kompensate.orchestrator.errors import Aborted, Corrupted, Fatal, Fenced, Rejected
from kompensate.orchestrator.intake.ports import Sources, Translates
from kompensate.orchestrator.intake.translate import sizes
from kompensate.orchestrator.ports import Clock, OutRecord, Record
from kompensate.orchestrator.settings import Settings
from kompensate.schemas.faults import fault

logger = logging.getLogger(__name__)

REJOINS_MAX, REJOINS_SECONDS = 5, 60.0
"""Who rejoins more often is one of two with the same slot, or does not mend by it."""
BACKOFF_SECONDS, BACKOFF_SECONDS_MAX = 0.05, 5.0
IDLE_SECONDS = 0.1
"""How long records are waited for; they wake it."""


class IntakeLoop:
    """Steps one intake. `connect` joins the group, anew after each fence."""

    def __init__(
        self, connect: Callable[[], Sources], translator: Translates, settings: Settings, clock: Clock
    ) -> None:
        self._connect = connect
        self._translator = translator
        self._settings = settings
        self._clock = clock
        self._sources: Sources | None = None
        self._limit = settings.batch_records_max
        self._refused: dict[tuple[str, int, int], tuple[str, bool]] = {}
        self._aborts = 0
        self._rejoins: deque[float] = deque()
        self.stepped_at = clock.monotonic()
        """When the last step began: a loop that hangs shows by it."""
        self.handled = 0
        """Source records that were committed."""

    @property
    def joined(self) -> bool:
        return self._sources is not None

    def step(self) -> None:
        """One turn. Raises Fatal."""
        self.stepped_at = self._clock.monotonic()
        try:
            if self._sources is None:
                self._sources = self._connect()
            records = self._sources.poll(self._limit, IDLE_SECONDS)
            fault("intake.after_poll")
            self._handle(self._sources, records)
        except Aborted as error:
            # From joining: Kafka could not be reached.
            self._back_off("joining", error)
        except (Fenced, Corrupted) as error:
            self._rejoin(error)
        except Fatal:
            raise
        except Exception as error:  # a defect of ours: begin anew, but not for ever
            logger.exception("unexpected error")
            self._rejoin(error)

    def close(self) -> None:
        """Leave the group. No batch is open between steps."""
        sources, self._sources = self._sources, None
        if sources is not None:
            sources.close()

    def _handle(self, sources: Sources, records: Sequence[Record]) -> None:
        batch: list[Record] = []
        written: list[OutRecord] = []
        size = 0
        for record in records:
            found = self._translate(record)
            size += sizes(found)
            if batch and size > self._settings.batch_bytes_max:
                if not self._commit(sources, batch, written):
                    return
                batch, written, size = [], [], sizes(found)
            batch.append(record)
            written += found
        if batch:
            self._commit(sources, batch, written)

    def _translate(self, record: Record) -> list[OutRecord]:
        refused = self._refused.get((record.topic, record.partition, record.offset))
        if refused is None:
            return self._translator.translate(record)
        reason, omit = refused
        return [self._translator.quarantined(record, reason, omit=omit)]

    def _commit(self, sources: Sources, batch: Sequence[Record], written: Sequence[OutRecord]) -> bool:
        """Whether it stands; otherwise the sources are rewound."""
        offsets = {(record.topic, record.partition): record.offset + 1 for record in batch}
        try:
            sources.commit(written, offsets)
        except Aborted as error:
            sources.rewind()
            if isinstance(error, Rejected):
                self._narrow(batch, error)
            else:
                self._back_off("a batch", error)
            return False
        fault("intake.after_commit")
        self._aborts = 0
        self.handled += len(batch)
        self._limit = min(self._settings.batch_records_max, 2 * self._limit)
        for record in batch if self._refused else ():
            self._refused.pop((record.topic, record.partition, record.offset), None)
        return True

    def _narrow(self, batch: Sequence[Record], error: Rejected) -> None:
        """Kafka refuses something in the batch for good: find the record that it comes from."""
        if len(batch) > 1:
            self._limit = max(1, len(batch) // 2)
            logger.warning("a batch of %d records is refused, trying %d at once: %s", len(batch), self._limit, error)
            return
        [record] = batch
        place = (record.topic, record.partition, record.offset)
        known = self._refused.get(place)
        if known is not None and known[1]:
            raise Fatal("{}/{}@{}: not even its key and headers can be put aside: {}".format(*place, error)) from error
        self._refused[place] = (known[0] if known else f"Kafka refuses what it leads to: {error}", known is not None)
        logger.error("%s/%d@%d is to be quarantined: %s", *place, error)

    def _back_off(self, what: str, error: Exception) -> None:
        wait = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS * 2**self._aborts)
        self._aborts = min(self._aborts + 1, 16)
        logger.warning("%s: %s; again in %.2f s", what, error, wait)
        self._clock.sleep(wait)

    def _rejoin(self, error: Exception) -> None:
        now = self._clock.monotonic()
        self._rejoins.append(now)
        while self._rejoins[0] < now - REJOINS_SECONDS:
            self._rejoins.popleft()
        self.close()
        if len(self._rejoins) > REJOINS_MAX:
            raise Fatal(
                f"had to rejoin {len(self._rejoins)} times within {REJOINS_SECONDS:.0f} s, the last time for: "
                f"{error!r}; has another process the same slot? Each needs one of its own"
            ) from error
        logger.warning("rejoining: %r", error)
        self._clock.sleep(BACKOFF_SECONDS)
