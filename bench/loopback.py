"""Stands in for every participant: answers each command at once, without a database, from one process.

Closed loop: it keeps `--window` sagas under way by starting one for each whose last step it has answered, until
`--sagas` were started. The first ones are started little by little, so that they do not march in step: all
would end at once then, and the rate at which they end would say nothing. Prints a line at the end.
"""

import argparse
import json
import time

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.sagas import APPLICATION, CHECKOUT, STEPS
from bench.traffic import RESULT, Sagas
from kompensate.schemas.topics import Topics

LAST_STEP = CHECKOUT.plan.steps[-1].name.encode()
IDLE_SECONDS = 0.02
RAMP = 20
"""A share of the window that is started at once; the rest as answers go out."""


def main() -> None:
    """Serve until every saga's last step was answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--sagas", type=int, required=True)
    parser.add_argument("--window", type=int, required=True)
    args = parser.parse_args()
    Loopback(args.bootstrap, Topics(APPLICATION.name, args.prefix), args.sagas, args.window).run()


class Loopback:
    """Reads the command topics of all services, answers, and starts sagas."""

    def __init__(self, bootstrap: str, topics: Topics, sagas: int, window: int) -> None:
        self._topics = topics
        self._sagas = Sagas(topics)
        self._wanted, self._window = sagas, window
        self._started = self._answered = 0
        self._finished: set[bytes] = set()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"{topics.prefix}loopback",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 5,
                "queued.min.messages": 100_000,
            }
        )
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "linger.ms": 1,
                "batch.num.messages": 10_000,
                "queue.buffering.max.messages": 1_000_000,
                "partitioner": "murmur2_random",
            }
        )

    def run(self) -> None:
        services = [self._topics.commands(service) for service in APPLICATION.services]
        self._consumer.assign(
            [TopicPartition(topic, number, 0) for topic in services for number in range(APPLICATION.partitions)]
        )
        self._fill()
        began = time.process_time()
        while len(self._finished) < self._wanted:
            self._answer()
        self._producer.flush()
        self._consumer.close()
        print(json.dumps({"answered": self._answered, "cpu": time.process_time() - began}), flush=True)

    def _answer(self) -> None:
        messages = self._consumer.consume(10_000, 0) or self._consumer.consume(1, IDLE_SECONDS)
        for message in messages:
            if message.error():
                raise RuntimeError(str(message.error()))
            headers = dict(message.headers())
            saga = message.key()
            self._producer.produce(
                headers["ce_replyto"].decode(),
                RESULT,
                saga,
                int(headers["ce_replypartition"]),
                headers=self._sagas.reply_headers(headers["ce_id"], saga),
            )
            if headers["ce_sagastep"] == LAST_STEP:
                self._finished.add(saga)
        self._answered += len(messages)
        self._fill()
        self._producer.poll(0)

    def _fill(self) -> None:
        allowed = min(self._window, self._window // RAMP + self._answered // STEPS)
        while self._started < min(self._wanted, len(self._finished) + allowed):
            self._start()

    def _start(self) -> None:
        request = self._sagas.start(self._started)
        self._started += 1
        self._producer.produce(self._topics.requests, request.payload, request.saga_id, headers=request.headers())


if __name__ == "__main__":
    main()
