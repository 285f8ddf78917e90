"""The relay on lines that fail: to PostgreSQL, of every kind; nothing is lost, and it finds out by itself."""

import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from kompensate.outbox.main import RelayService
from tests.fixtures.network import BOTH, Direction, Line
from tests.fixtures.outboxes import RealOutbox, write_numbers
from tests.fixtures.polled_outboxes import PolledOutbox
from tests.fixtures.waiting import wait_until

TAKEOVER_SECONDS = 5.0
ANSWER_SECONDS = 1.0
"""Instead of half a minute: how long a relay waits for an answer."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kompensate.outbox.answers.ANSWER_SECONDS", ANSWER_SECONDS)


@pytest.fixture(params=["log", "polled"])
def shop(request: pytest.FixtureRequest, postgres: str, kafka: str, topic_prefix: str) -> Iterator[RealOutbox]:
    """An empty outbox for each kind of relay."""
    made = (PolledOutbox if request.param == "polled" else RealOutbox)(postgres, kafka, topic_prefix)
    yield made
    made.close()


@pytest.fixture
def line(postgres: str) -> Iterator[Line]:
    """The way of a relay to PostgreSQL."""
    with Line.to_database(postgres) as made:
        yield made


FAULTS: dict[str, Callable[[Line], object]] = {
    "silent": lambda line: line.fall_silent(),
    "silent from the server": lambda line: line.fall_silent(["down"]),
    "silent to the server": lambda line: line.fall_silent(["up"]),
    "reset": lambda line: line.reset(),
    "cut in mid-message": lambda line: line.cut_after(1_000),
    "slow": lambda line: line.delay(0.1),
}


@pytest.mark.slow
def test_a_line_to_the_database_fails_while_rows_come(shop: RealOutbox, line: Line) -> None:
    """Whatever the line does, the relay connects anew within its own deadline, and every row arrives, in order."""
    written: list[bytes | None] = []
    with RelayService(shop.settings(dsn=line.dsn(shop.dsn))) as service:
        for fault, act in FAULTS.items():
            written += write_numbers(shop, len(written), 20)
            shop.arrived(written)
            act(line)
            written += write_numbers(shop, len(written), 20)
            line.mend()
            shop.arrived(written, 60)
            assert service.failure is None, fault
    shop.in_order()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shop", "silent"),
    [("log", BOTH), ("log", ["down"]), ("polled", ["down"])],
    ids=["log, both ways", "log, from the server", "polled, from the server"],
    indirect=["shop"],
)
def test_a_standby_elsewhere_takes_over(shop: RealOutbox, line: Line, silent: Sequence[Direction]) -> None:
    """The server gives up a reader that it does not hear; one that it hears gives up itself what says nothing to it."""
    first, second = RelayService(shop.settings(dsn=line.dsn(shop.dsn))), RelayService(shop.settings())
    with first:
        wait_until("the first reads", lambda: first.state == "streaming")
        with second:
            wait_until("the second stands by", lambda: second.state == "standby")
            written = write_numbers(shop, 0, 50)
            shop.arrived(written)
            began = time.monotonic()
            line.fall_silent(silent)
            wait_until("the second reads", lambda: second.state == "streaming")
            took = time.monotonic() - began
            written += write_numbers(shop, 50, 50)
            shop.arrived(written)
            line.mend()
            wait_until("the first noticed, and stands by", lambda: first.state == "standby")

    assert took < TAKEOVER_SECONDS, f"{took:.2f} s"
    shop.in_order()
