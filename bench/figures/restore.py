"""restore: events a second from a state partition that was not compacted yet, against plain consumption of it."""

import gc
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from bench.figure import Figure
from bench.ground import Ground
from bench.sagas import APPLICATION
from bench.traffic import Drive, fresh
from kompensate.orchestrator.kafka.options import client_options
from kompensate.orchestrator.kafka.state import KafkaState
from kompensate.orchestrator.main import SystemClock
from kompensate.orchestrator.ports import OutRecord
from kompensate.orchestrator.sagas.journal import watermark_writer
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.topics import group_of
from kompensate.orchestrator.worker.restore import take_over
from kompensate.schemas.topics import Topics

ENDED, WAITING = 14_000, 2_000
"""Sagas of the partition: all their records stay below one segment, which is never compacted."""
EVENTS_OF_ENDED, EVENTS_OF_WAITING = 10, 4
BATCH = 2_000
ROUNDS = 5
BAR = 0.5
WAIT_SECONDS = 0.002
CHUNK = 5_000
QUESTION_SECONDS = 10.0


def restore(ground: Ground) -> list[Figure]:
    """Both in turn, over the same records; a take-over is counted whole, with its questions to the broker."""
    ended, waiting = ground.sized(ENDED), ground.sized(WAITING)
    events = ended * EVENTS_OF_ENDED + waiting * EVENTS_OF_WAITING
    with ground.topics() as topics:
        settings = Settings(bootstrap=ground.stack.bootstrap, prefix=topics.prefix)
        ground.say(f"writing the state of {ended + waiting:,} sagas")
        records = _write(settings, topics, ended, waiting)
        pairs = []
        for _ in range(ROUNDS):
            pairs.append((_plain_seconds(settings, topics), _restore_seconds(settings, topics, waiting)))
            ground.say(f"restore: plain {pairs[-1][0]:.2f} s, restore {pairs[-1][1]:.2f} s")
    plain, took = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
    note = (
        f"{events:,} events in {records:,} records, restored to {waiting:,} waiting and {ended:,} ended sagas in "
        f"{took:.2f} s, with its questions to the broker; limit: a plain consumer that reads key, value and headers of "
        f"the same records into a dictionary, {plain:.2f} s; bar {BAR}; medians of {ROUNDS}"
    )
    return [Figure("restore", events / took, "events/s", events / plain, plain / took, note)]


def _write(settings: Settings, topics: Topics, ended: int, waiting: int) -> int:
    """Fill state partition 0 as a worker would, and commit the group's offsets. Returns the count of records."""
    producer = Producer(
        {
            **client_options(settings, {"partitioner": "murmur2_random", "linger.ms": 5}),
            "transactional.id": f"{group_of(APPLICATION, settings)}.bench.0",
        }
    )
    producer.init_transactions()
    drive = Drive(fresh(settings), settings=settings)
    records = 0
    for _, written in drive.run(drive.starts(ended), BATCH):
        records += _commit(producer, drive, topics, written)
    started = drive.batch(drive.starts(waiting))
    records += _commit(producer, drive, topics, started)
    records += _commit(producer, drive, topics, drive.batch(drive.replies(started)))
    return records


def _commit(producer: Producer, drive: Drive, topics: Topics, written: Sequence[OutRecord]) -> int:
    state = [record for record in written if record.topic == topics.state]
    producer.begin_transaction()
    for record in state:
        producer.produce(record.topic, record.value, record.key, drive.partition.number, headers=record.headers)
    member = Consumer(
        {"bootstrap.servers": drive.settings.bootstrap, "group.id": group_of(APPLICATION, drive.settings)}
    )
    positions = [TopicPartition(topic, drive.partition.number, offset) for topic, offset in drive.offsets.items()]
    producer.send_offsets_to_transaction(positions, member.consumer_group_metadata())
    producer.commit_transaction()
    member.close()
    return len(state)


def _plain_seconds(settings: Settings, topics: Topics) -> float:
    """Reading the partition, committed records only, into a dictionary."""
    gc.collect()
    began = time.perf_counter()
    consumer = Consumer(
        {
            "bootstrap.servers": settings.bootstrap,
            "group.id": f"{topics.prefix}plain",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.list_topics(topics.state, QUESTION_SECONDS)  # else assign() waits for the client to hear of the topic
    consumer.assign([TopicPartition(topics.state, 0, 0)])
    last: dict[bytes, tuple[object, object]] = {}
    ended = False
    while not ended:
        for message in consumer.consume(CHUNK, WAIT_SECONDS):
            error = message.error()
            if error is None:
                last[message.key()] = message.value(), message.headers()
            elif error.code() == KafkaError._PARTITION_EOF:
                ended = True
            else:
                raise RuntimeError(str(error))
    took = time.perf_counter() - began
    consumer.close()
    return took


def _restore_seconds(settings: Settings, topics: Topics, waiting: int) -> float:
    """A take-over as the worker's loop steps it, to a partition that runs."""
    gc.collect()
    began = time.perf_counter()
    inputs = topics.inputs(APPLICATION.services)
    source = KafkaState(
        settings,
        group_of(APPLICATION, settings),
        topics.state,
        inputs,
        0,
        admin=AdminClient(client_options(settings, {})),
        siblings=lambda _writer: [],
        writer_of=watermark_writer,
    )
    partition = Partition(0, APPLICATION, settings)
    with ThreadPoolExecutor(1) as threads:
        takeover = take_over(source, topics.requests, settings=settings, clock=SystemClock(), spawn=threads.submit)
        for batch in takeover.records:
            if batch:
                partition.load(batch)
            elif batch is None:
                time.sleep(WAIT_SECONDS)
        partition.loaded(takeover.committed, takeover.beginning)
    took = time.perf_counter() - began
    assert partition.live == waiting
    return took
