"""An environment of four resources at a cloud provider: all of them, or none.

kompensate worker --app examples.infrastructure.app:app
"""

from dataclasses import dataclass

from examples.infrastructure.cloud import create, delete, find
from kompensate.orchestrator import Application, Context, Limit, Operation, RetryPolicy, saga

RETRY = RetryPolicy(maximum_attempts=5)


@dataclass(frozen=True, slots=True)
class Wanted:
    """An environment by its name, and how large its machine is."""

    name: str
    processors: int


@saga("environment")
async def environment(ctx: Context, wanted: Wanted) -> dict[str, str]:
    """The resources' ids by kind. Network and disk come at the same time, then the machine on both, then its name."""
    network, disk = await ctx.gather(make(ctx, "network", wanted), make(ctx, "disk", wanted))
    machine = await make(ctx, "machine", wanted, network=network, disk=disk, processors=wanted.processors)
    dns = await make(ctx, "dns", wanted, machine=machine)
    return {"network": network, "disk": disk, "machine": machine, "dns": dns}


def make(ctx: Context, kind: str, wanted: Wanted, **properties: object) -> Operation:
    """A creation that is not repeated in doubt but looked up, and that is undone by deleting what it made."""
    return ctx.run(
        create,
        *(kind, wanted.name, properties),
        undo=delete,
        at_most_once=True,
        reconcile=find,
        retry=RETRY,
        limit="cloud",
        step=kind,
    )


app = Application("cloud", [environment], limits={"cloud": Limit(concurrent=4, per_second=20)}, partitions=2)
