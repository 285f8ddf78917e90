"""What the simulator is told of the agent: a request that it understands, and a person who approves.

AGENT_DESK=/tmp/desk.sqlite kompensate simulate examples.agent.simulated:app --minutes 10
"""

from random import Random

from examples.agent.app import Task, Verdict, app

__all__ = ["app", "simulated_input", "simulated_signal"]


def simulated_input(_: str, random: Random) -> object:
    return Task(f"t-{random.randrange(1_000_000)}", f"o-{random.randrange(1, 4)} arrived broken")


def simulated_signal(_: str) -> object:
    return Verdict(approved=True, by="ann")
