"""The orders: real purchases of the shop CDNOW, and what the file does not tell about them.

The file has customer, date, number of CDs and price. Which title was bought, whose card is blocked and
where the parcel goes are made from hashes of the order, so that they are the same on every run, and so that
`expected` can tell how an order must end without asking any service.
"""

from collections.abc import Iterator
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path

from examples.checkout.contracts import Order

DATA = Path(__file__).parent / "data" / "cdnow_sample.txt"
TITLES = [f"cd-{number:03}" for number in range(100)]
DISCS_IN_PRINT = 100_000


class Fate(StrEnum):
    """How an order must end, and where it is refused."""

    COMPLETED = "completed"
    OUT_OF_STOCK = "out of stock"
    CARD_DECLINED = "card declined"
    ADDRESS_REFUSED = "address refused"


def read(path: Path = DATA) -> Iterator[Order]:
    """The purchases of a file in the form of `cdnow_sample.txt`. Raises ValueError naming the line."""
    with path.open(encoding="ascii") as lines:
        for number, line in enumerate(lines, 1):
            yield _order(path, number, line)


def expected(order: Order) -> Fate:
    """The fate of `order`: the first service in the saga's order that refuses it decides."""
    if sold_out(order.sku):
        return Fate.OUT_OF_STOCK
    if card_is_blocked(order.customer):
        return Fate.CARD_DECLINED
    if is_post_box(order.address):
        return Fate.ADDRESS_REFUSED
    return Fate.COMPLETED


def sold_out(sku: str) -> bool:
    """Four titles of a hundred are out of print: inventory begins with none of them."""
    return int(sku.removeprefix("cd-")) % 25 == 7


def card_is_blocked(customer: str) -> bool:
    """One customer in twenty has a blocked card."""
    return _draw("card", customer, 20) == 0


def is_post_box(address: str) -> bool:
    """One order in twenty-five goes to a post box, where parcels are not delivered."""
    return address.startswith("PO box")


def _order(path: Path, number: int, line: str) -> Order:
    try:
        customer, _, date, discs, dollars = line.split()
        whole, _, cents = dollars.partition(".")
        price = int(whole) * 100 + int(cents.ljust(2, "0"))
        quantity = int(discs)
    except ValueError as error:
        raise ValueError(
            f"{path}, line {number}: expected customer, customer, date, CDs and dollars, got {line!r}"
        ) from error
    order_id = f"cdnow-{number:05}"
    house = _draw("address", order_id, 100)
    address = f"PO box {house}" if house % 25 == 0 else f"{house} Main Street"
    sku = TITLES[_draw("title", order_id, len(TITLES))]
    return Order(order_id, customer, date, sku, quantity, price, address)


def _draw(what: str, key: str, sides: int) -> int:
    """A throw of dice that is the same each time for the same key."""
    return int.from_bytes(blake2b(f"{what} {key}".encode(), digest_size=8).digest(), "big") % sides
