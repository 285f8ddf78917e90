"""parked: what a transition costs beside 1,000 and beside 200,000 sagas that wait, and what one that waits weighs.

A process each, so that neither heap is the other's: `python -m bench.figures.parked COUNT` prints its measure.
"""

import argparse
import gc
import json
import time
from pathlib import Path
from statistics import median

from bench.figure import Figure
from bench.figures.kernel import partition_seconds
from bench.ground import Ground
from bench.sagas import APPLICATION
from bench.traffic import RESULT, Drive, fresh
from kompensate.orchestrator.kernel.events import Event
from kompensate.orchestrator.kernel.inputs import Origin
from kompensate.orchestrator.kernel.policy import command_id
from kompensate.orchestrator.ports import OutRecord, Record
from kompensate.orchestrator.sagas.journal import Page, block_of, read_page, watermark_value
from kompensate.orchestrator.sagas.partition import Partition
from kompensate.orchestrator.settings import Settings
from kompensate.schemas.topics import PLAN_PREFIX, WATERMARK_PREFIX

FEW, MANY = 1_000, 200_000
SAGAS = 2_000
WOKEN = 500
ROUNDS = 3
PROCESSES = 3
CHUNK = 5_000
BAR = 1.15
RUN_SECONDS = 300.0
PAGE_BYTES = 4096


def parked(ground: Ground) -> list[Figure]:
    """The cost beside many against the cost beside few, taken in turn."""
    many = ground.sized(MANY)
    measured: dict[int, list[dict[str, float]]] = {FEW: [], many: []}
    for _ in range(PROCESSES):
        for count, found in measured.items():
            with ground.child("bench.figures.parked", str(count)) as child:
                found.append(child.result(RUN_SECONDS))
            ground.say(f"parked: beside {count:,}: {found[-1]}")
    few_cost, many_cost = (median(each["transition"] for each in found) for found in measured.values())
    few_wake, many_wake = (median(each["wake"] for each in found) for found in measured.values())
    note = (
        f"CPU of a transition beside {many:,} parked sagas; limit: beside {FEW:,}; ratio: many to few, bar {BAR}; "
        f"{measured[many][0]['bytes']:,.0f} bytes of memory a parked saga; "
        f"waking one for its reply: {many_wake:.0f} µs beside {many:,}, {few_wake:.0f} beside {FEW:,}"
    )
    return [Figure("parked", many_cost, "µs/transition", few_cost, many_cost / few_cost, note)]


def main() -> None:
    """Park so many sagas, as a restore would leave them, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    count = parser.parse_args().count
    drive = Drive(fresh())
    partition = Partition(0, APPLICATION, Settings())
    before = _resident()
    _park(drive, partition, count)
    gc.collect()
    weight = (_resident() - before) / count
    costs = [partition_seconds(drive, SAGAS) for _ in range(ROUNDS)]
    replies = [_reply(drive, number) for number in range(0, count, max(1, count // WOKEN))]
    began = time.thread_time()
    written = drive.batch(replies)
    wake = (time.thread_time() - began) / len(replies)
    assert sum(record.topic.endswith(".commands") for record in written) == len(replies)  # each went on
    assert partition.live == count
    print(json.dumps({"transition": median(costs) * 1e6, "wake": wake * 1e6, "bytes": weight}))


def _park(drive: Drive, partition: Partition, count: int) -> None:
    """Let `partition` restore `count` sagas that wait for their second step's reply, and drive it from now on."""
    state = drive.sagas.topics.state
    started = drive.batch(drive.starts(1))
    written = drive.batch(drive.replies(started))
    model = next(record for record in written if record.topic == state and record.headers)
    plan = next(record for record in started if (record.key or b"").startswith(PLAN_PREFIX.encode()))
    inputs: dict[Origin, list[Event]] = {}
    for recorded in read_page(model.value or b"").events:
        inputs.setdefault(recorded.origin, []).append(recorded.event)
    made = [(block_of(origin, events), len(events)) for origin, events in inputs.items()]
    partition.load([_stored(plan)])
    for first in range(0, count, CHUNK):
        partition.load([_parked(number, model, made) for number in range(first, min(count, first + CHUNK))])
    watermark = watermark_value("bench.0", 1, count, drive.offsets)
    partition.load([Record(state, 0, 0, 0, f"{WATERMARK_PREFIX}0".encode(), watermark, None)])
    partition.loaded(drive.offsets, {})
    drive.partition = partition


def _parked(number: int, model: OutRecord, blocks: list[tuple[bytes, int]]) -> Record:
    """The state record of one more saga that is where `model` is."""
    page = Page(_run(number))
    for block, events in blocks:
        page.append(block, events)
    return _stored(model._replace(key=f"parked-{number}".encode(), value=page.value()))


def _reply(drive: Drive, number: int) -> Record:
    saga_id = f"parked-{number}"
    command = command_id(APPLICATION.name, saga_id, _run(number), 2, "forward", 1)
    headers = drive.sagas.reply_headers(command.encode(), saga_id.encode())
    return drive.record(drive.sagas.topics.replies("payments"), saga_id, RESULT, headers)


def _run(number: int) -> str:
    return f"0.{1_000_000 + number}"


def _stored(written: OutRecord) -> Record:
    """What was written, as it is read back."""
    return Record(written.topic, 0, 0, 0, written.key, written.value, written.headers)


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * PAGE_BYTES


if __name__ == "__main__":
    main()
