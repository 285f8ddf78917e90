"""When sagas ended, read from the history topic after a run: so counting costs the run nothing.

A saga of the bench has one page, which goes to the history in the transaction that ends it; the broker stamps the time.
"""

import time
from collections.abc import Sequence

from confluent_kafka import Consumer, TopicPartition

from bench.ground import BenchError
from bench.sagas import APPLICATION
from kompensate.schemas.topics import Topics

READ_SECONDS = 60.0


def reader(bootstrap: str, topics: Topics) -> Consumer:
    """A consumer of the whole history topic, committed records only."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{topics.prefix}endings",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 5,
        }
    )
    consumer.assign([TopicPartition(topics.history, number, 0) for number in range(APPLICATION.partitions)])
    return consumer


def endings(bootstrap: str, topics: Topics, sagas: int) -> list[float]:
    """When each of so many sagas ended, in seconds, the first one first. Raises BenchError where some have not."""
    consumer = reader(bootstrap, topics)
    found: dict[bytes, float] = {}
    deadline = time.monotonic() + READ_SECONDS
    while len(found) < sagas:
        if time.monotonic() > deadline:
            raise BenchError(f"expected {sagas} sagas to have ended within {READ_SECONDS:g} s, got {len(found)}")
        for message in consumer.consume(10_000, 0.1):
            found.setdefault(message.key(), message.timestamp()[1] / 1000)
    consumer.close()
    return sorted(found.values())


def sagas_per_second(times: Sequence[float], window: int) -> float:
    """The rate at which sagas ended while a whole window of them was under way: not at first, nor at the end."""
    begin, end = times[2 * window], times[-window]
    return sum(begin < time <= end for time in times) / (end - begin)
