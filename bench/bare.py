"""The limit: the engine's records in and out of Kafka with a dictionary in the kernel's place.

One thread: consume, look the saga up, write a page and a command for each reply, the watermarks and the offsets, in
one transaction a batch. The records are the engine's own in number, size and headers (bench.traffic). Nothing is
checked, kept safe or restored: it is as fast as this client and broker let one Python thread be.
"""

import argparse
import json
import signal
from typing import NamedTuple

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from bench.phases import Phases
from bench.sagas import APPLICATION, STEPS
from bench.traffic import Drive, fresh
from kompensate.orchestrator.ports import OutRecord
from kompensate.orchestrator.settings import Settings
from kompensate.schemas.topics import Topics

BATCH = 2_000
IDLE_SECONDS = 0.02
PRODUCERS = 2


class Written(NamedTuple):
    """What the engine writes for one input of a saga; `tail` is what this input added to the page."""

    tail: bytes
    state: OutRecord
    other: OutRecord
    """The command, or at the end the history's page."""


def script(topics: Topics) -> list[Written]:
    """A saga's records, input by input, from the engine itself."""
    settings = Settings(prefix=topics.prefix)
    drive = Drive(fresh(settings), settings=settings)
    drive.batch(drive.starts(1))  # stores the plan, which later sagas do not
    page = b""
    found = []
    for _, written in drive.run(drive.starts(1), 1):
        state = next(record for record in written[1:] if record.topic == topics.state)
        other = next(record for record in written[1:] if record.topic != topics.state)
        value = other.value if other.topic == topics.history else state.value
        assert value is not None  # a page
        found.append(Written(value[len(page) :], state, other))
        page = value
    assert len(found) == STEPS + 1  # the start and the replies
    return found


class Bare:
    """The loop."""

    def __init__(self, bootstrap: str, topics: Topics) -> None:
        self._topics = topics
        self._script = script(topics)
        inputs = topics.inputs(APPLICATION.services)
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"{topics.prefix}bare",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 5,
                "queued.min.messages": 100_000,
            }
        )
        self._consumer.assign(
            [TopicPartition(topic, number, 0) for topic in inputs for number in range(APPLICATION.partitions)]
        )
        self._producers = [
            Producer(
                {
                    "bootstrap.servers": bootstrap,
                    "transactional.id": f"{topics.prefix}bare.{number}",
                    "retry.backoff.ms": 1,
                    "linger.ms": 1,
                    "batch.num.messages": 10_000,
                    "queue.buffering.max.messages": 1_000_000,
                    "partitioner": "murmur2_random",
                    "delivery.report.only.error": True,
                }
            )
            for number in range(PRODUCERS)
        ]
        for producer in self._producers:
            producer.init_transactions()
        self._sagas: dict[bytes, tuple[int, bytes, bytes]] = {}
        self._commands = 0
        self._stopping = False
        signal.signal(signal.SIGTERM, self._stop)

    def run(self) -> None:
        print(json.dumps({"ready": True}), flush=True)
        transactions = 0
        while not self._stopping:
            messages = self._poll()
            if not messages:
                continue
            producer = self._producers[transactions % PRODUCERS]
            producer.begin_transaction()
            self._watermarks(producer)
            offsets = self._handle(producer, messages)
            self._commit(producer, offsets)
            transactions += 1
        self._consumer.close()

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _poll(self) -> list[Message]:
        return self._consumer.consume(BATCH, IDLE_SECONDS)

    def _commit(self, producer: Producer, offsets: dict[tuple[str, int], int]) -> None:
        positions = [TopicPartition(topic, number, offset + 1) for (topic, number), offset in offsets.items()]
        producer.send_offsets_to_transaction(positions, self._consumer.consumer_group_metadata())
        producer.commit_transaction()

    def _watermarks(self, producer: Producer) -> None:
        for number in range(APPLICATION.partitions):
            producer.produce(self._topics.state, b"w" * 120, b"__wm/%d" % number, number)

    def _handle(self, producer: Producer, messages: list[Message]) -> dict[tuple[str, int], int]:
        sagas, steps, state_topic, produce = self._sagas, self._script, self._topics.state, producer.produce
        offsets = {}
        for message in messages:
            key, partition, headers = message.key(), message.partition(), dict(message.headers())
            offsets[message.topic(), partition] = message.offset()
            step, page, command = sagas.pop(key, (0, b"", None))
            if step and (headers["ce_causationid"] != command or headers["ce_replyoutcome"] != b"done"):
                sagas[key] = step, page, command
                continue  # a reply to a command that was sent again
            tail, state, other = steps[step]
            page += tail
            if step < STEPS:
                self._commands += 1
                command = b"%032x" % self._commands
                sagas[key] = step + 1, page, command
                produce(state_topic, page, key, partition, headers=state.headers)
                sent = [(name, command if name == "ce_id" else value) for name, value in other.headers]
                sent[5] = ("ce_correlationid", key)
                sent[11] = ("ce_replypartition", b"%d" % partition)
                produce(other.topic, other.value, key, headers=sent)
            else:
                produce(state_topic, state.value, key, partition, headers=state.headers)
                produce(other.topic, page, key, partition, headers=other.headers)
        return offsets


def main() -> None:
    """Run until SIGTERM, and print where the time went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--prefix", required=True)
    args = parser.parse_args()
    phases = Phases()
    phases.watch(Bare, "run", "else")
    phases.watch(Bare, "_poll", "poll")
    phases.watch(Bare, "_handle", "handle and produce")
    phases.watch(Bare, "_commit", "commit")
    Bare(args.bootstrap, Topics(APPLICATION.name, args.prefix)).run()
    print(phases.line(), flush=True)


if __name__ == "__main__":
    main()
