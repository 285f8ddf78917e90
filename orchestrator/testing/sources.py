"""An intake's view of the broker in memory: a Sources. It runs through the same transactions as Kafka's."""

from collections.abc import Callable, Mapping, Sequence

from kompensate.orchestrator.errors import Fenced
from kompensate.orchestrator.ports import Clock, OutRecord, Record
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing.broker import MemoryBroker
from kompensate.orchestrator.testing.log import MemoryProducer
from kompensate.orchestrator.worker.transactions import Producer, Transactions


class MemorySources:
    """Arguments as KafkaSources'; a topic without an offset begins at its first record.

    A group of the broker counts partitions of one topic: here they are numbered through all topics.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        settings: Settings,
        *,
        group: str,
        slot: str,
        topics: Sequence[str],
        clock: Clock,
        producer: Callable[[MemoryBroker, str, str], Producer] | None = None,
    ) -> None:
        """`producer` makes other producers than MemoryProducer, of the same arguments."""
        self._broker, self._group, self._clock = broker, group, clock
        self._producer = producer or MemoryProducer
        self._idle_seconds = settings.idle_poll_seconds
        self._places = [(topic, number) for topic in topics for number in range(broker.partitions(topic))]
        self._committed: dict[tuple[str, int], int] = {}
        self._read: dict[tuple[str, int], int] = {}
        self._fresh: set[tuple[str, int]] = set()
        self._generation = -1
        ids = [f"{group}.{slot}.{k}" for k in range(2)]
        self._transactions = Transactions(ids, self._producers, settings, clock)
        self._transactions.open()
        self.member = broker.group(group).join(len(self._places))

    def _producers(self, ids: Sequence[str]) -> list[Producer]:
        return [self._producer(self._broker, id_, self._group) for id_ in ids]

    def poll(self, records_max: int, timeout: float) -> Sequence[Record]:
        """Does not wait; `timeout`, or less by the settings, is spent on the clock where nothing is there."""
        timeout = min(timeout, self._idle_seconds)
        told = self._broker.group(self._group).poll(self.member)
        if told is None:
            raise Fenced(f"member {self.member} was expelled")
        self._generation = told.generation
        for number in told.revoked:
            place = self._places[number]
            self._fresh.discard(place)
            self._committed.pop(place, None)
            self._read.pop(place, None)
        self._fresh |= {self._places[number] for number in told.assigned}
        self._take_over()
        records: list[Record] = []
        for topic, partition in self._read:
            found_here = self._broker.read(
                topic, partition, self._read[topic, partition], limit=records_max - len(records)
            )
            if found_here:
                self._read[topic, partition] = found_here[-1].offset + 1
                records += found_here
        if not records and timeout > 0:
            self._clock.sleep(timeout)
        return records

    def _take_over(self) -> None:
        """Read what was newly assigned from where its former owner left it, once that is certain."""
        for place in [place for place in self._places if place in self._fresh]:
            topic, partition = place
            found = self._broker.committed(self._group, [topic], partition)
            if found is not None:  # else an open transaction holds its offset
                self._fresh.discard(place)
                self._committed[place] = self._read[place] = found.get(topic, self._broker.ends(topic, partition).low)

    def commit(self, records: Sequence[OutRecord], offsets: Mapping[tuple[str, int], int]) -> None:
        stray = offsets.keys() - self._committed.keys()
        if stray or not offsets:
            raise Fenced(f"a commit for {sorted(stray)}: expected to own them")
        self._transactions.commit(records, offsets, (self._generation, self.member))
        self._committed.update(offsets)

    @property
    def unread(self) -> bool:
        """Are there records that no poll has brought, or of which that is not known yet?"""
        return bool(self._fresh) or any(
            self._broker.read(*place, position, limit=1) for place, position in self._read.items()
        )

    def rewind(self) -> None:
        self._read = dict(self._committed)

    def close(self) -> None:
        self._transactions.close()
        self._broker.group(self._group).remove(self.member)
