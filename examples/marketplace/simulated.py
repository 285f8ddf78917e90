"""What the simulator is told of the marketplace: what the warehouse answers, and what the payment provider says.

kompensate simulate examples.marketplace.simulated:app --minutes 10
"""

from random import Random

from examples.marketplace.app import app
from examples.marketplace.contracts import Order, Packed, Payment

__all__ = ["app", "simulated_input", "simulated_reply", "simulated_signal"]


def simulated_input(saga: str, random: Random) -> object:
    return Order(f"{saga}-{random.randrange(1_000_000)}", "lamp", random.randrange(1, 4), 2_495)


def simulated_reply(command_type: str, _: object) -> object:
    return Packed("parcel") if command_type == "warehouse.Pack" else None


def simulated_signal(_: str) -> object:
    return Payment("o", "p", paid=True)
