"""The shipping service: parcels that left. Post boxes are refused.

kompensate participant examples.checkout.shipping:shipping --dsn postgresql://…/shipping
"""

from sqlalchemy import BigInteger, Connection
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from examples.checkout.contracts import Ship, Shipped
from kompensate.participants import Call, Participant, Refused

shipping = Participant("shipping")


class Base(DeclarativeBase):
    """This service's tables."""


class Parcel(Base):
    """A parcel on its way."""

    __tablename__ = "parcel"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True)
    command_id: Mapped[str]
    order_id: Mapped[str]
    customer: Mapped[str]
    quantity: Mapped[int]
    address: Mapped[str]


def create(connection: Connection) -> None:
    """Make the tables. The caller commits."""
    Base.metadata.create_all(connection)


@shipping.handles
def ship(command: Ship, session: Session, call: Call) -> Shipped:
    """Send the parcel off, or refuse its address."""
    if command.address.startswith("PO box"):
        raise Refused("no parcels to post boxes", address=command.address)
    parcel = Parcel(
        command_id=call.id,
        order_id=command.order_id,
        customer=command.customer,
        quantity=command.quantity,
        address=command.address,
    )
    session.add(parcel)
    session.flush()
    return Shipped(f"parcel-{parcel.number}")
