"""The records of one saga of the bench, taken from a Partition: what the bare loop has to read and write.

So the bare loop's records are the engine's in number, size and headers, whatever the engine writes today.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.sagas import APPLICATION, CHECKOUT
from kompensate.orchestrator.ports import OutRecord, Record
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.settings import Settings
from kompensate.outbox.tables import HEADER_COLUMNS
from kompensate.schemas.messages import JSON, SPEC_VERSION, START, Command, Header, Request
from kompensate.schemas.topics import Topics, partition_of

SOURCE = "kompensate:bench"
RESULT = b'{"done":true,"number":1234567}'


@dataclass(slots=True)
class Sagas:
    """Starts of sagas `<prefix>0`, `<prefix>1`, …, and the replies that lead each to its end."""

    topics: Topics
    prefix: str = "saga-"
    _replies: int = 0

    def start(self, number: int) -> Request:
        """The request that starts a saga."""
        payload = b'{"order_id":"%s%d","customer":"c%d","quantity":2,"cents":%d}'
        return Request(
            id=f"r{number}",
            type=START,
            saga_id=f"{self.prefix}{number}",
            source=SOURCE,
            saga_type=CHECKOUT.name,
            payload=payload % (self.prefix.encode(), number, number % 997, 1_000 + number % 9_000),
        )

    def reply_headers(self, causation: bytes, saga: bytes) -> list[Header]:
        """The headers of a reply as the relays make them: each column of the outbox, NULL or not."""
        self._replies += 1
        id_ = b"0190f3c2-7a1e-7000-8000-%012x" % self._replies
        varying = {"ce_id": id_, "ce_correlationid": saga, "ce_causationid": causation}
        return [("id", id_), *[(name, varying.get(name, value)) for name, value in _REPLY]]


_CONSTANT = {
    "ce_specversion": SPEC_VERSION.encode(),
    "ce_source": SOURCE.encode(),
    "ce_type": b"inventory.Reserved",
    "content-type": JSON.encode(),
    "ce_replyoutcome": b"done",
}
_REPLY = [(header, _CONSTANT.get(header)) for _, header in HEADER_COLUMNS]


class Drive:
    """A Partition with its inputs made here: for figures without Kafka.

    `now` is the inputs' timestamp, ms since the epoch; it moves by a millisecond a batch. `partition` may be exchanged:
    offsets and sagas' numbers go on.
    """

    def __init__(self, partition: Partition, prefix: str = "saga-", settings: Settings | None = None) -> None:
        self.partition = partition
        self.settings = settings or Settings()
        self.sagas = Sagas(Topics(APPLICATION.name, self.settings.prefix), prefix)
        self.now = 1_700_000_000_000
        self.offsets: dict[str, int] = {}
        """The inputs' next offsets after the last batch."""
        self._written: dict[str, int] = {}
        self._next = 0

    def starts(self, count: int) -> list[Record]:
        """Inputs that start `count` new sagas, all of them on this partition."""
        found: list[Record] = []
        while len(found) < count:
            request = self.sagas.start(self._next)
            self._next += 1
            if partition_of(request.saga_id, APPLICATION.partitions) == self.partition.number:
                found.append(
                    self.record(self.sagas.topics.requests, request.saga_id, request.payload, request.headers())
                )
        return found

    def replies(self, written: list[OutRecord]) -> list[Record]:
        """The answers, all done, to the commands among `written`."""
        found = []
        for record in written:
            if record.topic.endswith(".commands"):
                command = Command.parse(record.headers, record.value)
                headers = self.sagas.reply_headers(command.id.encode(), command.saga_id.encode())
                found.append(self.record(command.reply_to, command.saga_id, RESULT, headers))
        return found

    def batch(self, inputs: list[Record]) -> list[OutRecord]:
        """Handle one batch, and commit it."""
        for record in inputs:
            self.partition.handle(record)
        written, self.offsets = self.partition.output("bench.0")
        self.partition.committed()
        return written

    def run(self, waiting: list[Record], batch: int) -> Iterator[tuple[list[Record], list[OutRecord]]]:
        """Handle inputs, and the replies they lead to, in batches of `batch`; yields each and what it wrote."""
        while waiting:
            inputs, waiting = waiting[:batch], waiting[batch:]
            written = self.batch(inputs)
            yield inputs, written
            self.now += 1
            waiting += self.replies(written)

    def record(self, topic: str, key: str, value: bytes | None, headers: list[Header]) -> Record:
        offset = self._written.get(topic, 0)
        self._written[topic] = offset + 1
        return Record(topic, self.partition.number, offset, self.now, key.encode(), value, headers)


def fresh(settings: Settings | None = None) -> Partition:
    """Partition 0, empty and running."""
    partition = Partition(0, APPLICATION, settings or Settings())
    partition.load([])
    partition.loaded({}, {})
    return partition
