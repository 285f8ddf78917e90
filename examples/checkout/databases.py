"""The three databases: where they are, and how they look before the first order."""

from dataclasses import asdict, dataclass

from sqlalchemy import Connection, create_engine

from examples.checkout import inventory, payments, shipping
from examples.checkout.orders import DISCS_IN_PRINT, TITLES, card_is_blocked, read, sold_out
from kompensate.outbox.tables import create_tables


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
    for service, dsn in databases.all().items():
        engine = create_engine(dsn)
        with engine.begin() as connection:
            create_tables(connection)
            fill(service, connection)
        engine.dispose()


def fill(service: str, connection: Connection) -> None:
    """Make a service's own tables and what is in them at first. The caller commits."""
    match service:
        case "inventory":
            inventory.create(connection, [(sku, 0 if sold_out(sku) else DISCS_IN_PRINT) for sku in TITLES])
        case "payments":
            cards = sorted({order.customer for order in read()})
            payments.create(connection, [(card, card_is_blocked(card)) for card in cards])
        case "shipping":
            shipping.create(connection)
