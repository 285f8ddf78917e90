"""Whether a request was handled yet, and what became of it then: what the sync and the asyncio client share.

`Handling` watches the request's partition of the state topic and reads nothing itself; `handled` asks the topics once
it is known that a worker has passed the request.
"""

from kompensate.orchestrator.client_errors import DamagedSaga, NotFound, TimedOut
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.lookup import Lookup, keys_of
from kompensate.orchestrator.reading.outcomes import Outcome, Sent, begun_by, judged
from kompensate.orchestrator.reading.rejections import rejections
from kompensate.orchestrator.sagas.journal import read_watermark
from kompensate.schemas.messages import START
from kompensate.schemas.topics import WATERMARK_PREFIX


class Handling:
    """One request, as the records of its state partition tell of it.

    `done`: a worker has handled it. `outcome` is there where those records show it by themselves; where it is None
    although all is done, `handled` finds out.
    """

    def __init__(self, sent: Sent) -> None:
        self.sent = sent
        self.done = False
        self.outcome: Outcome | None = None
        self._watermark, self._own = watermark_key(sent.partition), keys_of(sent.saga_id)
        self._covered = False

    def see(self, record: Record) -> None:
        """The partition's next record."""
        if record.key == self._watermark:
            if self._covered:  # a watermark is a transaction's first record: the one before is complete
                self.done = True
            self._covered = self._covered or covers(record, self.sent)
        elif self.sent.type == START and self._own(record.key or b"") and record.value and begun_by(record, self.sent):
            self.done, self.outcome = True, Outcome("started")

    def caught_up(self) -> None:
        """There is no more of the partition just now."""
        self.done = self.done or self._covered


def watermark_key(partition: int) -> bytes:
    return f"{WATERMARK_PREFIX}{partition}".encode()


def covers(watermark: Record | None, sent: Sent) -> bool:
    """Was everything up to the request handled when this watermark was written?"""
    if watermark is None or watermark.value is None:
        return False
    return read_watermark(watermark.value).offsets.get(sent.topic, 0) > sent.offset


def handled(lookup: Lookup, sent: Sent) -> Outcome:
    """What became of a request that was handled."""
    rejected = rejections(lookup, [sent.partition], sent.time)
    reason = rejected.get((sent.topic, sent.partition, sent.offset))
    if reason is not None:
        return Outcome("rejected", reason)
    if sent.type != START:
        return Outcome("handled")
    found = lookup.find(sent.saga_id)
    if found is None:
        return Outcome("duplicate", "a saga of this id had ended, and is forgotten since")
    try:
        pages = lookup.pages(found)
    except (NotFound, DamagedSaga):
        pages = []
    return judged(sent, found, pages, lookup.payloads.for_saga(sent.saga_id))


def not_handled(sent: Sent, timeout: float) -> TimedOut:
    """The error for a request that nobody handled in time."""
    return TimedOut(
        f"saga {sent.saga_id!r}: expected its {sent.type} at {sent.topic}/{sent.partition}@{sent.offset} to be "
        f"handled within {timeout:g} s, got nothing: is a worker running? The request stands, and will be handled"
    )


def not_ended(saga_id: str, timeout: float, how: str) -> TimedOut:
    """The error for a saga that did not end in time; `how` is how far it was."""
    return TimedOut(
        f"saga {saga_id!r}: expected its end within {timeout:g} s, got: {how}; see `kompensate show {saga_id}`"
    )
