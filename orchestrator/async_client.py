"""The client for asyncio programs: the verbs of `Client`, awaited; the loop never blocks and no call costs a thread.

    async with AsyncClient("localhost:9092", "shop") as client:
        await client.start("checkout", {"order_id": "o-1"}, saga_id="o-1")
        ended = await client.result("o-1", timeout=60)

Two threads serve any number of callers: one lets librdkafka report deliveries, which completes the callers' futures;
one follows the state topic for all who wait for an outcome or an end (`kompensate.orchestrator.reading.tail`), and
runs only once somebody does. One object a process is enough, in a FastAPI lifespan for instance; it belongs to the
event loop that first uses it.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, cast, overload

from kompensate.orchestrator.asking.requests import Start
from kompensate.orchestrator.asking.resetting import resetting
from kompensate.orchestrator.asking.sender import Delivery
from kompensate.orchestrator.client import OUTCOME_SECONDS, Client
from kompensate.orchestrator.reading.handling import not_ended, not_handled
from kompensate.orchestrator.reading.outcomes import (
    ConflictPolicy,
    Outcome,
    Sent,
    check_policy,
    expect_accepted,
)
from kompensate.orchestrator.reading.publishing import one_of
from kompensate.orchestrator.reading.reader import TIMEOUT_SECONDS
from kompensate.orchestrator.reading.status import SagaView, view
from kompensate.orchestrator.reading.tail import Tail
from kompensate.orchestrator.reading.waiters import End, Fate, Shows
from kompensate.schemas.formats import PayloadFormat
from kompensate.schemas.messages import Request

FULL_SECONDS = 0.01
"""The wait before librdkafka is offered what its full queue did not take."""
SERVE_SECONDS = 0.1
"""How soon the serving thread sees that it is to end; reports wake it at once."""


class AsyncClient:
    """Arguments, verbs and errors as `Client`'s. A call that is cancelled may have been sent all the same."""

    def __init__(
        self,
        bootstrap: str,
        app: str,
        *,
        prefix: str = "",
        kafka: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT_SECONDS,
        source: str = "kompensate:client",
        payloads: PayloadFormat | None = None,
    ) -> None:
        options: dict[str, Any] = {"prefix": prefix, "kafka": kafka, "timeout": timeout, "source": source}
        self._client = Client(bootstrap, app, payloads=payloads, **options)
        self.topics = self._client.topics
        self._sender = self._client.sender
        self._tail = Tail(self._client.open_lookup)
        self._placing: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: list[tuple[asyncio.Future[list[Delivery]], list[Delivery]]] = []
        self._stopping = threading.Event()
        self._server = threading.Thread(target=self._serve, name="kompensate-client", daemon=True)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of the connections. What was sent is acknowledged already; whoever still waits gets a ClientError."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._tail.close()
        self._stopping.set()
        if self._server.is_alive():
            self._server.join()
        self._client.close()  # which waits for the reports that are still to come
        self._hand_over()

    # -- asking

    async def start(
        self,
        saga: str,
        input: object = None,  # noqa: A002  # as in Saga
        *,
        saga_id: str,
        wait: bool = False,
        id_conflict_policy: ConflictPolicy | None = None,
        start_at: datetime | None = None,
        deadline: datetime | None = None,
        attributes: Mapping[str, object] | None = None,
        timeout: float = OUTCOME_SECONDS,
    ) -> Sent:
        """Start a saga; returns when Kafka has the request, with `wait` or a policy when a worker has handled it."""
        check_policy(id_conflict_policy)
        request = self._client.requests.start(
            saga, input, saga_id=saga_id, start_at=start_at, deadline=deadline, attributes=attributes
        )
        if not wait and id_conflict_policy is None:
            return (await self.send([request]))[0]
        await self._placed()
        await self._tailing()
        fate = Fate(saga_id, self._sender.partition(saga_id))
        self._tail.watch(fate, past=False)  # before it is sent: nothing that follows is missed
        try:
            sent = (await self.send([request]))[0]
            fate.ask(sent)
            outcome = await self._told(fate.future, sent, timeout)
        finally:
            self._tail.forget(fate)
        return expect_accepted(replace(sent, outcome=outcome), id_conflict_policy)

    async def execute(
        self,
        saga: str,
        input: object = None,  # noqa: A002  # as in Saga
        *,
        saga_id: str,
        attributes: Mapping[str, object] | None = None,
        timeout: float = OUTCOME_SECONDS,
    ) -> SagaView:
        """Start a saga and wait for its end, `timeout` seconds in all; the same again waits for the same saga."""
        until = time.monotonic() + timeout
        (
            await self.start(saga, input, saga_id=saga_id, attributes=attributes, wait=True, timeout=timeout)
        ).expect_same()
        return await self.result(saga_id, max(0.0, until - time.monotonic()))

    async def start_many(self, starts: Iterable[Start]) -> list[Sent]:
        """Start many sagas at once, in their order; returns when Kafka has them all."""
        return await self.send([self._client.requests.of(start) for start in starts])

    async def signal(self, saga_id: str, name: str, payload: object = None, *, signal_id: str | None = None) -> Sent:
        """Send a saga a message; it may come before the start. `signal_id` makes it idempotent."""
        return (await self.send([self._client.requests.signal(saga_id, name, payload, signal_id=signal_id)]))[0]

    async def signal_with_start(
        self,
        saga: str,
        input: object = None,  # noqa: A002  # as in Saga
        *,
        saga_id: str,
        signal: str,
        payload: object = None,
        signal_id: str | None = None,
        attributes: Mapping[str, object] | None = None,
    ) -> tuple[Sent, Sent]:
        """Send a saga a signal, and start it before where it is not there; returns when Kafka has both."""
        start = self._client.requests.start(saga, input, saga_id=saga_id, attributes=attributes)
        signalling = self._client.requests.signal(saga_id, signal, payload, signal_id=signal_id)
        started, signalled = await self.send([start, signalling])
        return started, signalled

    async def cancel(self, saga_id: str, reason: str = "") -> Sent:
        """Ask a saga to stop and undo what it did."""
        return (await self.send([self._client.requests.cancel(saga_id, reason)]))[0]

    async def pause(self, saga_id: str, reason: str = "") -> Sent:
        """Hold a saga where it is."""
        return (await self.send([self._client.requests.pause(saga_id, reason)]))[0]

    async def resume(self, saga_id: str, reason: str = "") -> Sent:
        """Release a saga that is paused or quarantined."""
        return (await self.send([self._client.requests.resume(saga_id, reason)]))[0]

    async def order(
        self, verb: str, saga_id: str, *, who: str, reason: str, step: str | None = None, result: object = None
    ) -> Sent:
        """Give an operator's order: retry, skip, complete, compensate or close; `who` and `reason` are recorded."""
        order = self._client.requests.order(verb, saga_id, who=who, reason=reason, step=step, result=result)
        return (await self.send([order]))[0]

    async def fork(
        self,
        saga_id: str,
        new_id: str,
        *,
        who: str,
        reason: str,
        step: str | None = None,
        event: int | None = None,
        version: int | None = None,
    ) -> Sent:
        """Have saga `new_id` go on from the history of one that has ended; the history is read in a thread."""
        about: dict[str, Any] = {"who": who, "reason": reason, "step": step, "event": event, "version": version}
        point = await asyncio.to_thread(self._client.point, saga_id, **about)
        return (await self.send([self._client.requests.fork(point, new_id)]))[0]

    async def reset(
        self,
        saga_id: str,
        new_id: str,
        *,
        who: str,
        reason: str,
        step: str | None = None,
        event: int | None = None,
        version: int | None = None,
        timeout: float = OUTCOME_SECONDS,
    ) -> Sent:
        """As `fork`, of a saga under way: it undoes what came after the point, and ends; then the other one goes on."""
        about: dict[str, Any] = {"who": who, "reason": reason, "step": step, "event": event, "version": version}
        until = time.monotonic() + timeout
        point = await asyncio.to_thread(self._client.point, saga_id, reset=True, **about)
        steps = resetting(self._client.requests, point, new_id)
        ask = next(steps)
        try:
            while True:
                sent = (await self.send([ask.request]))[0]
                if ask.decides:
                    sent = replace(sent, outcome=await self.outcome(sent, max(0.0, until - time.monotonic())))
                ask = steps.send(sent)
        except StopIteration as done:
            return cast(Sent, done.value)

    async def send(self, requests: Sequence[Request]) -> list[Sent]:
        """Send requests in their order; returns when Kafka has them all."""
        await self._placed()
        if not requests:
            return []
        answered: asyncio.Future[list[Delivery]] = asyncio.get_running_loop().create_future()
        reports: list[Delivery] = []
        for number, request in enumerate(requests):
            while not self._sender.offer(request, partial(self._report, reports, number, len(requests), answered)):
                await asyncio.sleep(FULL_SECONDS)
        return self._sender.acknowledged(requests, await answered)

    async def _placed(self) -> None:
        """Know the count of partitions, which is asked of Kafka once, aside."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self._server.start()
        elif self._loop is not loop:
            raise RuntimeError("AsyncClient: expected the event loop that first used it, got another: make one a loop")
        if self._placing is None or (self._placing.done() and self._placing.exception() is not None):
            self._placing = asyncio.ensure_future(asyncio.to_thread(self._place))
        await asyncio.shield(self._placing)

    async def _tailing(self) -> None:
        """Have the state topic followed; that takes a thread's time only when it begins."""
        if not self._tail.follows:
            await asyncio.to_thread(self._tail.join)

    def _place(self) -> None:
        self._sender.partition("any")

    # -- the serving thread

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._sender.serve(SERVE_SECONDS)
            self._hand_over()

    def _hand_over(self) -> None:
        """Into the loop once for all that were reported together: each crossing costs it."""
        done, self._done = self._done, []
        if done and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_complete, done)

    def _report(
        self,
        reports: list[Delivery],
        number: int,
        expected: int,
        answered: "asyncio.Future[list[Delivery]]",
        error: object,
        message: object,
    ) -> None:
        """librdkafka's delivery callback, on the serving thread."""
        reports.append((number, error, message))  # type: ignore[arg-type]  # librdkafka's classes, named behind the door
        if len(reports) == expected:
            self._done.append((answered, reports))

    # -- what became of it

    async def outcome(self, sent: Sent, timeout: float = OUTCOME_SECONDS) -> Outcome:
        """What became of a request. Raises TimedOut where no worker has handled it within `timeout` seconds."""
        await self._tailing()
        fate = Fate(sent.saga_id, sent.partition)
        fate.ask(sent)
        self._tail.watch(fate)
        try:
            return await self._told(fate.future, sent, timeout)
        finally:
            self._tail.forget(fate)

    async def _told(self, future: "Future[Outcome]", sent: Sent, timeout: float) -> Outcome:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError:
            raise not_handled(sent, timeout) from None

    async def result(self, saga_id: str, timeout: float = OUTCOME_SECONDS) -> SagaView:
        """Wait for the saga's end, also for its start. Raises TimedOut, saying how far it was by then."""
        await self._placed()
        await self._tailing()
        end = End(saga_id, self._sender.partition(saga_id))
        self._tail.watch(end)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(end.future), timeout)
        except TimeoutError:
            newest = end.newest
            how = "it has not started" if newest is None else view(self.topics.app, newest).shown_status
            raise not_ended(saga_id, timeout, how) from None
        finally:
            self._tail.forget(end)

    # -- what it publishes

    @overload
    async def published(self, saga_id: str) -> dict[str, Any]: ...
    @overload
    async def published(self, saga_id: str, name: str) -> Any: ...
    async def published(self, saga_id: str, name: str | None = None) -> Any:
        """What the saga has published in its present run: the newest value by name, or that of `name`.

        Raises NotFound for a name, or a saga under way or ended within the dedup window, that is not there.
        """
        async with aclosing(self._shown(saga_id, None, there=True)) as shown:
            values = dict(await anext(shown))
        return values if name is None else one_of(values, saga_id, name)

    async def follow(self, saga_id: str, timeout: float | None = None) -> AsyncGenerator[tuple[str, Any], None]:
        """(name, value): the newest of each name, then each as it is published, until the saga has ended.

        One that has not started is waited for. Raises TimedOut after `timeout` seconds, DamagedSaga.
        """
        async with aclosing(self._shown(saga_id, timeout)) as shown:
            async for values in shown:
                for value in values:
                    yield value

    async def _shown(
        self, saga_id: str, timeout: float | None, *, there: bool = False
    ) -> AsyncGenerator[list[tuple[str, Any]], None]:
        await self._placed()
        await self._tailing()
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        queue: asyncio.Queue[list[tuple[str, Any]] | None] = asyncio.Queue()
        shows = Shows(
            saga_id,
            self._sender.partition(saga_id),
            lambda values: _into(loop, queue, values),
            there=there,
        )
        end = asyncio.wrap_future(shows.future)
        end.add_done_callback(lambda _: queue.put_nowait(None))
        self._tail.watch(shows)
        try:
            while True:
                left = None if deadline is None else max(deadline - loop.time(), 0.0)
                values = await asyncio.wait_for(queue.get(), left)
                if values is None:
                    end.result()  # it has ended, or nobody can tell
                    return
                yield values
        except TimeoutError:
            newest = shows.newest
            how = "it has not started" if newest is None else view(self.topics.app, newest).shown_status
            raise not_ended(saga_id, timeout or 0.0, how) from None
        finally:
            self._tail.forget(shows)
            end.cancel()


def _into(loop: asyncio.AbstractEventLoop, queue: "asyncio.Queue[Any]", values: object) -> None:
    """From the tail's thread; a loop that is closed waits for nothing any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(queue.put_nowait, values)


def _complete(done: list[tuple["asyncio.Future[list[Delivery]]", list[Delivery]]]) -> None:
    for answered, reports in done:
        if not answered.done():  # whoever waited may have been cancelled
            answered.set_result(reports)
