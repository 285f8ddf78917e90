"""The hook in memory: what is told of which record, once, and at least once whatever fails."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from kompensate.orchestrator.hook.main import HookProcess
from kompensate.orchestrator.hook.once import NotTold, Receiver, TellOnce
from kompensate.orchestrator.hook.troubles import Troubles
from kompensate.orchestrator.hook.webhook import Webhook
from kompensate.orchestrator.intake.loop import IntakeLoop
from kompensate.orchestrator.ports import OutRecord, Record
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.testing import MemoryBroker, VirtualClock
from kompensate.orchestrator.testing.sources import MemorySources
from kompensate.schemas import letters
from kompensate.schemas.messages import CANCEL, ORDERS, RESUME, SIGNAL, START, Command
from tests.fixtures.stage import Answer, Paper, refusing, silent_at

TARGET = "ops.troubles"
HOUR = 3_600_000


def never_released(command: Command) -> Answer:
    """Charging is refused, and what was reserved cannot be released."""
    if command.type.endswith("Release"):
        return "failed", b'{"reason": "warehouse is closed"}'
    return refusing("charge")(command)


def hold(paper: Paper, saga_id: str) -> None:
    """A saga whose compensation fails until it is held."""
    paper.ask(START, saga_id, saga_type="checkout", payload=b'{"order_id": "1"}')
    paper.play(never_released)
    for _ in range(12):
        paper.now += HOUR
        paper.fire(paper.now, never_released)
        paper.play(never_released)


class Bench:
    """A broker in memory that gets what a paper's worker writes, and a hook on it."""

    def __init__(self, receiver: Receiver | None = None) -> None:
        self.paper = Paper()
        self.clock = VirtualClock()
        self.broker = MemoryBroker(self.clock)
        self.settings = Settings()
        topics = self.paper.topics
        for topic in (topics.state, topics.quarantine, TARGET):
            self.broker.create_topic(topic, 1, record_bytes_max=100_000)
        self._receiver = receiver
        self._copied: dict[str, int] = {}
        self.loop = self.hook()

    def hook(self) -> IntakeLoop:
        """Another process of the same hook."""
        topics = self.paper.topics

        def connect() -> TellOnce:
            sources = MemorySources(
                self.broker,
                self.settings,
                group="shop~hook.hook",
                slot="a",
                topics=(topics.state, topics.quarantine),
                clock=self.clock,
            )
            return TellOnce(sources, self._receiver, self.clock)

        return IntakeLoop(connect, Troubles(topics, TARGET), self.settings, self.clock)

    def run(self, steps: int = 4) -> None:
        """Let the hook read all that was written."""
        for topic in (self.paper.topics.state, self.paper.topics.quarantine):
            records = self.paper.scan(topic, {0: self._copied.get(topic, 0)})
            for record in records:
                self.broker.produce(topic, 0, record.key, record.value, record.headers)
            self._copied[topic] = self._copied.get(topic, 0) + len(records)
        for _ in range(steps):
            self.loop.step()

    def restart(self) -> None:
        self.loop.close()
        self.loop = self.hook()

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(record.value or b"") for record in self.broker.read(TARGET, 0)]


def test_a_hold_is_told_once() -> None:
    """With what it is about; whatever the saga takes while it is held changes nothing."""
    bench = Bench()
    hold(bench.paper, "o-1")
    bench.run()
    for n in range(3):
        bench.paper.ask(SIGNAL, "o-1", subject="hello", payload=b"1", id=f"s-{n}")
        bench.paper.play()
        bench.run()

    [told] = bench.told()
    assert told["id"].startswith("shop/o-1/0.0/")
    assert {name: told[name] for name in ("app", "kind", "saga_id", "definition", "status", "step", "show")} == {
        "app": "shop",
        "kind": "held",
        "saga_id": "o-1",
        "definition": "checkout",
        "status": "compensating",
        "step": "reserve",
        "show": "kompensate show o-1 --app-name shop",
    }
    assert "warehouse is closed" in told["reason"]
    assert told["at"].startswith("2023-11-1")


def test_each_hold_is_told() -> None:
    """One that was released and is held again is another trouble."""
    bench = Bench()
    hold(bench.paper, "o-1")
    bench.run()
    bench.paper.ask(RESUME, "o-1")
    bench.paper.play(never_released)
    bench.paper.now += HOUR
    bench.paper.fire(bench.paper.now, never_released)
    for _ in range(30):
        bench.paper.now += HOUR
        bench.paper.fire(bench.paper.now, never_released)
        bench.paper.play(never_released)
    bench.run()

    assert [told["kind"] for told in bench.told()] == ["held", "held"]
    assert len({told["id"] for told in bench.told()}) == 2


def test_a_failed_saga_and_a_rejected_record_are_told() -> None:
    """Ends that are no trouble are not; a rejected record's payload is nobody's business out there."""
    bench = Bench()
    paper = bench.paper
    for saga_id in ("done-1", "back-1"):
        paper.ask(START, saga_id, saga_type="checkout", payload=b'{"order_id": "1"}')
        paper.play(refusing("charge") if saga_id == "back-1" else silent_at(""))
    hold(paper, "o-1")
    paper.ask(ORDERS["close"], "o-1", who="ann", subject="settled by hand")
    paper.ask(START, "o-2", saga_type="chekout", payload=b'{"secret": 1}')
    paper.ask(CANCEL, "nobody")
    paper.play()
    disposal = [(letters.DONE, b"discarded"), (letters.OF, b"shop.requests/0@9")]
    paper.write([OutRecord(paper.topics.quarantine, 0, None, None, disposal)])
    bench.run()

    held, failed, *rejected = bench.told()
    assert (held["kind"], failed["kind"], failed["saga_id"]) == ("held", "failed", "o-1")
    assert (failed["status"], failed["reason"]) == ("failed", "closed by ann: settled by hand")
    assert [(told["kind"], told["saga_id"], told["record"]["type"]) for told in rejected] == [
        ("rejected", "o-2", "kompensate.start"),
        ("rejected", "nobody", "kompensate.cancel"),
    ]
    assert "got 'chekout'" in rejected[0]["reason"]
    assert "secret" not in json.dumps(rejected)


@pytest.mark.parametrize("size", range(300, 1_300, 100))
def test_a_hold_is_told_wherever_its_page_ends(size: int) -> None:
    bench = Bench()
    bench.paper = Paper(page_bytes_max=size)
    hold(bench.paper, "o-1")
    bench.run()

    assert [told["kind"] for told in bench.told()] == ["held"]


def test_a_page_that_was_closed_tells_of_its_hold() -> None:
    """What came in the same transaction may have filled the page: the one after it knows nothing of the hold."""
    paper = Paper()
    hold(paper, "o-1")
    record = paper.state()[b"o-1"]
    closed = record._replace(headers=[("kompensate", b"0.0 0 0 - - -")])
    troubles = Troubles(paper.topics, TARGET)

    [told] = troubles.translate(closed)
    [before] = troubles.translate(record)
    assert json.loads(told.value or b"") == json.loads(before.value or b"") | {"status": None}
    paper.ask(RESUME, "o-1")
    paper.play(never_released)
    resumed = paper.state()[b"o-1"]
    assert troubles.translate(resumed._replace(headers=closed.headers)) == [], "it was released on the same page"


class Scripted:
    """Takes what it is told, but for the first so many times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.ids: list[str] = []

    def tell(self, id_: str, body: bytes) -> None:
        assert json.loads(body)["id"] == id_
        if len(self.ids) == 1 and self.failures:  # the first is taken, the second is not
            self.failures -= 1
            raise NotTold("expected ops to answer 2xx, got 503")
        self.ids.append(id_)


def test_who_does_not_answer_is_told_later() -> None:
    """Again and again, more and more rarely; who has taken it is not told again, and nothing is left out."""
    receiver = Scripted(failures=6)
    bench = Bench(receiver)
    for saga_id in ("o-1", "o-2", "o-3"):
        hold(bench.paper, saga_id)
    before = bench.clock.monotonic()
    bench.run(steps=3)
    assert len(receiver.ids) == 1
    bench.run(steps=20)

    assert [id_.split("/")[1] for id_ in receiver.ids] == ["o-1", "o-2", "o-3"]
    assert bench.clock.monotonic() - before > 0.05 * (1 + 2 + 4 + 8 + 16 + 32)
    assert bench.told() == [], "a receiver is told instead of a topic"


def test_a_restart_tells_what_was_not_committed() -> None:
    """Who dies between telling and committing is followed by one who tells again, by the same ids."""
    receiver = Scripted(failures=10**6)
    bench = Bench(receiver)
    for saga_id in ("o-1", "o-2"):
        hold(bench.paper, saga_id)
    bench.run()
    first = list(receiver.ids)
    bench.restart()
    receiver.failures = 0
    bench.run(steps=20)

    assert [id_.split("/")[1] for id_ in first] == ["o-1"]
    assert [id_.split("/")[1] for id_ in receiver.ids] == ["o-1", "o-1", "o-2"]
    bench.restart()
    bench.run()
    assert len(receiver.ids) == 3, "what was committed is not read again"


def test_a_record_that_does_not_read_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its place; those after it are told."""
    bench = Bench()
    hold(bench.paper, "o-1")
    good = bench.paper.state()[b"o-1"]
    damaged = bytearray(good.value or b"")
    damaged[-30] ^= 4
    bench.broker.produce(bench.paper.topics.state, 0, b"o-0", bytes(damaged), good.headers)
    bench.run()

    assert [told["saga_id"] for told in bench.told()] == ["o-1"]
    assert f"{bench.paper.topics.state}/0@0: page 0: expected checksum" in caplog.text


def test_what_kafka_refuses_is_told_in_short() -> None:
    """The loop puts aside what cannot be written: of it at least the place is told."""
    record = Record("shop.app.state", 0, 7, 1_700_000_000_000, b"o-1", b"", None)
    told = json.loads(Troubles(Paper().topics, TARGET).quarantined(record, "too large").value or b"")

    assert (told["kind"], told["reason"]) == ("untold", "shop.app.state/0@7: too large")


@pytest.fixture
def web() -> Iterator[tuple[str, list[tuple[str, bytes]], list[int]]]:
    """An address, what was posted there, and the answers that it gives first (then 204)."""
    posted: list[tuple[str, bytes]] = []
    answers: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            posted.append((self.headers["idempotency-key"], body))
            self.send_response(answers.pop(0) if answers else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not into the test's output."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret", posted, answers
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_takes_any_2xx_for_taken(web: tuple[str, list[tuple[str, bytes]], list[int]]) -> None:
    """Everything else is not told yet, with what was got; the address's path is named nowhere."""
    url, posted, answers = web
    answers += [201, 500, 404]
    hook = Webhook(url, timeout=5.0)

    hook.tell("a/1", b"{}")
    for code in (500, 404):
        with pytest.raises(NotTold, match=f"expected 127.0.0.1 to answer 2xx, got {code}") as raised:
            hook.tell("a/2", b"{}")
        assert "secret" not in str(raised.value)

    assert posted == [("a/1", b"{}"), ("a/2", b"{}"), ("a/2", b"{}")]


def test_nobody_there_is_not_told() -> None:
    with pytest.raises(NotTold, match=r"expected 127\.0\.0\.1 to answer within 1 s, got .*refused"):
        Webhook("http://127.0.0.1:1/", timeout=1.0).tell("a/1", b"{}")


@pytest.mark.parametrize("url", ["ops.example/x", "file:///etc/passwd", "https://"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="URL: expected https://HOST/"):
        Webhook(url)


def test_a_hook_needs_one_to_tell() -> None:
    with pytest.raises(ValueError, match="expected a receiver or a topic, got neither"):
        HookProcess("shop", Settings())
