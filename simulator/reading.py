"""The reader of a world's topics: what `orchestrator.reading` asks of Kafka, asked of the broker in memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.reader import Batch, Reader
from kompensate.orchestrator.testing import MemoryBroker
from kompensate.schemas.topics import Topics


class MemoryReader(Reader):
    """A Reader without a connection. `follow` does not wait: time goes on elsewhere."""

    def __init__(self, broker: MemoryBroker, names: Topics) -> None:  # instead of Reader's, which connects
        self._broker, self._names = broker, names

    def close(self) -> None:
        """Nothing is held."""

    def topics(self) -> dict[str, int]:
        names = (
            self._names.requests,
            self._names.control,
            self._names.state,
            self._names.history,
            self._names.quarantine,
        )
        return {name: self._broker.partitions(name) for name in names}

    def partitions(self, topic: str) -> int:
        return self._broker.partitions(topic)

    def ends(self, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        return {number: self._broker.ends(topic, number).stable for number in partitions}

    def since(self, topic: str, partitions: Sequence[int], time_ms: int) -> dict[int, int]:
        def first(number: int) -> int:
            young = (r.offset for r in self._broker.read(topic, number) if r.timestamp >= time_ms)
            return next(young, self._broker.ends(topic, number).stable)

        return {number: first(number) for number in partitions}

    def snapshot(
        self, topic: str, partitions: Sequence[int], wanted: Callable[[bytes], bool] | None = None
    ) -> dict[int, dict[bytes, Record]]:
        found: dict[int, dict[bytes, Record]] = {}
        for number in partitions:
            last = found[number] = {}
            for record in self._broker.read(topic, number):
                if record.key is None or (wanted is not None and not wanted(record.key)):
                    continue
                last.pop(record.key, None)
                if record.value is not None:
                    last[record.key] = record
        return found

    def scan(
        self, topic: str, starts: Mapping[int, int], wanted: Callable[[bytes | None], bool] | None = None
    ) -> Iterator[Record]:
        for number, start in starts.items():
            for record in self._broker.read(topic, number, start):
                if wanted is None or wanted(record.key):
                    yield record

    def follow(self, topic: str, starts: Mapping[int, int], wait: float) -> Iterator[Batch]:
        places = dict(starts)
        while True:
            records = [record for number, start in places.items() for record in self._broker.read(topic, number, start)]
            places |= {record.partition: record.offset + 1 for record in records}
            yield Batch(records, frozenset(places))
