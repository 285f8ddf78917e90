"""The three databases: where they are, and how they look before the first order."""

from dataclasses import asdict, dataclass

from examples.checkout import inventory, payments, shipping
from examples.checkout.orders import DISCS_IN_PRINT, TITLES, card_is_blocked, read, sold_out
from examples.common.ground import Tables, make_tables


@dataclass(frozen=True, slots=True)
class Databases:
    """Connection URIs of the services' databases."""

    inventory: str
    payments: str
    shipping: str

    def all(self) -> dict[str, str]:
        """Connection URI by service."""
        return asdict(self)


def create(databases: Databases) -> None:
    """Make outbox, inbox and the services' own tables, with stock on the shelves and a card for each customer."""
    make_tables(databases.all(), tables())


def tables() -> dict[str, Tables]:
    """What makes and fills each service's own tables."""
    cards = sorted({order.customer for order in read()})
    return {
        "inventory": lambda connection: inventory.create(
            connection, [(sku, 0 if sold_out(sku) else DISCS_IN_PRINT) for sku in TITLES]
        ),
        "payments": lambda connection: payments.create(connection, [(card, card_is_blocked(card)) for card in cards]),
        "shipping": shipping.create,
    }
