"""What the topics themselves say of the sagas: read by a plain consumer, with no part of the engine.

The state topic's record under a saga's id carries a text header `kompensate`: run, events, due, status, hold,
definition. That is all that is needed to know where every saga stands, and the records' times tell when.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from kompensate.schemas.topics import Topics

ENDS = frozenset({"completed", "compensated", "cancelled", "failed"})
STATE_HEADER = "kompensate"
TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A saga as its newest record shows it; `at` is that record's time in ms since the epoch."""

    status: str
    hold: str
    at: int

    @property
    def ended(self) -> bool:
        return self.status in ENDS


class StateReader:
    """Follows the state topic from its beginning, as far as it is committed."""

    def __init__(self, bootstrap: str, topics: Topics) -> None:
        self.sagas: dict[str, Seen] = {}
        self.commits: dict[int, list[int]] = {}
        """By partition: when something was committed there, in ms since the epoch, ascending."""
        self.ended = 0
        self._consumer, self._partitions = _open(bootstrap, topics.state)

    @classmethod
    def of_all(cls, bootstrap: str, topics: Topics) -> "StateReader":
        """A reader that has taken in everything that is committed now, and is closed. Raises TimeoutError."""
        reader = cls(bootstrap, topics)
        try:
            for message in _to_end(reader._consumer, topics.state, reader._partitions):
                reader._take(message)
        finally:
            reader.close()
        return reader

    def read(self, seconds: float) -> None:
        """Take in what comes, for at most `seconds`."""
        first = self._consumer.poll(seconds)
        if first is not None:
            for message in (first, *self._consumer.consume(10_000, 0)):
                self._take(message)

    def close(self) -> None:
        self._consumer.close()

    def _take(self, message: Message) -> None:
        if message.error() is not None:
            return
        key, at = (message.key() or b"").decode(errors="replace"), message.timestamp()[1]
        self.commits.setdefault(message.partition() or 0, []).append(at)
        if key.startswith("__") or "/" in key:
            return  # watermarks, plans, later pages
        header = dict(message.headers() or ()).get(STATE_HEADER)
        if message.value() is None or header is None:
            self.sagas.pop(key, None)
            return
        text = header.decode() if isinstance(header, bytes) else header
        _run, _events, _due, status, hold, *_ = text.split(" ")
        known = self.sagas.get(key)
        self.sagas[key] = Seen(status, hold, at)
        self.ended += (status in ENDS) - (known is not None and known.ended)


def request_times(bootstrap: str, topics: Topics) -> dict[str, int]:
    """When the broker took the first request about each saga: ms since the epoch by saga id."""
    consumer, partitions = _open(bootstrap, topics.requests)
    try:
        times: dict[str, int] = {}
        for message in _to_end(consumer, topics.requests, partitions):
            times.setdefault((message.key() or b"").decode(errors="replace"), message.timestamp()[1])
        return times
    finally:
        consumer.close()


def _open(bootstrap: str, topic: str) -> tuple[Consumer, int]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "checkout-reader",  # asked for by the library; nothing is ever committed
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    partitions = len(consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    return consumer, partitions


def _to_end(consumer: Consumer, topic: str, partitions: int) -> Iterator[Message]:
    """The committed records of a topic that was just opened, up to where it ends. Raises TimeoutError."""
    unread = set(range(partitions))
    while unread:
        message = consumer.poll(TIMEOUT_SECONDS)
        if message is None:
            raise TimeoutError(
                f"topic {topic}: expected records or the end of partitions {sorted(unread)}, got nothing for "
                f"{TIMEOUT_SECONDS:g} s"
            )
        error = message.error()
        if error is None:
            yield message
        elif error.code() == KafkaError._PARTITION_EOF:
            unread.discard(message.partition() or 0)
