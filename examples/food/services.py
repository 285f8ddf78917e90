"""Those who cook, are paid and bring, and one who only listens; each has a database of its own.

    kompensate participant examples.food.services:loyalty --dsn postgresql://…/loyalty

`cooking`, `ride`, `ticket` and `point` have a row for each effect, and no constraint that would stop one from being
booked twice: that the inbox does.
"""

from sqlalchemy import Connection, text

from examples.food.contracts import Abandon, Accept, Assign, Assigned, OrderDelivered, OrderPlaced
from examples.food.topic import ORDER_EVENTS
from kompensate.participants import Participant, Refused

restaurant, couriers, loyalty = Participant("restaurant"), Participant("couriers"), Participant("loyalty")
MENU = ("laksa", "nasi lemak", "satay")
COURIERS = {"centre": "ann", "harbour": "bob"}
TABLES = {
    "restaurant": (
        "CREATE TABLE cooking (order_id text NOT NULL, what text NOT NULL)",
        "CREATE TABLE ticket (order_id text NOT NULL, dish text NOT NULL)",
    ),
    "couriers": ("CREATE TABLE ride (order_id text NOT NULL, courier text NOT NULL)",),
    "loyalty": ("CREATE TABLE point (order_id text NOT NULL, customer text NOT NULL, points int NOT NULL)",),
}


def create(connection: Connection, service: str) -> None:
    """Make that service's tables. The caller commits."""
    for statement in TABLES[service]:
        connection.execute(text(statement))


@restaurant.handles
def accept(command: Accept, connection: Connection) -> None:
    if command.dish not in MENU:
        raise Refused("not on the menu", dish=command.dish)
    connection.execute(text("INSERT INTO cooking VALUES (:id, 'accepted')"), {"id": command.order_id})


@restaurant.handles
def abandon(command: Abandon, connection: Connection) -> None:
    connection.execute(text("INSERT INTO cooking VALUES (:id, 'abandoned')"), {"id": command.order_id})


@restaurant.on("orders.OrderPlaced", topic=ORDER_EVENTS.name)
def show(event: OrderPlaced, connection: Connection) -> None:
    """The display in the kitchen: it shows what was ordered, whatever the saga makes of it."""
    connection.execute(text("INSERT INTO ticket VALUES (:id, :dish)"), {"id": event.order_id, "dish": event.dish})


@couriers.handles
def assign(command: Assign, connection: Connection) -> Assigned:
    if command.area not in COURIERS:
        raise Refused("nobody rides there", area=command.area)
    row = {"id": command.order_id, "courier": COURIERS[command.area]}
    connection.execute(text("INSERT INTO ride VALUES (:id, :courier)"), row)
    return Assigned(COURIERS[command.area])


@loyalty.on("orders.OrderDelivered", topic=ORDER_EVENTS.name)
def give_points(event: OrderDelivered, connection: Connection) -> None:
    """A point for each ringgit. The orders service does not know that there are points."""
    row = {"id": event.order_id, "customer": event.customer, "points": event.cents // 100}
    connection.execute(text("INSERT INTO point VALUES (:id, :customer, :points)"), row)
