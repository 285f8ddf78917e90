"""What is too large is refused before anything is sent, on every way in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import text

from kompensate.orchestrator import Application, Context, Service, saga
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.reading.status import view
from kompensate.orchestrator.reading.stored import stored
from kompensate.outbox.tables import create_tables
from kompensate.outbox.writer import request_row, write
from kompensate.participants.database import connect
from kompensate.schemas.formats import PayloadFormat
from kompensate.schemas.messages import SIGNAL, Request
from kompensate.schemas.payloads import PAYLOAD_BYTES_MAX, BadPayload
from tests.fixtures.partitions import PARTITIONS, TOPICS, Shop

payments = Service("payments")


@dataclass
class Charge:
    number: str


@saga("large")
async def large(ctx: Context, where: str) -> str:
    if where == "call":
        await ctx.call(payments, Charge("x" * PAYLOAD_BYTES_MAX))
    return "x" * PAYLOAD_BYTES_MAX


HUGE = "x" * PAYLOAD_BYTES_MAX
REFUSED = f"expected at most {PAYLOAD_BYTES_MAX} bytes, got"


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.start("paying", HUGE, saga_id="a"),
        lambda client: client.start("paying", b'"' + HUGE.encode() + b'"', saga_id="a"),
        lambda client: client.signal("a", "code", HUGE),
    ],
)
@pytest.mark.parametrize("found", [None, PayloadFormat()])
def test_a_client_refuses_what_is_too_large(ask: Callable[[Client], object], found: PayloadFormat | None) -> None:
    """There is no broker here: it is refused before one is asked."""
    with pytest.raises(BadPayload, match=REFUSED):
        ask(Client("127.0.0.1:1", "shop", payloads=found))


def test_the_outbox_refuses_what_is_too_large(tmp_path: Path) -> None:
    """The caller's transaction fails with the reason, and none of its rows is added."""
    engine = connect(f"sqlite:///{tmp_path}/a.db", "a")
    rows = [
        request_row(Request("r", SIGNAL, "a", "test", subject="code", payload=payload), TOPICS.requests, 0)
        for payload in (b"1", HUGE.encode() + b"x")
    ]
    with engine.begin() as connection:
        create_tables(connection)
        with pytest.raises(BadPayload, match=REFUSED):
            write(connection, rows)
        assert connection.execute(text("SELECT count(*) FROM outbox")).scalar_one() == 0


@pytest.mark.parametrize("where", ["call", "result"])
def test_a_saga_that_makes_too_much_is_held(where: str) -> None:
    """The program is wrong, and its neighbours are not: nothing was sent."""
    shop = Shop(Application("shop", [large], services=[payments], partitions=PARTITIONS))
    shop.do(shop.start(value=where, saga="large"))
    record = shop.state[-1]

    [found] = stored({record.key or b"": record})
    seen = view("shop", found)
    assert seen.hold == "quarantined"
    assert REFUSED in seen.hold_reason
    assert shop.commands == []
