"""What the checkout saga and its three services say to each other: commands and results, as dataclasses.

A contract's name is `<service>.<class>`, such as `inventory.Reserve`. Money is in cents.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Order:
    """The saga's input: one purchase."""

    order_id: str
    customer: str
    date: str
    sku: str
    quantity: int
    cents: int
    address: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """The saga's result."""

    order_id: str
    parcel: str
    cents: int


# Inventory: a reservation is released, or becomes a sale.


@dataclass(frozen=True, slots=True)
class Reserve:
    order_id: str
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Release:
    order_id: str
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Confirm:
    order_id: str
    sku: str
    quantity: int


# Payments: what was charged is refunded when the order cannot be shipped.


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


# Shipping: a parcel that left does not come back, so this is the saga's pivot.


@dataclass(frozen=True, slots=True)
class Ship:
    order_id: str
    customer: str
    quantity: int
    address: str


@dataclass(frozen=True, slots=True)
class Shipped:
    parcel: str
