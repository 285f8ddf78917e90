"""kernel: what deciding, folding and encoding a transition costs beside a bare coroutine that is stepped and encodes.

Both run one saga after the other, in turn, in this process; so load and clock speed are the same for both.
"""

import gc
import time
from collections.abc import Generator
from statistics import median

from bench.figure import Figure
from bench.ground import Ground
from bench.sagas import APPLICATION, CHECKOUT, STEPS
from bench.traffic import RESULT, Drive, fresh
from kompensate.orchestrator.definitions.catalogue import Catalogue
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.decide import Execution, decide
from kompensate.orchestrator.kernel.effects import SendCommand
from kompensate.orchestrator.kernel.inputs import Input, Origin, ReplyArrived, StartAsked
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.sagas.journal import block_of

SAGAS = 10_000
BATCH = 2_000
ROUNDS = 20
BAR = 0.4
TIME = 1_700_000_000_000
DEFINITION = Catalogue(APPLICATION).find(CHECKOUT.name)
ORDER = b'{"order_id":"o1","customer":"c1","quantity":2,"cents":1000}'


def kernel(ground: Ground) -> list[Figure]:
    """Decide, evolve and encode against `.send()` and encode; a whole transition through Partition in the note."""
    sagas = ground.sized(SAGAS) // ROUNDS
    drive, typical, inputs = Drive(fresh()), _typical(), [_inputs(number) for number in range(sagas)]
    rounds = []
    for _ in range(ROUNDS + 1):
        bare, decided = _bare_seconds(*typical, sagas), _kernel_seconds(inputs)
        rounds.append((bare, decided, bare / decided, partition_seconds(drive, sagas)))
    # Not the first: it finds nothing remembered yet.
    bare, decided, ratio, whole = (median(each) for each in zip(*rounds[1:], strict=True))
    note = (
        f"CPU of decide, evolve and encode {decided * 1e6:.1f} µs a transition; limit: a bare coroutine's .send() and "
        f"encoding a CallSucceeded and a CallMade, {bare * 1e6:.2f} µs; bar {BAR}; record in to records out "
        f"{whole * 1e6:.1f} µs; medians of {ROUNDS} rounds in turn"
    )
    return [Figure("kernel", 1 / decided, "transitions/s", 1 / bare, ratio, note)]


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


def _execution(number: int) -> Execution:
    return Execution(SagaState("bench", f"s{number}", f"0.{number}"), DEFINITION, tuple)


def _inputs(number: int) -> list[Input]:
    """A saga's start and the answers to its commands: their ids are the same whenever it is decided again."""
    execution = _execution(number)
    found: list[Input] = [StartAsked(Origin("bench.requests", 0, number, TIME), "checkout", ORDER)]
    for step in range(STEPS):
        command = decide(execution, found[-1]).effects[0]
        assert isinstance(command, SendCommand)
        origin = Origin("bench.replies.inventory", 0, number, TIME + step)
        found.append(ReplyArrived(origin, command.service, command.id, "done", RESULT))
    return found


def _typical() -> tuple[Origin, list[e.Event]]:
    """A reply, and what it leads to: a call has succeeded and the next one is made."""
    execution, (start, reply, *_) = _execution(0), _inputs(0)
    decide(execution, start)
    return reply.origin, decide(execution, reply).events


def _kernel_seconds(inputs: list[list[Input]]) -> float:
    executions = [_execution(number) for number in range(len(inputs))]
    began = time.thread_time()
    for of_saga in reversed(inputs):
        execution = executions.pop()  # the last one, so that an ended saga is gone
        for input_ in of_saga:
            block_of(input_.origin, decide(execution, input_).events)
    took = time.thread_time() - began
    assert execution.state.ended
    return took / (len(inputs) * (STEPS + 1))


class _Awaited:
    def __await__(self) -> Generator["_Awaited", None, None]:
        yield self


async def _bare(awaited: _Awaited) -> None:
    for _ in range(STEPS):
        await awaited


def _bare_seconds(origin: Origin, events: list[e.Event], sagas: int) -> float:
    awaited = _Awaited()
    began = time.thread_time()
    for _ in range(sagas):
        coroutine = _bare(awaited)
        try:
            while True:
                coroutine.send(None)
                block_of(origin, events)
        except StopIteration:
            block_of(origin, events)
    return (time.thread_time() - began) / (sagas * (STEPS + 1))
