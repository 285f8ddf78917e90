"""The worker as it is, in a process of its own, with its loop's time told apart by phase. Ends on SIGTERM.

Prints a line when it runs all partitions, and at its end one with what the loop's thread spent since then.
"""

import argparse
import json
import logging
import threading
import time

from bench.phases import Phases
from bench.sagas import APPLICATION
from kompensate.orchestrator.kafka.log import KafkaLog
from kompensate.orchestrator.kafka.producer import KafkaProducer
from kompensate.orchestrator.main import Worker
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.worker.loop import Loop

WAIT_SECONDS = 0.01


def main() -> None:
    """Run a worker until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--prefix", required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    phases = Phases()
    phases.watch(Loop, "step", "else")
    phases.watch(Loop, "_handle", "handle")
    phases.watch(KafkaLog, "poll", "poll")
    phases.watch(Partition, "output", "output")
    phases.watch(KafkaProducer, "produce", "produce")
    phases.watch(KafkaProducer, "send_offsets", "offsets")
    phases.watch(KafkaProducer, "commit", "commit")
    worker = Worker(APPLICATION, Settings(bootstrap=args.bootstrap, prefix=args.prefix))
    threading.Thread(target=_tell_ready, args=(worker, phases), daemon=True).start()
    worker.run()
    print(phases.line(), flush=True)


def _tell_ready(worker: Worker, phases: Phases) -> None:
    while len(worker.health().running) < APPLICATION.partitions:
        time.sleep(WAIT_SECONDS)
    phases.clear()
    print(json.dumps({"ready": True}), flush=True)


if __name__ == "__main__":
    main()
