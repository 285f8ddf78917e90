"""kernel: transitions a second without Kafka: input record to output records, and what the parts of it cost."""

import gc
import time
from collections.abc import Generator
from statistics import median
from typing import Any

from bench.figure import Figure
from bench.ground import Ground
from bench.sagas import APPLICATION, STEPS
from bench.traffic import RESULT, Drive, fresh
from kompensate.orchestrator.definitions.catalogue import Catalogue
from kompensate.orchestrator.kernel.decide import Execution, decide
from kompensate.orchestrator.kernel.inputs import Origin, ReplyArrived, StartAsked
from kompensate.orchestrator.kernel.state import SagaState

SAGAS = 4_000
BATCH = 2_000
ROUNDS = 5


def kernel(ground: Ground) -> list[Figure]:
    """A whole transition through Partition; decide and evolve alone; `.send()` alone."""
    sagas = ground.sized(SAGAS)
    whole = median(partition_seconds(Drive(fresh()), sagas) for _ in range(ROUNDS))
    decided = median(_decide_seconds(sagas) for _ in range(ROUNDS))
    sent = median(_send_seconds(sagas) for _ in range(ROUNDS))
    note = (
        f"CPU of record in to records out {whole * 1e6:.1f} µs, of it decide and evolve {decided * 1e6:.1f}; "
        f"limit: a bare coroutine's .send(), {sent * 1e6:.2f} µs; medians of {ROUNDS}"
    )
    return [Figure("kernel", 1 / whole, "transitions/s", 1 / sent, sent / whole, note)]


def partition_seconds(drive: Drive, sagas: int) -> float:
    """Seconds a transition takes: handle, output and committed, in batches; making the inputs is not counted."""
    waiting, took, inputs = drive.starts(sagas), 0.0, 0
    gc.collect()
    while waiting:
        batch, waiting = waiting[:BATCH], waiting[BATCH:]
        began = time.thread_time()
        written = drive.batch(batch)
        took += time.thread_time() - began
        inputs += len(batch)
        drive.now += 1
        waiting += drive.replies(written)
    assert inputs == sagas * (STEPS + 1)
    return took / inputs


def _decide_seconds(sagas: int) -> float:
    definition = Catalogue(APPLICATION).find("checkout")
    payload = b'{"order_id":"o1","customer":"c1","quantity":2,"cents":1000}'
    executions = [Execution(SagaState("bench", f"s{n}", f"0.{n}"), definition, lambda: ()) for n in range(sagas)]
    asked = StartAsked(Origin("bench.requests", 0, 1, 1_700_000_000_000), "checkout", payload)
    inputs: list[Any] = [asked] * sagas
    took = 0.0
    gc.collect()
    for step in range(STEPS + 1):
        began = time.thread_time()
        decisions = [decide(execution, input_) for execution, input_ in zip(executions, inputs, strict=True)]
        took += time.thread_time() - began
        if step < STEPS:
            origin = Origin("bench.replies.inventory", 0, step, 1_700_000_000_000 + step)
            sent = [decision.effects[0] for decision in decisions]
            inputs = [ReplyArrived(origin, command.service, command.id, "done", RESULT) for command in sent]
    assert all(execution.state.ended for execution in executions)
    return took / (sagas * (STEPS + 1))


class _Awaited:
    def __await__(self) -> Generator["_Awaited", None, None]:
        yield self


async def _bare(awaited: _Awaited) -> None:
    for _ in range(STEPS):
        await awaited


def _send_seconds(sagas: int) -> float:
    awaited = _Awaited()
    began = time.thread_time()
    for _ in range(sagas):
        coroutine = _bare(awaited)
        try:
            while True:
                coroutine.send(None)
        except StopIteration:
            continue
    return (time.thread_time() - began) / (sagas * (STEPS + 1))
