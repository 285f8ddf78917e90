"""A broker in memory: partitions with transactions, consumer groups, compaction. One thread, no network.

As in Kafka: a transaction's records stand in the log from the moment they are produced, and count once its
marker is written; committed readers stop at the first undecided record (the last stable offset); markers
take an offset of their own, so offsets have gaps; initialising a producer ends what its id left open and
fences whoever had the id; offsets inside a transaction are checked against the group's generation. A producer
that asks again for the end that it was given is told so again. Where `slow_markers` says so, a transaction is
decided at once and its markers, and its offsets, come one by one, by `write_marker`.

Unlike Kafka: one replica, no time-outs of its own (`expire_member` and `abort_open` are called by tests), and
every request is answered. A transaction that was ended behind its producer's back begins anew with that one's next
request: brokers before KIP-890 do so, and it is the worst that may happen.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain, count
from typing import NamedTuple

from kompensate.orchestrator.ports import Clock, HeaderList, Record
from kompensate.orchestrator.testing.group import Group
from kompensate.orchestrator.worker.restore import Ends
from kompensate.schemas.topics import murmur2


class ProducerFenced(Exception):
    """Another producer was initialised with this transactional id."""


class IllegalGeneration(Exception):
    """Offsets were sent by one who is no member, or of an older generation."""


class InvalidState(Exception):
    """A transaction is to be ended that is not open, and was not ended like this before."""


class TooLarge(Exception):
    """A record is larger than its topic's limit."""


class Decision(Enum):
    OPEN = auto()
    COMMITTED = auto()
    ABORTED = auto()


_COMMITTED = Decision.COMMITTED


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

    def read(self, start: int, end: int, limit: int, *, committed: bool) -> list[Record]:
        """At most `limit` records from offset `start` on, before `end`: committed ones, or all there are."""
        found: list[Record] = []
        if limit <= 0 or start >= end:
            return found
        entries = self.entries
        for place in range(self._index(start), len(entries)):
            entry = entries[place]
            if entry.offset >= end:
                break
            if entry.record is not None and (not committed or entry.decision is _COMMITTED):
                found.append(entry.record)
                if len(found) == limit:
                    break
        return found

    def _index(self, start: int) -> int:
        """Where the first entry from `start` on stands."""
        entries = self.entries
        if entries:
            place = start - entries[0].offset
            if 0 <= place < len(entries) and entries[place].offset == start:
                return place  # nothing before it was compacted
        return bisect_left(entries, start, key=lambda entry: entry.offset)


class Offsets(NamedTuple):
    """A group's offsets in a transaction; `order` is their place in the group's log."""

    group: str
    offsets: Mapping[tuple[str, int], int]
    order: int


@dataclass(slots=True)
class OpenTransaction:
    """What a producer has begun and not ended."""

    entries: list[tuple[str, int, Entry]] = field(default_factory=list)
    offsets: list[Offsets] = field(default_factory=list)


@dataclass(slots=True)
class Decided:
    """A transaction whose outcome stands, and what is still to be told of it: partitions, and whether its offsets."""

    decision: Decision
    entries: dict[tuple[str, int], list[Entry]]
    offsets: list[Offsets]


class MemoryBroker:
    """Topics, transactions and groups.

    `on_append` is told of every record written outside a transaction, `on_commit` of each committed transaction
    (its records, and its offsets by group) at the moment of its decision.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.slow_markers: Callable[[str], bool] = lambda _id: False
        self.on_append: Callable[[Record], None] = lambda _record: None
        self.on_commit: Callable[[list[Record], list[Offsets]], None] = lambda _records, _offsets: None
        self._decided: dict[str, Decided] = {}
        self._counter = count(1)
        self._orders: dict[str, dict[tuple[str, int], int]] = {}
        self._last_ends: dict[str, tuple[int, bool]] = {}
        self._topics: dict[str, list[Partition]] = {}
        self._bytes_max: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
        self._open: dict[str, OpenTransaction] = {}
        self._groups: dict[str, Group] = {}
        self._committed: dict[str, dict[tuple[str, int], int]] = {}

    def close(self) -> None:
        """Every record is gone."""
        self._topics.clear()

    # Topics.

    def create_topic(self, name: str, partitions: int, *, record_bytes_max: int = 1024 * 1024) -> None:
        assert name not in self._topics, f"topic {name} is there already"
        self._topics[name] = [Partition() for _ in range(partitions)]
        self._bytes_max[name] = record_bytes_max

    def add_partition(self, name: str) -> None:
        """One more: keys are spread anew. Groups hear of it at their next rebalance."""
        self._topics[name].append(Partition())

    def produce(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: HeaderList | None = None
    ) -> int:
        """Append outside any transaction; the record's offset."""
        entry = self._append(topic, partition, key, value, headers, Decision.COMMITTED)
        assert entry.record is not None
        self.on_append(entry.record)
        return entry.offset

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

    def low(self, topic: str, partition: int) -> int:
        """The first offset."""
        return self._topics[topic][partition].low

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
        if start >= place.high:
            return []
        end = place.stable if committed else place.high
        return place.read(start, end, len(place.entries) if limit is None else limit, committed=committed)

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

    def truncate(self, topic: str, partition: int, offset: int) -> None:
        """What an unclean leader election does: everything from `offset` on is gone."""
        place = self._topics[topic][partition]
        place.entries = [entry for entry in place.entries if entry.offset < offset]
        place.undecided = {at: entry for at, entry in place.undecided.items() if at < offset}
        place.high = min(place.high, offset)

    # Transactions.

    def init_producer(self, transactional_id: str) -> int:
        """A new epoch for this id; what it had open is aborted."""
        self._finish(transactional_id)
        self.abort_open(transactional_id)
        self._finish(transactional_id)
        self._epochs[transactional_id] = self._epochs.get(transactional_id, -1) + 1
        return self._epochs[transactional_id]

    def abort_open(self, transactional_id: str) -> None:
        """What the broker does with a transaction that timed out; its producer is fenced."""
        if transactional_id in self._open:
            self._end(transactional_id, commit=False)
            self._epochs[transactional_id] += 1

    def begin(self, transactional_id: str, epoch: int) -> None:
        self._expect_epoch(transactional_id, epoch)
        self._finish(transactional_id)
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
        self._opened(transactional_id).entries.append((topic, entry.record.partition, entry))

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
        self._opened(transactional_id).offsets.append(Offsets(group, dict(offsets), next(self._counter)))

    def end(self, transactional_id: str, epoch: int, *, commit: bool) -> None:
        """Raises InvalidState where nothing is open and this is not the end that it was given last."""
        self._expect_epoch(transactional_id, epoch)
        if transactional_id in self._open:
            self._end(transactional_id, commit=commit)
            self._last_ends[transactional_id] = epoch, commit
        elif self._last_ends.get(transactional_id) != (epoch, commit):
            raise InvalidState(f"{transactional_id}: expected an open transaction to end, got none")

    def is_open(self, transactional_id: str) -> bool:
        """Has this id an open transaction?"""
        return transactional_id in self._open

    def _opened(self, transactional_id: str) -> OpenTransaction:
        found = self._open.get(transactional_id)
        if found is None:
            self._finish(transactional_id)
            found = self._open[transactional_id] = OpenTransaction()
        return found

    def _end(self, transactional_id: str, *, commit: bool) -> None:
        transaction = self._open.pop(transactional_id)
        entries: dict[tuple[str, int], list[Entry]] = {}
        for topic, partition, entry in transaction.entries:
            entries.setdefault((topic, partition), []).append(entry)
        decision = Decision.COMMITTED if commit else Decision.ABORTED
        offsets = transaction.offsets if commit else []
        if entries or offsets:  # one that wrote nothing has no markers
            self._decided[transactional_id] = Decided(decision, entries, offsets)
        if commit:
            written = [entry.record for _topic, _partition, entry in transaction.entries if entry.record is not None]
            self.on_commit(written, transaction.offsets)
        if not self.slow_markers(transactional_id):
            self._finish(transactional_id)

    # Markers.

    def undelivered(self) -> dict[str, int]:
        """Ids of decided transactions with markers still to be written, and how many."""
        return {id_: len(found.entries) + bool(found.offsets) for id_, found in self._decided.items()}

    def write_marker(self, transactional_id: str, place: int = 0) -> None:
        """Write one of its markers, the `place`-th of those that are left; the last is the group's offsets."""
        found = self._decided[transactional_id]
        if place < len(found.entries):
            where = list(found.entries)[place]
            self._mark(where, found.entries.pop(where), found.decision)
        else:
            self._apply(found)
        if not found.entries and not found.offsets:
            del self._decided[transactional_id]

    def _finish(self, transactional_id: str) -> None:
        """Write what is left of its markers: nothing new begins under this id before."""
        found = self._decided.pop(transactional_id, None)
        if found is None:
            return
        for where, entries in found.entries.items():
            self._mark(where, entries, found.decision)
        self._apply(found)

    def _apply(self, found: Decided) -> None:
        """The group learns its offsets: by their order in its log, which may not be that of the markers."""
        for group, offsets, order in found.offsets:
            committed, orders = self._committed.setdefault(group, {}), self._orders.setdefault(group, {})
            for place, offset in offsets.items():
                if orders.get(place, 0) < order:
                    committed[place], orders[place] = offset, order
        found.offsets = []

    def _mark(self, where: tuple[str, int], entries: list[Entry], decision: Decision) -> None:
        place = self._topics[where[0]][where[1]]
        for entry in entries:
            place.decide(entry, decision)
        place.append(Entry(place.high, None, decision))

    def _expect_epoch(self, transactional_id: str, epoch: int) -> None:
        now = self._epochs.get(transactional_id)
        if now != epoch:
            raise ProducerFenced(f"{transactional_id}: expected epoch {now}, got {epoch}")

    # Groups.

    def group(self, name: str) -> Group:
        found = self._groups.get(name)
        if found is None:
            found = self._groups[name] = Group()
        return found

    def committed(self, group: str, topics: Sequence[str], partition: int) -> dict[str, int] | None:
        """Next offset by topic; None while an open transaction covers one of them."""
        pending = [found.offsets for found in self._open.values()] + [found.offsets for found in self._decided.values()]
        for covered, offsets, _order in chain.from_iterable(pending):
            if covered == group and any((topic, partition) in offsets for topic in topics):
                return None
        found = self._committed.get(group, {})
        return {topic: found[topic, partition] for topic in topics if (topic, partition) in found}

    def set_committed(self, group: str, topic: str, partition: int, offset: int | None) -> None:
        """Change a group's offset from outside, or let it expire (None)."""
        found = self._committed.setdefault(group, {})
        self._orders.setdefault(group, {})[topic, partition] = next(self._counter)
        if offset is None:
            found.pop((topic, partition), None)
        else:
            found[topic, partition] = offset

    def expire_member(self, group: str, member: str) -> None:
        """A member was silent past its session: its partitions go to others, and it hears of that when it polls."""
        self.group(group).remove(member)
