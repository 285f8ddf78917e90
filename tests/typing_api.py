"""The public API as users' strict type checkers see it: this file is never run, it must only check.

A change that makes a line of it fail breaks somebody's build.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_type

import psycopg
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from kompensate.compose.local.stack import Stack
from kompensate.orchestrator import (
    Application,
    Context,
    FromTopic,
    Saga,
    Schedule,
    Scope,
    Service,
    Step,
    StepRefused,
    saga,
)
from kompensate.orchestrator.async_client import AsyncClient
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.kernel.events import CallUndone
from kompensate.orchestrator.reading.outcomes import Sent
from kompensate.orchestrator.testing import SagaHandle, SagaTest, assert_replays, done, in_turn, late, refused
from kompensate.outbox.client import AsyncOutboxClient, OutboxClient
from kompensate.outbox.events import EventTopic
from kompensate.participants import Call, Failed, OutsideCall, Participant, Refused, Retry, locks
from kompensate.schemas.avro import AvroPayloads
from kompensate.schemas.claim_check import ClaimCheck
from kompensate.schemas.compression import Zlib, Zstd
from kompensate.schemas.encryption import AesGcm
from kompensate.schemas.formats import Owner, PayloadFormat
from kompensate.schemas.messages import Request


@dataclass
class Order:
    """A saga's input."""

    order_id: str
    cents: int


@dataclass
class Charge:
    """A command, filled from the order by name."""

    order_id: str
    cents: int


@dataclass
class Refund:
    """What undoes it."""

    order_id: str


@dataclass
class Charged:
    """A participant's result."""

    receipt: str


payments = Service("payments")


def make_refund(scope: Scope) -> Refund:
    """A mapping that fills a message by hand."""
    return Refund(scope.input.order_id)


declared = Saga(
    "declared",
    Order,
    [
        Step("charge", payments, Charge, undo=Refund, make_undo=make_refund, returns=Charged),
        Step(
            "again",
            payments,
            Charge,
            undo=Refund,
            limit="bank",
            priority=lambda s: int(s.input.cents),
            key=lambda s: s.input.order_id,
        ),
    ],
)


@saga("written")
async def written(context: Context, order: Order) -> str:
    """A saga as a coroutine."""
    charge = Charge(order.order_id, order.cents)
    try:
        charged: Charged = await context.call(payments, charge, undo=Refund(order.order_id), returns=Charged)
    except StepRefused:
        return "refused"
    child: str = await context.child("declared", order, returns=str, limit="bank")
    await context.call(payments, charge, step=child, limit="bank", priority=order.cents)
    context.set_attributes(amount=order.cents, stage=None)
    await context.sleep(1.5)
    together: list[Any] = await context.gather(context.sleep(1), context.receive("a"), tolerate=1)
    together += await context.at_least(1, context.sleep(1))
    name, _ = await context.select(signal=context.receive("b"), late=context.sleep(60))
    assert_type(name, str)
    assert_type(context.uuid(), str)
    assert_type(context.random(), float)
    approved: bool = await context.receive("approved", type=bool, timeout=60)
    return charged.receipt if approved else f"{context.now()}"


class Reversed:
    """A codec of one's own."""

    name = "reversed"

    def encode(self, data: bytes, owner: Owner, /) -> bytes | None:
        """Sagas of one name stay as they are."""
        return None if owner.saga_id == "plain" else data[::-1]

    def decode(self, data: bytes, _: Owner, /) -> bytes:
        """And back."""
        return data[::-1]


payload_format = PayloadFormat(
    [Zlib(), Zstd(level=5), AesGcm({"2026": bytes(32)}, write="2026"), ClaimCheck("s3://bucket/blobs"), Reversed()],
    avro=AvroPayloads("schemas", [Charge, Charged]),
)
application = Application(
    "shop", [declared, written], services=[payments, "shipping"], partitions=8, payloads=payload_format
)

service = Participant("payments", payloads=payload_format)
mapped = Application(
    "shop",
    [declared],
    intake=[
        FromTopic(
            "orders",
            start="declared",
            type=Order,
            saga_id=lambda record: str(record.value.order_id),
            attributes=lambda record: {"cents": record.value.cents},
        ),
        FromTopic(
            "payments",
            signal="approved",
            saga_id=lambda record: (record.key or b"").decode(),
            input=lambda record: True,
            when=lambda record: record.headers.get("kind") == b"settled",
        ),
    ],
)

timed = Application(
    "shop",
    [written],
    schedules=[
        Schedule("nightly", written, Order("o", 1), cron="0 3 * * *", timezone="Europe/Zurich", jitter=60),
        Schedule("probe", "written", interval=60, overlap="BUFFER_ONE", catchup_window=3_600),
    ],
)

service = Participant("payments")


@service.handles
def charge(command: Charge, session: Session, call: Call) -> Charged:
    """A handler whose contract is its command's type."""
    if command.cents < 0:
        raise Refused("not an amount", cents=command.cents)
    token: int = locks.take(session, call, "till", expires=60, wait=5)
    released: list[str] = locks.release(session, call) if locks.confirm(session, call, "till") == token else []
    assert released
    return Charged(f"{call.id}/{session.is_active}")


def find_charge(command: Charge, call: OutsideCall) -> Charged:
    assert_type(call.timeout, float)
    raise Failed("no such charge")


@service.external("ChargeOutside", timeout=5, window=3600, reconcile=find_charge)
async def charge_outside(command: Charge, call: OutsideCall) -> Charged:
    call.heartbeat({"pages": 1})
    assert_type(call.cancelled, bool)
    raise Retry("later")


@service.handles("payments.Refund")
def refund(command: Refund) -> None:
    """A handler with a contract's name of its own."""


# A decorated handler is still the function that was written: it can be called in a test.
assert_type(charge(Charge("1", 1), Session(), Call("id", "saga", "shop", "charge", "forward", 1)), Charged)


def keep(event: CallUndone) -> None:
    """For a checker events are frozen; Python does not look, which is cheaper."""
    event.number = 2  # type: ignore[misc]


def ask(client: Client) -> None:
    """A client's calls."""
    client.start("declared", Order("1", 100), saga_id="1", attributes={"customer": "c-7", "amount": 120})
    client.signal("1", "approved", True)  # a payload
    client.cancel("1", "changed my mind")


def answer(command: Charge) -> object:
    """A scripted participant."""
    return refused("no money") if command.cents > 100 else Charged("r-1")


def prove(path: Path) -> None:
    """A saga under test."""
    test = SagaTest(application, mode="reorder", seed=1)
    test.on(Charge, answer)
    test.on("payments.Refund", in_turn(late(3, done()), done()))
    order = test.start(declared, Order("1", 100))
    order.signal("approved", True, after="charge", delay=5)
    test.run()
    order.assert_completed(Charged("r-1"))
    assert_type(order, SagaHandle)
    assert_type(order.commands, list[str])
    assert_type(order.messages(Charge), list[Charge])
    order.save_history(path)
    assert_replays(path, application)


def develop(stack: Stack) -> None:
    """The local stack."""
    stack.up(("kafka", "postgres", "connect"))
    assert_type(stack.bootstrap, str)
    assert_type(stack.postgres_dsn("shop"), str)
    assert_type(stack.connect_url, str)
    stack.down()


def commits(session: Session, connection: psycopg.Connection) -> None:
    """Requests in the caller's transaction, whichever library it is of."""
    shop = OutboxClient(application)
    shop.start(session, "declared", Order("1", 2), saga_id="o-1", attributes={"customer": "c-7"})
    shop.signal(connection, "o-1", "approved", payload=True, signal_id="s-1")
    shop.cancel(connection.cursor(), "o-1", "too late")


async def commits_async(session: AsyncSession, connection: psycopg.AsyncConnection) -> None:
    """The same on asyncio."""
    shop = AsyncOutboxClient("shop", partitions=8)
    assert_type(await shop.start(session, "declared", Order("1", 2), saga_id="o-1"), Request)
    await shop.signal(connection, "o-1", "approved", payload=True)


async def tells(session: Session, aio: AsyncSession, connection: psycopg.Connection, call: Call) -> None:
    """Domain events are told in either, and heard by a participant."""
    topic = EventTopic("orders.events", service="orders", partitions=4)
    assert_type(topic.publish(session, Order("1", 2), key="o-1", call=call), str)
    topic.publish(connection, Order("1", 2), key="o-1")
    assert_type(await topic.publish_async(aio, Order("1", 2), key="o-1"), str)
    loyalty = Participant("loyalty", publishes=[topic])

    @loyalty.on("orders.Order", topic="orders.events")
    def note(event: Order, session: Session, call: Call) -> None: ...

    assert_type(note(Order("1", 2), session, call), None)


async def ask_async(client: AsyncClient) -> str:
    """The same verbs, awaited."""
    sent = await client.start("declared", Order("1", 100), saga_id="1", id_conflict_policy="use_existing")
    assert_type(sent, Sent)
    await client.signal_with_start("declared", Order("1", 100), saga_id="1", signal="approved", payload=True)
    return (await client.result("1", timeout=5)).status


def operate(client: Client) -> None:
    """What an operator gives, and what a saga shows."""
    assert_type(client.order("skip", "1", who="ann", reason="by hand", step="charge"), Sent)
    assert_type(client.fork("1", "2", who="ann", reason="mended", step="charge", version=2), Sent)
    assert_type(client.reset("1", "3", who="ann", reason="wrong", event=4, timeout=5), Sent)
    assert_type(client.published("1"), dict[str, Any])
    for name, _ in client.follow("1", timeout=5):
        assert_type(name, str)


async def operate_async(client: AsyncClient) -> None:
    """The same, awaited."""
    assert_type(await client.order("complete", "1", who="ann", reason="by hand", result={"paid": True}), Sent)
    assert_type(await client.fork("1", "2", who="ann", reason="mended", step="charge", version=2), Sent)
    assert_type(await client.reset("1", "3", who="ann", reason="wrong", event=4, timeout=5), Sent)
    assert_type(await client.published("1"), dict[str, Any])
    async for name, _ in client.follow("1"):
        assert_type(name, str)
