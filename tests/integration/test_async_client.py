"""The asyncio client on a real broker: as the sync one, for many callers at once, on two threads in all."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kompensate.orchestrator.async_client import AsyncClient
from kompensate.orchestrator.client import Client, Start
from kompensate.orchestrator.client_errors import (
    AlreadyStarted,
    ClientError,
    MissingTopic,
    StartRejected,
    TimedOut,
    Unreachable,
)
from kompensate.orchestrator.reading.status import SagaView
from kompensate.schemas.messages import Request
from tests.fixtures.stage import Order, Stage, refusing, silent_at
from tests.fixtures.waiting import wait_until


@pytest.fixture
def stage(kafka: str, topic_prefix: str) -> Iterator[Stage]:
    """An application on real topics, with nobody at work but the test."""
    made = Stage(kafka, topic_prefix)
    yield made
    made.close()


def ask(stage: Stage, work: Callable[[AsyncClient], Awaitable[None]]) -> None:
    """Run `work` with a client, on a loop of its own."""

    async def run() -> None:
        async with AsyncClient(stage.bootstrap, "shop", prefix=stage.prefix) as client:
            await work(client)

    asyncio.run(run())


def requests(stage: Stage) -> list[Request]:
    topics = (stage.topics.requests, stage.topics.control)
    records = [record for topic in topics for record in stage.reader.scan(topic, {0: 0, 1: 0})]
    return [Request.parse(record.headers, record.value) for record in records]


async def played(stage: Stage, expected: int) -> None:
    """Play the stage once so many requests are there."""
    await asyncio.to_thread(wait_until, "requests", lambda: len(requests(stage)) >= expected)
    await asyncio.to_thread(stage.play)


def test_every_verb_is_the_sync_clients(stage: Stage) -> None:
    """Each verb sends the same request as the sync client's, acknowledged on the same partition."""

    async def work(client: AsyncClient) -> None:
        await client.start("checkout", Order("1"), saga_id="o-1")
        await client.signal("o-2", "approved", {"by": "ann"}, signal_id="s-1")
        await client.signal_with_start(
            "approval", Order("3"), saga_id="o-3", signal="approved", payload="ann", signal_id="s-2"
        )
        await client.cancel("o-4", "too late")
        await client.pause("o-5")
        await client.resume("o-6", "mended")

    ask(stage, work)
    ours = requests(stage)
    with Client(stage.bootstrap, "shop", prefix=stage.prefix) as client:
        client.start("checkout", Order("1"), saga_id="o-1")
        client.signal("o-2", "approved", {"by": "ann"}, signal_id="s-1")
        client.signal_with_start(
            "approval", Order("3"), saga_id="o-3", signal="approved", payload="ann", signal_id="s-2"
        )
        client.cancel("o-4", "too late")
        client.pause("o-5")
        client.resume("o-6", "mended")
    both = requests(stage)

    assert len(ours) == 7
    for saga_id in {r.saga_id for r in ours}:
        once = [replace(r, id="", time=None) for r in ours if r.saga_id == saga_id]
        assert [replace(r, id="", time=None) for r in both if r.saga_id == saga_id] == once * 2
    stage.play()
    with Client(stage.bootstrap, "shop", prefix=stage.prefix) as client:
        assert client.result("o-3", timeout=5).status == "completed"


def test_many_callers_wait_on_two_threads(stage: Stage) -> None:
    """Hundreds of callers start and wait for their sagas' ends at once; the loop goes on, and threads stay few."""
    beats = []

    async def heart() -> None:
        while True:
            beats.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.01)

    async def work(client: AsyncClient) -> None:
        beating = asyncio.create_task(heart())
        callers = [
            asyncio.gather(
                client.start("checkout", Order(str(n)), saga_id=f"m-{n}", wait=True), client.result(f"m-{n}")
            )
            for n in range(300)
        ]
        await played(stage, 300)
        threads = [t.name for t in threading.enumerate() if t.name.startswith("kompensate")]
        for sent, ended in await asyncio.gather(*callers):
            assert sent.outcome is not None
            assert (sent.outcome.kind, ended.status) == ("started", "completed")
        beating.cancel()
        assert sorted(threads) == ["kompensate-client", "kompensate-tail"]

    ask(stage, work)
    assert max(b - a for a, b in itertools.pairwise(beats)) < 1.0


def test_outcomes_are_told_apart(stage: Stage) -> None:
    """Started, duplicate, conflict, rejected and handled, waited for or asked for later."""

    async def work(client: AsyncClient) -> None:
        sent = [
            await client.start("checkout", {"order_id": "1"}, saga_id="o-1"),
            await client.start("checkout", {"order_id": "1"}, saga_id="o-1"),
            await client.start("checkout", {"order_id": "2"}, saga_id="o-1"),
            await client.start("nothing", {}, saga_id="o-2"),
            await client.pause("o-1"),
        ]
        asked = [asyncio.ensure_future(client.outcome(one)) for one in sent[:2]]
        await asyncio.to_thread(stage.play, silent_at("ship"))
        before = [await one for one in asked]
        after = [await client.outcome(one) for one in sent]
        assert [o.kind for o in before] == ["started", "duplicate"]
        assert [o.kind for o in after] == ["started", "duplicate", "conflict", "rejected", "handled"]

    ask(stage, work)


def test_a_policy_says_whether_an_id_in_use_is_an_error(stage: Stage) -> None:
    """fail raises AlreadyStarted, use_existing takes the saga that is there; a rejected start raises either way."""

    async def work(client: AsyncClient) -> None:
        first = asyncio.ensure_future(
            client.start("checkout", {"order_id": "1"}, saga_id="o-1", id_conflict_policy="fail")
        )
        await played(stage, 1)
        assert (await first).outcome == (await client.outcome(await first))
        again = asyncio.ensure_future(
            client.start("checkout", {"order_id": "2"}, saga_id="o-1", id_conflict_policy="fail")
        )
        joined = asyncio.ensure_future(
            client.start("checkout", {"order_id": "2"}, saga_id="o-1", id_conflict_policy="use_existing")
        )
        unknown = asyncio.ensure_future(client.start("nothing", saga_id="o-2", id_conflict_policy="use_existing"))
        await played(stage, 4)
        with pytest.raises(AlreadyStarted, match="saga 'o-1': expected no saga of this id, got one"):
            await again
        outcome = (await joined).outcome
        assert outcome is not None
        assert outcome.kind == "conflict"
        with pytest.raises(StartRejected, match="got 'nothing'"):
            await unknown
        with pytest.raises(ValueError, match="expected 'fail' or 'use_existing', got 'terminate'"):
            await client.start("checkout", saga_id="o-3", id_conflict_policy="terminate")  # type: ignore[arg-type]

    ask(stage, work)
    assert "o-3" not in {r.saga_id for r in requests(stage)}


def test_a_saga_is_executed(stage: Stage) -> None:
    """Its end is the answer; the same again waits for the same saga, another one under its id is AlreadyStarted."""

    async def work(client: AsyncClient) -> None:
        def asked(number: str) -> asyncio.Future[SagaView]:
            return asyncio.ensure_future(client.execute("checkout", {"order_id": number}, saga_id="o-1"))

        same = [asked("1"), asked("1")]
        unknown = asyncio.ensure_future(client.execute("nothing", saga_id="o-2"))
        await played(stage, 3)
        assert [(await each).status for each in same] == ["completed", "completed"]
        other = asked("2")  # only now: of those that are asked together any may come first
        await played(stage, 4)
        with pytest.raises(AlreadyStarted, match="saga 'o-1' was started with another input"):
            await other
        with pytest.raises(StartRejected, match="got 'nothing'"):
            await unknown

    ask(stage, work)


def test_the_sync_client_has_the_same_policies(stage: Stage) -> None:
    """With a worker at work start() itself raises."""
    stopping = threading.Event()

    def at_work() -> None:
        while not stopping.is_set():
            stage.play(refusing("charge"))

    worker = threading.Thread(target=at_work)
    worker.start()
    try:
        with Client(stage.bootstrap, "shop", prefix=stage.prefix) as client:
            client.start("checkout", {"order_id": "1"}, saga_id="o-1", id_conflict_policy="fail")
            with pytest.raises(AlreadyStarted, match="started before"):
                client.start("checkout", {"order_id": "1"}, saga_id="o-1", id_conflict_policy="fail")
            client.start("checkout", {"order_id": "2"}, saga_id="o-1", id_conflict_policy="use_existing")
            with pytest.raises(StartRejected, match="got 'nothing'"):
                client.start("nothing", saga_id="o-2", id_conflict_policy="fail")
            assert client.execute("checkout", {"order_id": "1"}, saga_id="o-1").saga_id == "o-1"
            with pytest.raises(AlreadyStarted, match="with another input"):
                client.execute("checkout", {"order_id": "2"}, saga_id="o-1")
    finally:
        stopping.set()
        worker.join()


def test_results_of_what_is_there_and_of_what_is_to_come(stage: Stage) -> None:
    """An ended saga's result comes from the past, one under way times out telling how far it is, then ends."""

    async def work(client: AsyncClient) -> None:
        await client.start("checkout", {"order_id": "1"}, saga_id="o-1")
        with pytest.raises(TimedOut, match="got: it has not started"):
            await client.result("o-1", timeout=0.2)
        with pytest.raises(TimedOut, match="is a worker running"):
            await client.start("checkout", {"order_id": "2"}, saga_id="o-2", wait=True, timeout=0.2)
        await asyncio.to_thread(stage.play, silent_at("ship"))
        with pytest.raises(TimedOut, match="got: running"):
            await client.result("o-1", timeout=0.5)
        await client.start("checkout", {"order_id": "3"}, saga_id="o-3")
        await asyncio.to_thread(stage.play, refusing("charge"))
        ended = await client.result("o-3", timeout=5)
        assert (ended.status, ended.reason) == ("compensated", "charge: card declined")

    ask(stage, work)


def test_errors_are_the_sync_clients(stage: Stage, topic_prefix: str) -> None:
    """Bad arguments, a missing application and a dead broker are told by the same errors; nothing hangs."""

    async def work(client: AsyncClient) -> None:
        with pytest.raises(ValueError, match="saga id: expected"):
            await client.start("checkout", saga_id="o/1")
        async with AsyncClient(stage.bootstrap, "nothing", prefix=topic_prefix) as other:
            for _ in range(2):
                with pytest.raises(MissingTopic, match=r"nothing\.requests"):
                    await other.start("checkout", saga_id="o-1")
        async with AsyncClient("127.0.0.1:1", "shop", timeout=0.5) as dead:
            with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
                await dead.start("checkout", saga_id="o-1")
        assert await client.send([]) == []

    ask(stage, work)
    assert requests(stage) == []


def test_closing_tells_those_who_wait(stage: Stage) -> None:
    """Whoever still waits when the client is closed gets an error, not silence."""

    async def work() -> None:
        client = AsyncClient(stage.bootstrap, "shop", prefix=stage.prefix)
        await client.start_many([Start("checkout", "o-1", {"order_id": "1"})])
        waiting = asyncio.ensure_future(client.result("o-1", timeout=30))
        with pytest.raises(TimedOut):
            await client.result("o-1", timeout=0.1)
        await client.aclose()
        with pytest.raises(ClientError, match="was closed"):
            await waiting

    asyncio.run(work())


def test_closing_completes_what_is_under_way(stage: Stage) -> None:
    """A request that was handed over before the close is still acknowledged to its caller."""

    async def work() -> None:
        client = AsyncClient(stage.bootstrap, "shop", prefix=stage.prefix)
        await client.start("checkout", {"order_id": "0"}, saga_id="o-0")
        sending = asyncio.ensure_future(client.start("checkout", {"order_id": "1"}, saga_id="o-1"))
        await asyncio.sleep(0)  # it has offered its request
        await client.aclose()
        assert (await sending).saga_id == "o-1"

    asyncio.run(work())
    assert {r.saga_id for r in requests(stage)} == {"o-0", "o-1"}


def test_a_start_may_wait_and_a_saga_may_have_a_deadline(stage: Stage) -> None:
    """Before its time a saga is pending, then it begins; at its deadline it is cancelled. Naive times are refused."""
    now = datetime.now(UTC)
    later, latest = now + timedelta(hours=1), now + timedelta(hours=2)

    async def work(client: AsyncClient) -> None:
        waiting = asyncio.ensure_future(
            client.start("checkout", {"order_id": "1"}, saga_id="o-1", start_at=later, wait=True)
        )
        await client.start_many([Start("checkout", "o-2", {"order_id": "2"}, deadline=latest)])
        with pytest.raises(ValueError, match="start_at: expected a datetime with a time zone"):
            await client.start("checkout", saga_id="o-3", start_at=datetime(2040, 1, 1))  # on purpose
        await asyncio.to_thread(wait_until, "requests", lambda: len(requests(stage)) == 2)
        await asyncio.to_thread(stage.play, silent_at("reserve"))
        outcome = (await waiting).outcome
        assert outcome is not None
        assert outcome.kind == "started"

        await asyncio.to_thread(stage.fire, round(later.timestamp() * 1000))
        with pytest.raises(TimedOut, match="got: running"):
            await client.result("o-1", timeout=0.5)
        await asyncio.to_thread(stage.fire, round(latest.timestamp() * 1000))
        with pytest.raises(TimedOut, match="got: compensating"):
            await client.result("o-2", timeout=0.5)

    ask(stage, work)
