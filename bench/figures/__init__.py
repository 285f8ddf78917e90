"""The figures, by name: each a function from the ground to the lines it prints."""

from collections.abc import Callable

from bench.figure import Figure
from bench.figures import history, kernel, local, parked, relay, restore, service, throughput, timers, whole
from bench.ground import Ground

FIGURES: dict[str, Callable[[Ground], list[Figure]]] = {
    "raw": throughput.raw,
    "engine": throughput.engine,
    "kernel": kernel.kernel,
    "local": local.local,
    "service": service.service,
    "end_to_end": whole.end_to_end,
    "latency": whole.latency,
    "relay": relay.relay,
    "relay_debezium": relay.relay_debezium,
    "restore": restore.restore,
    "parked": parked.parked,
    "history": history.history,
    "timers": timers.timers,
}
