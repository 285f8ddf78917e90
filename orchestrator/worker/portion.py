"""How much a worker takes at once, and what the batch under way is made of.

A batch that the log refuses for good is taken again with half as much, until one input is left: that is the one to
put aside. A commit that took long makes the next ones smaller, others let them grow.
"""

import logging
from typing import Any

from kompensate.orchestrator.errors import Rejected
from kompensate.orchestrator.ports import Record, Sagas
from kompensate.orchestrator.settings import Settings

logger = logging.getLogger(__name__)


class Portion:
    """The inputs of one worker's batch: records it `handled`, queued calls it `admitted`, timers and the like."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.limit = settings.batch_records_max
        """How many inputs a batch may have at present."""
        self.handled: list[Record] = []
        self.admitted: list[tuple[Sagas, Any]] = []
        self.fired = 0
        """How many inputs were no records."""
        self._refused: dict[tuple[str, int, int], str] = {}

    def clear(self) -> None:
        """The next batch begins."""
        self.handled.clear()
        self.admitted.clear()
        self.fired = 0

    def refusal(self, record: Record) -> str | None:
        """Why this record is to be put aside, if it is."""
        return self._refused.get((record.topic, record.partition, record.offset)) if self._refused else None

    @property
    def timers_left(self) -> int:
        """How many inputs that are no records there is room for."""
        # While a refused batch is narrowed down, one input at a time is all there is in it.
        return 0 if self.limit == 1 and self.handled else min(self._settings.timers_batch_max, self.limit)

    def committed(self, took: float) -> None:
        """The batch stands; its commit took so many seconds."""
        for record in self.handled if self._refused else ():
            self._refused.pop((record.topic, record.partition, record.offset), None)
        if took > self._settings.transaction_timeout_seconds / 4:
            # Too near to its time-out: less at once (H18).
            self.limit = max(1, min(self.limit, len(self.handled)) // 2)
            logger.warning("a commit took %.1f s: at most %d inputs at once now", took, self.limit)
        elif self.limit < self._settings.batch_records_max:
            self.limit = min(self._settings.batch_records_max, 2 * self.limit)

    def narrow(self, error: Rejected) -> bool:
        """The log refuses something in the batch for good: find the input that leads to it.

        False: there is none, but a timer, or nothing but the offsets.
        """
        count = len(self.handled) + self.fired
        if count > 1:
            self.limit = max(1, min(self.limit, count) // 2)
            logger.warning("a batch of %d inputs is refused, trying %d at once: %s", count, self.limit, error)
        elif self.handled:
            record = self.handled[0]
            self._refused[record.topic, record.partition, record.offset] = str(error)
            logger.error(
                "%s/%d@%d is to be quarantined: what it leads to cannot be written: %s",
                *(record.topic, record.partition, record.offset, error),
            )
        elif self.admitted:
            sagas, admitted = self.admitted[0]
            sagas.refuse(admitted, str(error))
            logger.error("%s: its saga is to be held: what was queued cannot be written: %s", admitted, error)
        else:
            return False
        return True
