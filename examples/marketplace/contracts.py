"""What the marketplace's sagas, services and front say to each other. Money is in cents."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Order:
    """A customer's order: the input of both sagas."""

    order_id: str
    sku: str
    quantity: int
    cents: int


@dataclass(frozen=True, slots=True)
class Payment:
    """What the payment provider's webhook tells."""

    order_id: str
    payment_id: str
    paid: bool


# Inventory


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
class HandOver:
    order_id: str
    sku: str
    quantity: int


# Orders


@dataclass(frozen=True, slots=True)
class Create:
    order_id: str
    cents: int


@dataclass(frozen=True, slots=True)
class Cancel:
    order_id: str


@dataclass(frozen=True, slots=True)
class MarkPaid:
    order_id: str
    payment_id: str


@dataclass(frozen=True, slots=True)
class MarkDispatched:
    order_id: str
    parcel: str


# Warehouse


@dataclass(frozen=True, slots=True)
class Pack:
    order_id: str
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Packed:
    parcel: str
