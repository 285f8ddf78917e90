"""Payload formats at work: client, worker and participant, from the start to the result, without Kafka."""

from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pydantic
from sqlalchemy import text

from kompensate.orchestrator import Application, Context, FromTopic, Saga, Service, Step, saga
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.intake.translate import Translator
from kompensate.orchestrator.ports import OutRecord, Ran, Record
from kompensate.orchestrator.reading.outcomes import Sent, judged
from kompensate.orchestrator.reading.rebuilding import Cut, rebuilt
from kompensate.orchestrator.reading.status import SagaView, fold, view
from kompensate.orchestrator.reading.stored import Stored, stored
from kompensate.orchestrator.sagas.journal import read_pages
from kompensate.outbox.client import OutboxClient
from kompensate.outbox.tables import create_tables
from kompensate.participants import Participant, Refused
from kompensate.participants.database import connect
from kompensate.participants.orders import Later, Order, Result, Settled
from kompensate.participants.unit import Unit
from kompensate.schemas.claim_check import ClaimCheck
from kompensate.schemas.compression import Zlib
from kompensate.schemas.encryption import AesGcm
from kompensate.schemas.envelope import ENCODED
from kompensate.schemas.formats import PLAIN, PayloadFormat, payloads_of
from kompensate.schemas.messages import JSON, RESUME, START, Command, Reply, Request
from kompensate.schemas.requests import topic_of
from tests.fixtures.partitions import IDS, PARTITIONS, TOPICS, Shop

SECRET = "4111-1111-1111-1111"
KEYS = {"2025": b"\x01" * 32, "2026": b"\x02" * 32}
OLD = PayloadFormat([Zlib(), AesGcm({"2025": KEYS["2025"]}, write="2025")])
BOTH = PayloadFormat([Zlib(), AesGcm(KEYS, write="2026")])
NEW = PayloadFormat([Zlib(), AesGcm({"2026": KEYS["2026"]}, write="2026")])
payments = Service("payments")


@dataclass
class Card:
    number: str
    notes: str = ""


@dataclass
class Charge:
    number: str
    notes: str = ""


@dataclass
class Refund:
    number: str


class Receipt(pydantic.BaseModel):
    number: str
    code: int


@saga("paying")
async def paying(ctx: Context, card: Card) -> Receipt:
    charged = await ctx.call(payments, Charge(card.number), undo=Refund(card.number), returns=Card)
    ctx.publish("card", charged)
    code = await ctx.receive("code", type=int)
    return Receipt(number=charged.number, code=code)


def application(found: PayloadFormat | None) -> Application:
    return Application("shop", [paying], services=[payments], partitions=PARTITIONS, payloads=found)


def participant(found: PayloadFormat | None) -> Participant:
    service = Participant("payments", payloads=found)

    @service.handles
    def charge(command: Charge) -> Card:
        if command.number == "no":
            raise Refused("declined", code=7)
        return Card(command.number)

    @service.handles
    def refund(command: Refund) -> None:
        assert command.number

    return service


class Company:
    """A shop and the service that it calls, with what both wrote."""

    def __init__(self, path: Path, found: PayloadFormat | None) -> None:
        self.shop = Shop(application(found))
        self.engine = connect(f"sqlite:///{path}/payments.db", "payments")
        with self.engine.begin() as connection:
            create_tables(connection)
        self.dead: list[str] = []
        self.deploy(found)

    def deploy(self, found: PayloadFormat | None) -> None:
        """All three are given another format, and begin anew with it."""
        self.format = found
        self.shop.crash(application=application(found))
        self.client = Client("127.0.0.1:1", "shop", payloads=found)
        self.unit = Unit(participant(found), self.engine, self.clock)

    def clock(self) -> float:
        return self.shop.now / 1000

    def ask(self, request: Request) -> None:
        self.shop.do(self.shop.record(topic_of(request, TOPICS), request.saga_id, request.payload, request.headers()))

    def start(self, value: object, saga_name: str = "paying") -> Request:
        request = self.client.requests.start(saga_name, value, saga_id=IDS[0])
        self.ask(request)
        return request

    def signal(self, value: object) -> None:
        self.ask(self.client.requests.signal(IDS[0], "code", value))

    def serve(self) -> Result:
        """The newest command is handled, and its reply is back."""
        order = Order(self.shop.commands[-1], "lane", last=True)
        [result] = self.unit.handle([order], lambda dead: self.dead.extend(found.dead or "" for _, found in dead))
        if not isinstance(result, Later):
            with self.engine.begin() as connection:
                columns = "ce_causationid, ce_replyoutcome, payload, content_type, type"
                row = connection.execute(text(f"SELECT {columns} FROM outbox ORDER BY rowid DESC")).first()
            assert row is not None
            reply = Reply(str(uuid4()), row[0], IDS[0], row[4], "payments", row[1], bytes(row[2]), row[3])
            self.shop.do(self.shop.record(TOPICS.replies("payments"), IDS[0], reply.payload, reply.headers()))
        return result

    def stored(self) -> list[Stored]:
        """The sagas in the state topic."""
        records = {record.key: record for record in self.shop.state if record.key is not None}
        return list(stored(records))

    def seen(self, found: PayloadFormat | None) -> SagaView:
        """What people see who have that format."""
        [saga_found] = [one for one in self.stored() if one.saga_id == IDS[0]]
        pages = [record.value or b"" for record in self.shop.history] if saga_found.ended else None
        return view("shop", saga_found, pages, payloads=payloads_of(found, "shop"))

    def written(self, path: Path) -> bytes:
        """All bytes that anybody stored or sent."""
        kafka = [record.value or b"" for record in self.shop.state]
        kafka += [record.value or b"" for record in self.shop.history]
        kafka += [command.payload or b"" for command in self.shop.commands]
        return b"".join([*kafka, *(file.read_bytes() for file in path.iterdir())])


def test_an_encrypted_saga_from_start_to_result(tmp_path: Path) -> None:
    """No secret in any topic or table, also where a replay takes over; who has the keys sees all of it."""
    company = Company(tmp_path, BOTH)
    company.start(Card(SECRET, "x" * 2_000))
    assert company.shop.commands[-1].content_type == ENCODED
    company.serve()
    company.shop.crash()
    company.signal(31)

    found = company.seen(BOTH)
    assert found.status == "completed"
    assert found.result == {"number": SECRET, "code": 31}
    assert found.input["number"] == SECRET
    assert found.published == {"card": {"number": SECRET, "notes": ""}}
    assert SECRET.encode() not in company.written(tmp_path)
    assert company.dead == []
    assert company.shop.reasons() == []


def test_without_a_format_everything_is_json(tmp_path: Path) -> None:
    """The same saga as ever."""
    company = Company(tmp_path, None)
    company.start(Card(SECRET))
    company.serve()
    company.signal(31)

    assert company.shop.commands[-1].content_type == JSON
    assert company.seen(None).result == {"number": SECRET, "code": 31}


def test_who_lacks_the_keys_sees_that_it_is_encoded(tmp_path: Path) -> None:
    """Names, steps and times; and instead of payloads what they are, and what is missing."""
    company = Company(tmp_path, BOTH)
    company.start(Card(SECRET))

    without, other = company.seen(None), company.seen(OLD)

    assert (without.status, without.steps[0].step) == ("running", "Charge")
    assert without.input.endswith("bytes encoded by aes-gcm: give --app with its payload format to read it)")
    assert "expected one of the keys 2025, got one encrypted with key '2026'" in other.input
    pages = read_pages([record.value or b"" for record in company.shop.state if record.key == IDS[0].encode()][-1:])
    line = fold("shop", IDS[0], pages, payloads_of(BOTH, "shop")).lines[0]
    assert line.event.payload == b'{"number":"4111-1111-1111-1111","notes":""}'  # type: ignore[union-attr]  # SagaStarted


@saga("inner")
async def inner(ctx: Context, card: Card) -> Card:
    return Card(card.number, f"of {await ctx.run(doubled, card.number)}")


@saga("outer")
async def outer(ctx: Context, card: Card) -> Card:
    found: Card = await ctx.child(inner, card, saga_id=IDS[1], returns=Card)
    return found


def doubled(number: str) -> str:
    return number * 2


def test_a_child_reads_what_its_parent_gives() -> None:
    """Its input and its result are bound to the child, whoever writes or reads them; so is what a local step gives."""
    shop = Shop(Application("shop", [inner, outer], partitions=PARTITIONS, payloads=BOTH))
    inputs = [shop.request(START, saga_type="outer", payload=payloads_of(BOTH, "shop", IDS[0]).encode(Card(SECRET)))]
    written: list[OutRecord] = []
    while True:
        shop.take([*inputs, (shop.now, 10)])
        if not shop.partition.dirty:
            break
        records, offsets = shop.partition.output("writer-1")
        asked = [record for record in records if record.topic == TOPICS.control]
        inputs = [shop.record(r.topic, (r.key or b"").decode(), r.value, r.headers) for r in asked]
        shop.append([record for record in records if record not in asked], offsets)
        shop.partition.committed()
        written += records
        for job in shop.partition.take_jobs():
            shop.partition.answer(Ran(job.saga_id, job.id, "done", job.encode(doubled(SECRET))))

    assert shop.reasons() == []
    [parent] = [found for found in stored({r.key: r for r in shop.state if r.key}) if found.saga_id == IDS[0]]
    assert view("shop", parent, payloads=payloads_of(BOTH, "shop")).result == {
        "number": SECRET,
        "notes": f"of {SECRET * 2}",
    }
    assert not any(SECRET.encode() in (record.value or b"") for record in written)


def test_a_rebuilt_saga_is_what_was_stored(tmp_path: Path) -> None:
    """Folding compares bytes, with the keys and without them."""
    company = Company(tmp_path, BOTH)
    company.start(Card(SECRET))
    company.serve()
    company.signal(31)
    [found] = [one for one in company.stored() if one.saga_id == IDS[0]]
    history = {number: record.value or b"" for number, record in enumerate(company.shop.history)}

    for payloads in (payloads_of(BOTH, "shop"), payloads_of(None, "shop")):
        result = rebuilt("shop", IDS[0], found, history, Cut(), 0, payloads)
        assert result.differences == []
        assert result.view is not None
        assert (SECRET in str(result.view.result)) == (payloads is not PLAIN)


def test_keys_rotate_under_sagas_in_flight(tmp_path: Path) -> None:
    """Begun with the old key, answered with both, ended with the new one."""
    company = Company(tmp_path, OLD)
    company.start(Card(SECRET))
    company.deploy(BOTH)
    company.serve()
    company.signal(1)

    assert company.seen(BOTH).result == {"number": SECRET, "code": 1}


def test_a_key_that_was_retired_too_early_holds_the_saga(tmp_path: Path) -> None:
    """The reason names the key; once it is back and the saga is resumed, it goes on."""
    company = Company(tmp_path, OLD)
    company.start(Card(SECRET))
    company.deploy(NEW)
    waits = company.serve()

    assert isinstance(waits, Later)
    assert waits.outage
    assert "expected one of the keys 2026, got one encrypted with key '2025'" in waits.reason
    assert company.dead == []
    company.unit = Unit(participant(BOTH), company.engine, company.clock)
    company.serve()
    held = company.seen(BOTH)
    assert (held.status, held.hold) == ("running", "quarantined")
    assert "expected one of the keys 2026, got one encrypted with key '2025'" in held.hold_reason
    company.deploy(BOTH)
    company.ask(Request("r-9", RESUME, IDS[0], "test"))
    company.signal(1)
    assert company.seen(BOTH).result == {"number": SECRET, "code": 1}


def test_a_participant_without_the_format_waits(tmp_path: Path) -> None:
    """It was deployed too early, or wrongly: no saga fails of it."""
    company = Company(tmp_path, BOTH)
    company.start(Card(SECRET))
    company.unit = Unit(participant(None), company.engine, company.clock)

    waits = company.serve()
    assert isinstance(waits, Later)
    assert "payload Charge: expected JSON, got" in waits.reason
    company.deploy(BOTH)
    company.serve()
    company.signal(1)
    assert company.seen(BOTH).status == "completed"


def test_a_payload_of_another_saga_is_refused(tmp_path: Path) -> None:
    """Moved into this saga's reply it holds the saga; moved into its command it is a dead letter, never data."""
    company = Company(tmp_path, BOTH)
    company.start(Card(SECRET))
    stranger = payloads_of(BOTH, "shop", "another-saga").encode(Card("stolen"))
    command = company.shop.commands[-1]
    company.shop.do(company.shop.reply(command, payload=stranger))

    assert "expected one encrypted for it in application 'shop'" in company.seen(BOTH).hold_reason
    moved = replace(command, id="other", payload=stranger)
    [found] = company.unit.handle([Order(moved, "lane", last=True)], lambda _: None)
    assert isinstance(found, Settled)
    assert "it was altered, belongs to another saga" in (found.dead or "")


def test_refusals_stay_readable(tmp_path: Path) -> None:
    """A no and its reason are for operators and for the kernel: they are not encoded."""
    company = Company(tmp_path, BOTH)
    company.start(Card("no"))
    company.serve()

    assert company.seen(None).last_error == "declined ({'code': 7})"


def test_a_missing_blob_holds_the_saga(tmp_path: Path) -> None:
    """The start is kept, the saga begins and is held; the blob is back, and it goes on."""
    blobs = tmp_path / "blobs"
    database = tmp_path / "database"
    database.mkdir()
    company = Company(database, PayloadFormat([ClaimCheck(f"file://{blobs}", above=1_000)]))
    request = company.client.requests.start("paying", Card(SECRET, "x" * 2_000), saga_id=IDS[0])
    [blob] = [path for path in blobs.rglob("*") if path.is_file()]
    content = blob.read_bytes()
    blob.unlink()
    company.ask(request)

    held = company.seen(None)
    assert (held.status, held.hold) == ("running", "quarantined")
    assert f"expected blob {blob.name} of {len(content)} bytes, got FileNotFoundError" in held.hold_reason
    blob.write_bytes(content)
    company.ask(Request("r-9", RESUME, IDS[0], "test"))
    company.serve()
    company.signal(1)
    assert company.seen(company.format).result == {"number": SECRET, "code": 1}


def test_a_result_that_cannot_be_stored_waits(tmp_path: Path) -> None:
    """The store is away when a participant answers: nothing of the command is kept, and it is done again later."""
    blobs = tmp_path / "blobs"
    database = tmp_path / "database"
    database.mkdir()
    company = Company(database, PayloadFormat([ClaimCheck(f"file://{blobs}", above=15)]))
    company.start(Card("1"))
    blobs.rename(tmp_path / "away")
    blobs.write_text("in the way")
    assert isinstance(company.serve(), Later)

    blobs.unlink()
    (tmp_path / "away").rename(blobs)
    company.serve()
    company.signal(1)
    assert company.seen(company.format).result == {"number": "1", "code": 1}
    assert company.dead == []


def test_the_same_input_under_another_key_is_a_duplicate(tmp_path: Path) -> None:
    """A start that is sent again after the key was changed is no other start."""
    company = Company(tmp_path, OLD)
    first = company.start(Card(SECRET))
    company.deploy(BOTH)

    def sent(value: object) -> Sent:
        again = company.client.requests.start("paying", value, saga_id=IDS[0])
        return Sent(again.id, START, IDS[0], "paying", again.payload or b"", TOPICS.requests, 0, 7, 0)

    assert sent(Card(SECRET)).payload != first.payload
    record = [record for record in company.shop.state if record.key == IDS[0].encode()][-1]
    [found] = stored({record.key or b"": record})
    pages = read_pages([record.value or b""])
    bound = payloads_of(BOTH, "shop", IDS[0])
    assert judged(sent(Card(SECRET)), found, pages, bound).kind == "duplicate"
    assert judged(sent(Card("other")), found, pages, bound).kind == "conflict"


def test_other_ways_in_encode_too(tmp_path: Path) -> None:
    """An outbox row and a record of another topic become requests in the application's format."""
    given = FromTopic("orders", start="paying", saga_id=lambda record: IDS[0])
    app = Application("shop", [paying], services=[payments], partitions=PARTITIONS, payloads=BOTH, intake=[given])
    engine = connect(f"sqlite:///{tmp_path}/a.db", "a")
    with engine.begin() as connection:
        create_tables(connection)
        OutboxClient(app).start(connection, "paying", Card(SECRET), saga_id=IDS[0])
        row = connection.execute(text("SELECT payload, content_type FROM outbox")).one()
    [made] = Translator(app, TOPICS).translate(
        Record("orders", 0, 7, 0, b"k", b'{"number":"%s"}' % SECRET.encode(), [])
    )
    request = Request.parse(made.headers, made.value)

    for payload, kind in ((bytes(row[0]), row[1]), (request.payload or b"", request.content_type)):
        assert kind == ENCODED
        assert SECRET.encode() not in payload
        assert payloads_of(BOTH, "shop", IDS[0]).decode(payload, Card) == Card(SECRET)


def test_a_declared_saga_of_models(tmp_path: Path) -> None:
    """pydantic models as input and commands, filled by name, and read by a handler."""

    class Order(pydantic.BaseModel):
        number: str
        notes: str = ""

    class Take(pydantic.BaseModel):
        number: str
        notes: str = "none"

    class Back(pydantic.BaseModel):
        number: str

    stock = Participant("stock")

    @stock.handles
    def take(command: Take) -> Order:
        return Order(number=command.number, notes=command.notes)

    declared = Saga("declared", Order, [Step("take", Service("stock"), Take, undo=Back)])
    shop = Shop(Application("shop", [declared], partitions=PARTITIONS))
    shop.do(shop.start(value={"number": "1"}, saga="declared"))

    assert [(command.type, command.payload) for command in shop.commands] == [
        ("stock.Take", b'{"number":"1","notes":""}')
    ]
    engine = connect(f"sqlite:///{tmp_path}/stock.db", "stock")
    with engine.begin() as connection:
        create_tables(connection)
    Unit(stock, engine, lambda: shop.now / 1000).handle([order_of(shop.commands[0])], lambda dead: None)
    with engine.begin() as connection:
        assert connection.execute(text("SELECT type, payload FROM outbox")).one() == (
            "stock.Order",
            b'{"number":"1","notes":""}',
        )


def order_of(command: Command) -> Order:
    return Order(command, "lane")
