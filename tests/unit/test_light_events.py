"""`kompensate dev --light` with domain events: intakes start sagas, subscribers hear what is told, to the last one."""

from contextlib import closing
from pathlib import Path

import pytest

from examples.food import light as food
from examples.food.light import app, couriers, loyalty, orders, payments, restaurant
from kompensate.orchestrator.main import SystemClock
from kompensate.orchestrator.reading.status import SagaView
from kompensate.simulator.light import Light
from tests.fixtures.waiting import wait_until
from tests.unit.test_light import kinds, run

SERVICES = [orders, restaurant, payments, couriers, loyalty]

APP = """
from dataclasses import dataclass

from kompensate.orchestrator import Application, Context, FromTopic, Service, saga
from kompensate.outbox.events import EventTopic
from kompensate.participants import Call, Participant

stock = Service("stock")
told = EventTopic("stock.events", service="stock", partitions=3)
shelves, mails = Participant("stock", publishes=[told]), Participant("mails")


@dataclass
class Take:
    order_id: str


@dataclass
class Taken:
    order_id: str


@shelves.handles
def take(command: Take, session, call: Call) -> None:
    told.publish(session, Taken(command.order_id), key=command.order_id, call=call)


@mails.on("stock.Taken", topic="stock.events")
def mail(event: Taken, call: Call) -> None:
    if event.order_id == "bad":
        raise ValueError("no address")
    print("mailed", event.order_id, "of saga", call.saga_id)


@saga("order")
async def order(ctx: Context, order: dict) -> None:
    await ctx.call(stock, Take(order["id"]))
    await ctx.receive("paid")


app = Application(
    "shop",
    [order],
    services=[stock],
    intake=[
        FromTopic("shop.orders", start="order", saga_id=lambda record: record.value["id"]),
        FromTopic("bank", signal="paid", saga_id=lambda record: record.value["order"]),
    ],
)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    return tmp_path


def test_events_that_are_typed_start_and_signal_sagas_and_their_events_are_heard(shop: Path) -> None:
    """The same event twice is one saga; a subscriber that fails costs its own event; no event is left at the end."""
    order = 'event shop.orders shop.Ordered k {"id": "o-1"}\n'
    bad = 'event shop.orders shop.Ordered k {"id": "bad"}\nevent shop.orders shop.Ordered k {}\n'
    paid = "".join(f'event bank any k {{"order": "{one}"}}\n' for one in ("o-1", "bad"))
    done = run("--light", "app.py", directory=shop, typed=order + order + bad + paid)

    assert done.returncode == 0, done.stdout + done.stderr
    assert kinds(done.stdout, "o-1").count("SagaStarted") == 1
    assert kinds(done.stdout, "o-1")[-1] == kinds(done.stdout, "bad")[-1] == "SagaCompleted"
    assert done.stdout.count("mailed o-1 of saga o-1") == 1
    assert "dead letter in mails.commands" not in done.stdout
    assert "dead letter in mails.dead" in done.stdout, done.stdout
    assert "rejected: " in done.stdout, "the order without an id"


def test_an_event_for_a_topic_that_nobody_hears_is_a_mistake(shop: Path) -> None:
    """Said with those that are heard."""
    done = run("--light", "app.py", directory=shop, typed="event stock.evens x k\nevent stock.events x\n")

    assert "expected a topic that is heard here (bank, shop.orders, stock.events), got 'stock.evens'" in done.stderr
    assert "expected event TOPIC TYPE KEY [JSON], got 'event stock.events x'" in done.stderr


def test_the_food_delivery_runs_from_the_event_to_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event in the outbox starts each saga, a charge whose answer was lost is found, and the customer has points."""
    monkeypatch.setenv("GATEWAY", "set by light_setup")
    said: list[str] = []
    with closing(Light(app, SERVICES, SystemClock(), said.append, [food.light_setup])) as running:
        databases = running.world.databases

        def over() -> bool:
            running.step()
            return bool(points()) and not running.behind() and all(view.ended for view in views())

        def points() -> list[tuple[object, ...]]:
            return databases["loyalty"].query("SELECT order_id, customer, points FROM point")

        def views() -> list[SagaView]:
            return [running.lookup.view(found.saga_id) for found in running.lookup.all()]

        wait_until("all sagas and events", over, 60)
        ends = {view.saga_id: str(view.status) for view in views()}
        tickets = databases["restaurant"].query("SELECT order_id FROM ticket ORDER BY order_id")
        orders_are = dict(databases["orders"].query("SELECT order_id, status FROM customer_order"))
        given = points()

    assert ends == {"o-1": "completed", "o-2": "compensated", "o-3": "compensated"}
    assert orders_are == {"o-1": "DELIVERED", "o-2": "CANCELLED", "o-3": "CANCELLED"}
    assert [order_id for (order_id,) in tickets] == ["o-1", "o-2", "o-3"]
    assert given == [("o-1", "mei", 12)]
    assert (running.stand_ins, running.idle, said) == ((), (), [])
