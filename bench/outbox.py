"""An outbox for the bench: rows as a service writes them, and a count of the records that a relay has made of them."""

import time
from collections.abc import Callable

import psycopg
from confluent_kafka import Consumer, TopicPartition
from sqlalchemy import create_engine

from bench.ground import BenchError
from kompensate.outbox.tables import create_tables

EACH = 100
"""Rows of a transaction: what a service under load commits at once."""
PARTITIONS = 4
STALLED_SECONDS = 60.0
WATCH_SECONDS = 0.02

_WRITE = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload, partition, ce_id, ce_source, content_type,
  ce_correlationid, ce_causationid, ce_replyoutcome, ce_time, traceparent)
SELECT gen_random_uuid(), %s, 'order-' || n, 'inventory.Reserved',
  convert_to(json_build_object('order_id', n, 'left', n, 'note', repeat('x', 100))::text, 'UTF8'), n %% %s,
  gen_random_uuid()::text, 'kompensate:inventory', 'application/json', 'order-' || n, gen_random_uuid()::text, 'done',
  '2026-01-01T00:00:00.000Z', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'
FROM generate_series(%s::int, %s::int) n
"""


def make(dsn: str) -> None:
    """The tables."""
    engine = create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        create_tables(connection)
    engine.dispose()


def write(dsn: str, topic: str, rows: int, each: int = EACH) -> None:
    """Commit so many rows, `each` a transaction."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for first in range(0, rows, each):
            connection.execute(_WRITE, [topic, PARTITIONS, first, first + min(each, rows - first) - 1])


def one(topic: str, number: int) -> tuple[str, list[object]]:
    """The statement that writes one row, and its parameters."""
    return _WRITE, [topic, PARTITIONS, number, number]


class Topic:
    """How many records a topic has, and when they came."""

    def __init__(self, bootstrap: str, name: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": name, "log_level": "2"})
        self._places = [TopicPartition(name, number) for number in range(PARTITIONS)]

    def count(self) -> int:
        """Records in it now."""
        return sum(self._consumer.get_watermark_offsets(place, 10)[1] for place in self._places)

    def seconds(self, rows: int, act: Callable[[], object]) -> tuple[float, int]:
        """After `act` so many records come: seconds from when the first were seen to when all were, and how many
        between. Raises BenchError where they stop coming."""
        before = self.count()
        act()
        began, first = 0.0, 0
        moved, last = time.perf_counter(), before
        while True:
            count, now = self.count(), time.perf_counter()
            if count > last:
                moved, last = now, count
                if not began:
                    began, first = now, count
            if count >= before + rows:
                return now - began, count - first
            if now - moved > STALLED_SECONDS:
                raise BenchError(f"expected {rows} records, got {count - before} and no more for {STALLED_SECONDS:g} s")
            time.sleep(WATCH_SECONDS)

    def close(self) -> None:
        self._consumer.close()
