"""What the services of the food delivery say to each other: events, commands, results. Money is in cents."""

from dataclasses import dataclass

# Events of the orders service


@dataclass(frozen=True, slots=True)
class OrderPlaced:
    """A customer has ordered: starts the delivery, and shows in the kitchen."""

    order_id: str
    customer: str
    dish: str
    area: str
    cents: int


@dataclass(frozen=True, slots=True)
class OrderDelivered:
    """The customer has it: whoever wants to know may."""

    order_id: str
    customer: str
    cents: int


@dataclass(frozen=True, slots=True)
class OrderCancelled:
    order_id: str


# Commands


@dataclass(frozen=True, slots=True)
class Cancel:
    order_id: str


@dataclass(frozen=True, slots=True)
class Deliver:
    order_id: str
    courier: str


@dataclass(frozen=True, slots=True)
class Accept:
    order_id: str
    dish: str


@dataclass(frozen=True, slots=True)
class Abandon:
    order_id: str


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
class Charged:
    charge: str


@dataclass(frozen=True, slots=True)
class Assign:
    order_id: str
    area: str


@dataclass(frozen=True, slots=True)
class Assigned:
    courier: str
