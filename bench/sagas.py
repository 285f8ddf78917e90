"""What the bench runs: a saga of four steps over three services, the shape of the checkout example."""

from dataclasses import dataclass

from kompensate.orchestrator import Application, Context, Saga, Service, Step, saga


@dataclass(frozen=True, slots=True)
class Order:
    """The saga's input."""

    order_id: str
    customer: str
    quantity: int
    cents: int


@dataclass(frozen=True, slots=True)
class Reserve:
    order_id: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Release:
    order_id: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Charge:
    order_id: str
    customer: str
    cents: int


@dataclass(frozen=True, slots=True)
class Refund:
    order_id: str
    customer: str
    cents: int


@dataclass(frozen=True, slots=True)
class Ship:
    order_id: str
    customer: str


@dataclass(frozen=True, slots=True)
class Confirm:
    order_id: str
    quantity: int


INVENTORY, PAYMENTS, SHIPPING = Service("inventory"), Service("payments"), Service("shipping")

CHECKOUT = Saga(
    "checkout",
    Order,
    [
        Step("reserve", INVENTORY, Reserve, undo=Release),
        Step("charge", PAYMENTS, Charge, undo=Refund),
        Step("ship", SHIPPING, Ship, kind="pivot"),
        Step("confirm", INVENTORY, Confirm, kind="retriable"),
    ],
)
STEPS = len(CHECKOUT.steps)
LOCAL_STEPS = 50


def nothing(number: int) -> int:
    """A local step that takes no time of its own."""
    return number + 1


@saga("errands")
async def errands(ctx: Context, _: Order) -> int:
    """Local steps, one after the other."""
    number = 0
    for _ in range(LOCAL_STEPS):
        number = await ctx.run(nothing, number)
    return number


APPLICATION = Application("bench", [CHECKOUT, errands], partitions=4)
