"""What a test asks beside start and signal, in every mode: later starts, deadlines, an operator's orders; payloads in
another format."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest

from kompensate.orchestrator import Application, Context, saga
from kompensate.orchestrator.testing import SagaTest, assert_replays, failed, in_turn, never, refused
from kompensate.schemas.compression import Zlib
from kompensate.schemas.encryption import AesGcm
from kompensate.schemas.formats import PayloadFormat
from tests.fixtures.driving import CHECKOUT, Charge, Confirm, Order, Release, Reserve, Ship, inventory, payments

SECRET = "4111-1111-1111-1111"


@dataclass
class Card:
    number: str


@dataclass
class Pay:
    number: str


@dataclass
class Repay:
    number: str


@saga("paying")
async def paying(ctx: Context, card: Card) -> str:
    paid = await ctx.call(payments, Pay(card.number), undo=Repay(card.number), returns=Card)
    code: str = await ctx.run(str.upper, paid.number)
    ctx.publish("card", paid)
    await ctx.call(inventory, Reserve(await ctx.receive("for")), undo=Release("o1"))
    return code


SECRETLY = PayloadFormat([Zlib(), AesGcm({"2026": b"\x01" * 32}, write="2026")])
APP = Application("shop", [CHECKOUT, paying], services=[payments, inventory], payloads=SECRETLY)


@pytest.fixture
def shop(saga_test: Callable[..., SagaTest]) -> SagaTest:
    return saga_test(APP)


def test_an_encrypted_application(shop: SagaTest) -> None:
    """The test reads and writes values; what is written down shows nothing of them."""
    shop.on(Pay, lambda pay: Card(pay.number + "-a"))
    found = shop.start(paying, Card(SECRET))
    found.signal("for", "o1")
    shop.run()

    found.assert_completed(f"{SECRET}-A")
    assert found.published == {"card": {"number": f"{SECRET}-a"}}
    assert found.result_as(str) == f"{SECRET}-A"
    assert found.messages(Pay) == [Pay(SECRET)]
    assert not any(SECRET.encode() in page for page in found.pages)


def test_an_encrypted_saga_is_undone_and_its_history_replays(
    shop: SagaTest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Refusals are read in the format too."""
    path = tmp_path_factory.mktemp("histories") / "paying.json"
    shop.on(Pay, lambda pay: Card(pay.number))
    shop.on(Reserve, refused("sold out"))
    found = shop.start(paying, Card(SECRET))
    found.signal("for", "o1")
    shop.run()

    found.assert_compensated("sold out")
    assert found.messages(Repay) == [Repay(SECRET)]
    found.save_history(path)
    assert SECRET not in path.read_text(encoding="utf-8")
    assert_replays(path, APP)


def test_a_start_that_waits(shop: SagaTest) -> None:
    """Until its time; the program sees that time."""
    began = shop.now
    found = shop.start(CHECKOUT, Order(), start_at=began + timedelta(days=3))
    shop.run_until_idle()
    assert found.commands == []

    shop.run()
    found.assert_completed()
    assert shop.now == began + timedelta(days=3)


def test_a_deadline(shop: SagaTest) -> None:
    """What is not done by then is cancelled and undone."""
    found = shop.start(paying, Card(SECRET), deadline=shop.now + timedelta(hours=1))
    shop.on(Pay, Card(SECRET))
    shop.run()

    found.assert_cancelled("its deadline has passed")
    assert found.undone == ["Pay"]


@pytest.fixture
def held(shop: SagaTest) -> SagaTest:
    """A checkout whose confirmation, past its pivot, failed for good."""
    shop.on(Ship, {"parcel": 1})
    shop.on(Release, in_turn(failed("lost"), failed("lost"), failed("lost")))
    shop.on(Charge, refused("no money"))
    shop.start(CHECKOUT, Order(), saga_id="o1")
    shop.run()
    return shop


def test_retry(held: SagaTest) -> None:
    """The undo that failed is tried again, and the saga goes on."""
    order = held.saga("o1")
    order.assert_held()
    held.on(Release, None)
    order.retry("reserve", who="ann", reason="mended")
    held.run()

    order.assert_compensated("no money")
    assert "retry by ann: mended" in order.story


@pytest.mark.parametrize("verb", ["skip", "complete"])
def test_skip_and_complete(held: SagaTest, verb: str) -> None:
    """Somebody did it by hand."""
    order = held.saga("o1")
    getattr(order, verb)("reserve", reason="done by hand")
    held.run()

    order.assert_compensated("no money")
    assert order.undone == ["reserve"]


def test_complete_with_a_result(shop: SagaTest) -> None:
    """The saga goes on with what the operator says."""
    shop.on(Pay, never())
    found = shop.start(paying, Card(SECRET))
    found.signal("for", "o1")
    shop.run_until_idle()
    found.assert_waits_for("Pay")
    found.complete(result=Card("5"))
    shop.run()

    found.assert_completed("5")


def test_compensate(shop: SagaTest) -> None:
    """Also past the pivot."""
    shop.on(Confirm, never())
    order = shop.start(CHECKOUT, Order())
    order.run_until("confirm")
    order.compensate(reason="the customer is gone")
    shop.run_until(lambda: order.status == "compensated", "it to be compensated")

    assert order.undone == ["charge", "reserve"]


def test_close(held: SagaTest) -> None:
    """It has failed as it is."""
    order = held.saga("o1")
    order.close(reason="written off")
    held.run()

    order.assert_failed()
    assert order.undone == []


def test_a_bad_time_is_told() -> None:
    """As by the client: without a zone nobody knows when it is."""
    with pytest.raises(ValueError, match="start_at: expected a datetime with a time zone"):
        SagaTest(APP).start(CHECKOUT, Order(), start_at=SagaTest(APP).now.replace(tzinfo=None))
