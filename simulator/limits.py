"""I12: where a call goes out under a limit, its worker then has no more out than the limit says.

What undoes a call is left out of the count: it takes room, and waits for none.
"""

from typing import TYPE_CHECKING

from kompensate.orchestrator.kernel.tables import CallStatus
from kompensate.orchestrator.sagas.rooms import line_of
from kompensate.simulator.violation import expect

if TYPE_CHECKING:
    from kompensate.simulator.run import Run


def check(run: "Run") -> None:
    """After each transaction. Raises Violation."""
    for number, name, line in run.ledger.admitted:
        limit, mine = run.world.application.limits[name], run.running_with(number)
        if limit.concurrent is None:
            continue
        out = [
            f"{saga_id}/{call.made.number}"
            for saga_id, shadow in run.ledger.live.items()
            if shadow.state.limited and run.ledger.partition_of(saga_id) in mine
            for call in shadow.state.limited.values()
            if line_of(call) == line and call.status is CallStatus.SENT
        ]
        expect(
            len(out) <= limit.concurrent,
            "I12",
            f"partitions {mine}: expected at most {limit.concurrent} out under {line!r} on one worker, got {out}",
        )
