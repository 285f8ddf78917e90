"""`ctx.compensate(service, command)` from the saga to the participant's inbox and back, without Kafka."""

from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sqlalchemy import text

from kompensate.orchestrator import Application, Context, FailSaga, Service, saga
from kompensate.orchestrator.reading.status import SagaView, view
from kompensate.orchestrator.reading.stored import stored
from kompensate.outbox.tables import create_tables
from kompensate.participants import Participant, Refused
from kompensate.participants.database import connect
from kompensate.participants.orders import Order, Settled
from kompensate.participants.unit import Unit
from kompensate.schemas.messages import Command, Reply
from tests.fixtures.partitions import IDS, PARTITIONS, TOPICS, Shop

hotel = Service("hotel")


@dataclass
class Trip:
    room: str


@dataclass
class Clean:
    room: str


@dataclass
class Book:
    room: str


@dataclass
class Cancel:
    room: str


@saga("trip")
async def trip(ctx: Context, one: Trip) -> None:
    ctx.compensate(hotel, Clean(one.room))
    await ctx.call(hotel, Book(one.room), undo=Cancel(one.room))
    raise FailSaga("on purpose")


class Company:
    """The saga's application and a real participant: `handled` is what its handlers were given."""

    def __init__(self, path: Path) -> None:
        self.shop = Shop(Application("shop", [trip], services=[hotel], partitions=PARTITIONS))
        self.engine = connect(f"sqlite:///{path}/hotel.db", "hotel")
        with self.engine.begin() as connection:
            create_tables(connection)
        self.handled: list[object] = []
        self.refusals = 0
        self.served = 0
        self.unit = Unit(self._participant(), self.engine, lambda: self.shop.now / 1000)

    def _participant(self) -> Participant:
        service = Participant("hotel")

        @service.handles
        def clean(command: Clean) -> None:
            if self.refusals:
                self.refusals -= 1
                raise Refused("not now")
            self.handled.append(command)

        @service.handles
        def book(command: Book) -> None:
            self.handled.append(command)

        @service.handles
        def cancel(command: Cancel) -> None:
            self.handled.append(command)

        return service

    def run(self) -> None:
        """Every command that has not been handled is, and its reply comes back, until nothing more is sent."""
        while self.served < len(self.shop.commands):
            command = self.shop.commands[self.served]
            self.served += 1
            self.deliver(command)

    def deliver(self, command: Command) -> None:
        [result] = self.unit.handle([Order(command, "lane", last=True)], lambda dead: None)
        assert isinstance(result, Settled)
        with self.engine.begin() as connection:
            columns = "ce_causationid, ce_replyoutcome, payload, content_type, type"
            found = connection.execute(text(f"SELECT {columns} FROM outbox ORDER BY rowid DESC")).first()
        assert found is not None
        reply = Reply(str(uuid4()), found[0], IDS[0], found[4], "hotel", found[1], bytes(found[2]), found[3])
        self.shop.do(self.shop.record(TOPICS.replies("hotel"), IDS[0], reply.payload, reply.headers()))

    def seen(self) -> SagaView:
        records = {record.key: record for record in self.shop.state if record.key is not None}
        [found] = [one for one in stored(records) if one.saga_id == IDS[0]]
        return view("shop", found, [record.value or b"" for record in self.shop.history] if found.ended else None)


def begun(path: Path) -> Company:
    company = Company(path)
    company.shop.do(company.shop.start(value=Trip("7"), saga="trip"))
    return company


def test_its_handler_runs(tmp_path: Path) -> None:
    """Once, after what was done later, as a command of its own: no command of before is undone by it."""
    company = begun(tmp_path)
    company.run()

    assert company.handled == [Book("7"), Cancel("7"), Clean("7")]
    cleaned = company.shop.commands[-1]
    assert (cleaned.type, cleaned.phase, cleaned.compensates, cleaned.expires_at) == (
        "hotel.Clean",
        "forward",
        None,
        None,
    )
    assert company.seen().status == "failed"
    company.deliver(cleaned)  # sent again: the inbox answers
    assert company.handled == [Book("7"), Cancel("7"), Clean("7")]


def test_it_is_shown_as_registered(tmp_path: Path) -> None:
    """Before it is run it took no time and was not answered."""
    company = begun(tmp_path)
    clean = company.seen().steps[0]
    assert (clean.step, clean.status, clean.answered_at) == ("Clean", "registered", None)

    company.deliver(company.shop.commands[-1])
    company.deliver(company.shop.commands[-1])
    found = company.seen()
    assert found.step == "undo Clean"
    assert any("reply from hotel to hotel.Clean (compensation Clean)" in text for text in found.waits)


def test_it_is_tried_again_where_it_is_refused(tmp_path: Path) -> None:
    """As any undo: a no is not an end of it, and the next attempt is another command."""
    company = begun(tmp_path)
    company.refusals = 2
    company.run()
    while company.seen().status == "compensating":
        company.shop.wait(60_000)
        company.run()

    assert company.handled == [Book("7"), Cancel("7"), Clean("7")]
    assert [c.attempt for c in company.shop.commands if c.type == "hotel.Clean"] == [1, 2, 3]
    assert company.seen().status == "failed"
