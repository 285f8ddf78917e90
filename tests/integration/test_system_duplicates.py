"""Every command and every reply delivered twice, and compensations that overtake their commands."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest

from examples.checkout import orders
from examples.checkout.contracts import Order, Refund, Release
from examples.checkout.sagas import app
from kompensate.orchestrator.kernel.policy import command_id
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.reader import Reader
from kompensate.schemas.messages import Command, Reply
from kompensate.schemas.payloads import encode
from kompensate.schemas.topics import partition_of
from tests.fixtures.system import ALL, LOT, System, same

ORDERS = 60


class Echo:
    """Writes each record of some topics a second time, as soon as it sees it."""

    def __init__(self, system: System, topics: list[str]) -> None:
        self.written = 0
        self._system = system
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._follow, args=(topic,)) for topic in topics]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()

    def _follow(self, topic: str) -> None:
        seen: set[Record] = set()
        with Reader(self._system.shop.bootstrap) as reader:
            for batch in reader.follow(topic, reader.ends(topic, ALL), 0.05):
                if self._stopping.is_set():
                    return
                new = [r for r in same(batch.records) if (bare := _bare(r)) not in seen and not seen.add(bare)]  # type: ignore[func-returns-value]  # adds it
                self._system.produce(new)
                self.written += len(new)


def _bare(record: Record) -> Record:
    """Without its place in time."""
    return record._replace(offset=0, timestamp=0, headers=tuple(record.headers or ()))


@pytest.mark.slow
def test_every_command_and_reply_comes_twice(system: System) -> None:
    """While orders are under way each command and reply is written again: nothing takes effect twice."""
    echo = Echo(system, [*system.command_topics, *system.reply_topics])
    with echo.at_work():
        system.send(ORDERS)
        system.finish()
        system.settle()

    assert echo.written >= 4 * ORDERS
    system.prove()


@pytest.mark.slow
def test_all_records_of_ended_sagas_come_again(system: System) -> None:
    """After the end every command and reply there ever was is written again: the state topic's fold stays the same."""
    system.send(LOT)
    system.finish()
    system.settle()
    before = system.fold()
    again = same(system.records(*system.command_topics, *system.reply_topics))

    system.produce(again)
    system.settle()

    assert len(again) > 4 * LOT
    assert system.fold() == before
    system.prove()


@pytest.mark.slow
def test_without_inboxes_the_checker_finds_doubled_effects(system: System) -> None:
    """The defence bites: with the inboxes emptied the same records are carried out twice, and that is found."""
    system.send(LOT)
    system.finish()
    system.settle()
    for dsn in system.shop.databases.all().values():
        with psycopg.connect(dsn) as connection:
            connection.execute("DELETE FROM inbox")

    system.produce(same(system.records(*system.command_topics)))
    system.settle()

    assert len(system.verdict().doubled) >= LOT


def _overtaking(system: System, order: Order, step: int) -> Command:
    """The compensation of an order's first (1, reserve) or second step (2, charge), whose start is to come next."""
    partition = partition_of(order.order_id, app.partitions)
    offset = system.topic_reader.ends(system.topics.requests, [partition])[partition]
    service = ("inventory", "payments")[step - 1]
    undo = (
        Release(order.order_id, order.sku, order.quantity)
        if step == 1
        else Refund(order.order_id, order.customer, order.cents)
    )
    forward = command_id(app.name, order.order_id, f"{partition}.{offset}", step, "forward", 1)
    return Command(
        id=command_id(app.name, order.order_id, f"{partition}.{offset}", step, "compensate", 1),
        type=f"{service}.{type(undo).__name__}",
        source=f"kompensate:{app.name}",
        saga_id=order.order_id,
        saga_type="checkout",
        step=("reserve", "charge")[step - 1],
        phase="compensate",
        attempt=1,
        reply_to=system.topics.replies(service),
        reply_partition=partition,
        payload=encode(undo),
        compensates=forward,
    )


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2])
def test_a_compensation_overtakes_its_command(system: System, step: int) -> None:
    """Delivered before the command that it undoes, it undoes nothing; the command comes late and is refused."""
    order = next(order for order in system.take(LOT) if orders.expected(order) is orders.Fate.COMPLETED)
    early = _overtaking(system, order, step)
    service = ("inventory", "payments")[step - 1]
    headers = early.headers()
    at = partition_of(order.order_id, app.partitions)
    record = Record(system.topics.commands(service), at, 0, 0, order.order_id.encode(), early.payload, headers)
    system.produce([record])
    system.settle()

    system.start([order])
    system.finish()
    system.send(LOT)
    system.finish()

    commands = [Command.parse(r.headers, r.value) for r in system.records(record.topic) if r.key == record.key]
    forward = next(command for command in commands if command.phase == "forward")
    reply = _reply_to(system, service, early.compensates or "")
    assert forward.id == early.compensates
    assert reply.outcome == "refused"
    # It must have ended as if that step had been refused for its own reasons.
    system.judged[order.order_id] = replace(order, sku="cd-007") if step == 1 else replace(order, customer=_blocked())
    system.prove(astray=True)
    # The answer to the early one came before the saga: nobody had asked.
    assert [r for r in system.reasons() if order.order_id in r and "does not exist here" in r]


def _reply_to(system: System, service: str, id_: str) -> Reply:
    replies = (Reply.parse(r.headers, r.value) for r in system.records(system.topics.replies(service)))
    return next(reply for reply in replies if reply.command_id == id_)


def _blocked() -> str:
    return next(order.customer for order in orders.read() if orders.card_is_blocked(order.customer))
