"""Starts sagas and waits for their ends, as a client sees them: `--window` under way at a time, `--sagas` in all.

Prints a line at the end with the seconds from asking for each saga to reading that it has ended, as committed, in the
history topic.
"""

import argparse
import json
import time

from confluent_kafka import Producer

from bench.endings import reader
from bench.sagas import APPLICATION
from bench.traffic import Sagas
from kompensate.schemas.topics import Topics

IDLE_SECONDS = 0.5
STALLED_SECONDS = 60.0


def main() -> None:
    """Run the load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--sagas", type=int, required=True)
    parser.add_argument("--window", type=int, required=True)
    args = parser.parse_args()
    topics = Topics(APPLICATION.name, args.prefix)
    print(json.dumps({"seconds": run(args.bootstrap, topics, args.sagas, args.window)}), flush=True)


def run(bootstrap: str, topics: Topics, sagas: int, window: int) -> list[float]:
    """Seconds of each saga, in the order of their ends. Raises TimeoutError where they stop ending."""
    history = reader(bootstrap, topics)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "partitioner": "murmur2_random"})
    made = Sagas(topics)
    asked: dict[bytes, float] = {}
    seconds: list[float] = []
    started = 0
    moved = time.monotonic()
    while len(seconds) < sagas:
        while len(asked) < window and started < sagas:
            request = made.start(started)
            started += 1
            asked[request.saga_id.encode()] = time.perf_counter()
            producer.produce(topics.requests, request.payload, request.saga_id, headers=request.headers())
        producer.poll(0)
        for message in history.consume(1, IDLE_SECONDS) + history.consume(1_000, 0):
            if message.key() in asked:
                seconds.append(time.perf_counter() - asked.pop(message.key()))
                moved = time.monotonic()
        if time.monotonic() - moved > STALLED_SECONDS:
            raise TimeoutError(f"no saga ended for {STALLED_SECONDS:g} s: {len(seconds)} of {sagas} did")
    history.close()
    return seconds


if __name__ == "__main__":
    main()
