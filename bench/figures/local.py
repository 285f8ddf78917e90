"""local: what a durable local step adds, by the times of its events in the history."""

from uuid import uuid4

from bench.figure import Figure, quantile
from bench.ground import BenchError, Ground
from bench.sagas import APPLICATION, LOCAL_STEPS, Order
from kompensate.orchestrator.client import Client

SAGAS, WARM_UP = 20, 2
BAR = 5.0
READY_SECONDS = 60.0


def local(ground: Ground) -> list[Figure]:
    """From a step's beginning to the next one's: its function, and two halves of a commit each."""
    with ground.topics() as topics:
        common = ("--bootstrap", ground.stack.bootstrap, "--prefix", topics.prefix)
        with ground.child("bench.engine", *common) as worker:
            worker.until(lambda: bool(worker.lines()), "the worker to be ready", READY_SECONDS)
            with Client(ground.stack.bootstrap, APPLICATION.name, prefix=topics.prefix) as client:
                found = [_ms_a_step(client) for _ in range(ground.sized(SAGAS) + WARM_UP)][WARM_UP:]
    p50 = quantile(found, 0.5)
    note = f"p50 of {len(found)} sagas of {LOCAL_STEPS} steps, one at a time; most {max(found):.1f} ms; bar: {BAR:g} ms"
    return [Figure("local", p50, "ms/step", BAR, p50 / BAR, note)]


def _ms_a_step(client: Client) -> float:
    saga_id = f"errands-{uuid4().hex}"
    client.start("errands", Order("o1", "c1", 1, 100), saga_id=saga_id)
    ended = client.result(saga_id, READY_SECONDS)
    if ended.result != LOCAL_STEPS:
        raise BenchError(f"expected saga {saga_id} to have run {LOCAL_STEPS} steps, got {ended.result}")
    times = [recorded.origin.time for page in client.lookup.history(saga_id) for recorded in page.events]
    return (times[-1] - times[0]) / LOCAL_STEPS
