"""What the simulator is told of the infrastructure: environments, some of them past the quota.

CLOUD=/tmp/cloud.sqlite kompensate simulate examples.infrastructure.simulated:app --minutes 10
"""

from random import Random

from examples.infrastructure.app import Wanted, app

__all__ = ["app", "simulated_input"]


def simulated_input(_: str, random: Random) -> object:
    return Wanted(f"env-{random.randrange(1_000_000)}", random.choice((1, 4, 64)))
