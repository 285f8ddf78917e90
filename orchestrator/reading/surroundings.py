"""What stands around a saga on its partition: who owns it, and which inputs nobody has handled yet.

The watermark in the state topic says where each input stands; what comes after it is unhandled. Counted are records,
not offsets: transactions leave markers behind that take offsets too.
"""

from dataclasses import dataclass

from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.owners import Owners
from kompensate.orchestrator.sagas.journal import read_watermark
from kompensate.schemas.codec import BadRecord
from kompensate.schemas.topics import WATERMARK_PREFIX

COUNTED_MAX = 100_000
"""Unhandled records of a topic that are looked at; behind that far, the number is an estimate."""


@dataclass(frozen=True, slots=True)
class Unhandled:
    """An input that waits for a worker: its message type, and where it stands."""

    type: str
    topic: str
    partition: int
    offset: int
    time: int

    def __str__(self) -> str:
        what = self.type.rpartition(".")[2] or "record"
        return f"{what} at {self.topic}/{self.partition}@{self.offset}"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """A saga's partition. `behind` is how many inputs of it are unhandled, `unhandled` those for the saga itself;
    `owners` is None where the broker does not tell."""

    partition: int
    behind: int
    unhandled: tuple[Unhandled, ...]
    owners: Owners | None

    @property
    def owner(self) -> str | None:
        """The worker that has the partition."""
        return None if self.owners is None else self.owners.by_partition.get(self.partition)


def surroundings(looking: Lookup, saga_id: str, owners: Owners | None) -> Surroundings:
    """Raises ClientError."""
    partition, names = looking.partition(saga_id), looking.topics
    positions = _positions(looking, partition)
    asked, replies = (names.requests, names.control), names.replies("")
    topics = [name for name in looking.reader.topics() if name in asked or name.startswith(replies)]
    behind, unhandled = 0, []
    for topic in topics:
        start, end = positions.get(topic, 0), looking.reader.ends(topic, [partition])[partition]
        if end - start > COUNTED_MAX:
            behind += end - start - COUNTED_MAX
            end = start + COUNTED_MAX
        for record in looking.reader.scan(topic, {partition: start}) if end > start else ():
            if record.offset >= end:
                break
            behind += 1
            if record.key == saga_id.encode():
                type_ = (dict(record.headers or ()).get("ce_type") or b"").decode(errors="replace")
                unhandled.append(Unhandled(type_, topic, partition, record.offset, record.timestamp))
    return Surroundings(partition, behind, tuple(sorted(unhandled, key=lambda found: found.time)), owners)


def _positions(looking: Lookup, partition: int) -> dict[str, int]:
    """The next offset of each input, as the last transaction left it."""
    key = f"{WATERMARK_PREFIX}{partition}".encode()
    found = looking.reader.snapshot(looking.topics.state, [partition], lambda each: each == key)[partition].get(key)
    try:
        return read_watermark(found.value or b"").offsets if found is not None else {}
    except BadRecord:
        return {}  # its next owner stops there, and says so
