"""A broker in memory: partitions with transactions, consumer groups, compaction. One thread, no network.

As in Kafka: a transaction's records stand in the log from the moment they are produced, and count once its
marker is written; committed readers stop at the first undecided record (the last stable offset); markers
take an offset of their own, so offsets have gaps; initialising a producer ends what its id left open and
fences whoever had the id; offsets inside a transaction are checked against the group's generation.

Unlike Kafka: one replica, no time-outs of its own (`expire_member` and `abort_open` are called by tests), and
every request is answered.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice

from kompensate.orchestrator.ports import Clock, HeaderList, Record
from kompensate.orchestrator.testing.group import Group
from kompensate.orchestrator.worker.restore import Ends
from kompensate.schemas.topics import murmur2


class ProducerFenced(Exception):
    """Another producer was initialised with this transactional id."""


class IllegalGeneration(Exception):
    """Offsets were sent by one who is no member, or of an older generation."""


class TooLarge(Exception):
    """A record is larger than its topic's limit."""


class Decision(Enum):
    OPEN = auto()
    COMMITTED = auto()
    ABORTED = auto()


@dataclass(slots=True)
class Entry:
    """One offset of a partition. `record` None: a transaction's marker."""

    offset: int
    record: Record | None
    decision: Decision


@dataclass(slots=True)
class Partition:
    """One partition's entries in order; `low` moves up where retention deletes."""

    entries: list[Entry] = field(default_factory=list)
    undecided: dict[int, Entry] = field(default_factory=dict)
    low: int = 0
    high: int = 0

    def append(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.high = entry.offset + 1
        if entry.decision is Decision.OPEN:
            self.undecided[entry.offset] = entry

    def decide(self, entry: Entry, decision: Decision) -> None:
        entry.decision = decision
        self.undecided.pop(entry.offset, None)

    @property
    def stable(self) -> int:
        return next(iter(self.undecided), self.high)

    def read(self, start: int, end: int) -> Iterator[Entry]:
        """Entries from offset `start` on, before `end`."""
        for place in range(bisect_left(self.entries, start, key=lambda entry: entry.offset), len(self.entries)):
            if self.entries[place].offset >= end:
                break
            yield self.entries[place]


@dataclass(slots=True)
class OpenTransaction:
    """What a producer has begun and not ended."""

    entries: list[tuple[str, int, Entry]] = field(default_factory=list)
    offsets: list[tuple[str, Mapping[tuple[str, int], int]]] = field(default_factory=list)


class MemoryBroker:
    """Topics, transactions and groups."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._topics: dict[str, list[Partition]] = {}
        self._bytes_max: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
        self._open: dict[str, OpenTransaction] = {}
        self._groups: dict[str, Group] = {}
        self._committed: dict[str, dict[tuple[str, int], int]] = {}

    # Topics.

    def create_topic(self, name: str, partitions: int, *, record_bytes_max: int = 1024 * 1024) -> None:
        assert name not in self._topics, f"topic {name} is there already"
        self._topics[name] = [Partition() for _ in range(partitions)]
        self._bytes_max[name] = record_bytes_max

    def produce(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: HeaderList | None = None
    ) -> int:
        """Append outside any transaction; the record's offset."""
        return self._append(topic, partition, key, value, headers, Decision.COMMITTED).offset

    def _append(
        self,
        topic: str,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: HeaderList | None,
        decision: Decision,
    ) -> Entry:
        size = len(key or b"") + len(value or b"")
        if size > self._bytes_max[topic]:
            raise TooLarge(f"{topic}: expected at most {self._bytes_max[topic]} bytes, got {size}")
        if partition is None:
            partition = (murmur2(key or b"") & 0x7FFFFFFF) % len(self._topics[topic])
        place = self._topics[topic][partition]
        record = Record(topic, partition, place.high, self._clock.now(), key, value, headers)
        entry = Entry(place.high, record, decision)
        place.append(entry)
        return entry

    def partitions(self, topic: str) -> int:
        return len(self._topics[topic])

    def ends(self, topic: str, partition: int) -> Ends:
        """First offset, last stable offset, high watermark."""
        place = self._topics[topic][partition]
        return Ends(place.low, place.stable, place.high)

    def read(
        self, topic: str, partition: int, start: int = 0, *, committed: bool = True, limit: int | None = None
    ) -> list[Record]:
        """At most `limit` records from `start` on: committed ones below the last stable offset, or all there are."""
        place = self._topics[topic][partition]
        entries = place.read(start, place.stable if committed else place.high)
        counted = (Decision.COMMITTED,) if committed else tuple(Decision)
        return list(islice((e.record for e in entries if e.record is not None and e.decision in counted), limit))

    def compact(self, topic: str, partition: int, *, keep_tombstones: bool = True) -> int:
        """Drop what a later record of the same key supersedes, below the last stable offset; how many went."""
        place = self._topics[topic][partition]
        stable = place.stable
        last = {
            e.record.key: e.offset
            for e in place.entries
            if e.offset < stable and e.record is not None and e.decision is Decision.COMMITTED
        }

        def stays(entry: Entry) -> bool:
            record = entry.record
            if entry.offset >= stable or record is None:
                return entry.offset >= stable
            superseded = entry.decision is Decision.ABORTED or last[record.key] != entry.offset
            return not superseded and (keep_tombstones or record.value is not None)

        before = len(place.entries)
        place.entries = [entry for entry in place.entries if stays(entry)]
        return before - len(place.entries)

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """What retention does."""
        place = self._topics[topic][partition]
        place.entries = [entry for entry in place.entries if entry.offset >= offset]
        place.low = max(place.low, offset)

    def truncate(self, topic: str, partition: int, offset: int) -> None:
        """What an unclean leader election does: everything from `offset` on is gone."""
        place = self._topics[topic][partition]
        place.entries = [entry for entry in place.entries if entry.offset < offset]
        place.undecided = {at: entry for at, entry in place.undecided.items() if at < offset}
        place.high = min(place.high, offset)

    # Transactions.

    def init_producer(self, transactional_id: str) -> int:
        """A new epoch for this id; what it had open is aborted."""
        self.abort_open(transactional_id)
        self._epochs[transactional_id] = self._epochs.get(transactional_id, -1) + 1
        return self._epochs[transactional_id]

    def abort_open(self, transactional_id: str) -> None:
        """What the broker does with a transaction that timed out; its producer is fenced."""
        if transactional_id in self._open:
            self._end(transactional_id, commit=False)
            self._epochs[transactional_id] += 1

    def begin(self, transactional_id: str, epoch: int) -> None:
        self._expect_epoch(transactional_id, epoch)
        self._open[transactional_id] = OpenTransaction()

    def produce_in(
        self,
        transactional_id: str,
        epoch: int,
        topic: str,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: HeaderList | None,
    ) -> None:
        self._expect_epoch(transactional_id, epoch)
        entry = self._append(topic, partition, key, value, headers, Decision.OPEN)
        assert entry.record is not None
        self._open[transactional_id].entries.append((topic, entry.record.partition, entry))

    def send_offsets(
        self,
        transactional_id: str,
        epoch: int,
        group: str,
        member: tuple[int, str],
        offsets: Mapping[tuple[str, int], int],
    ) -> None:
        """`member` is generation and member id. As Kafka's classic groups: (-1, "") is let through unfenced."""
        self._expect_epoch(transactional_id, epoch)
        if not offsets:
            return
        found = self.group(group)
        if member != (-1, "") and (member[1] not in found.members or member[0] != found.generation):
            raise IllegalGeneration(f"group {group}: expected generation {found.generation}, got {member}")
        self._open[transactional_id].offsets.append((group, dict(offsets)))

    def end(self, transactional_id: str, epoch: int, *, commit: bool) -> None:
        self._expect_epoch(transactional_id, epoch)
        self._end(transactional_id, commit=commit)

    def _end(self, transactional_id: str, *, commit: bool) -> None:
        transaction = self._open.pop(transactional_id)
        decision = Decision.COMMITTED if commit else Decision.ABORTED
        for topic, partition, entry in transaction.entries:
            self._topics[topic][partition].decide(entry, decision)
        for topic, partition in dict.fromkeys((t, p) for t, p, _entry in transaction.entries):
            place = self._topics[topic][partition]
            place.append(Entry(place.high, None, decision))
        for group, offsets in transaction.offsets if commit else ():
            self._committed.setdefault(group, {}).update(offsets)

    def _expect_epoch(self, transactional_id: str, epoch: int) -> None:
        now = self._epochs.get(transactional_id)
        if now != epoch:
            raise ProducerFenced(f"{transactional_id}: expected epoch {now}, got {epoch}")

    # Groups.

    def group(self, name: str) -> Group:
        return self._groups.setdefault(name, Group())

    def committed(self, group: str, topics: Sequence[str], partition: int) -> dict[str, int] | None:
        """Next offset by topic; None while an open transaction covers one of them."""
        for transaction in self._open.values():
            for covered, offsets in transaction.offsets:
                if covered == group and any((topic, partition) in offsets for topic in topics):
                    return None
        found = self._committed.get(group, {})
        return {topic: found[topic, partition] for topic in topics if (topic, partition) in found}

    def set_committed(self, group: str, topic: str, partition: int, offset: int | None) -> None:
        """Change a group's offset from outside, or let it expire (None)."""
        found = self._committed.setdefault(group, {})
        if offset is None:
            found.pop((topic, partition), None)
        else:
            found[topic, partition] = offset

    def expire_member(self, group: str, member: str) -> None:
        """A member was silent past its session: its partitions go to others, and it hears of that when it polls."""
        self.group(group).remove(member)
