"""The producer's door: start sagas, signal them, hold and release them, and learn what became of it.

A request is acknowledged when Kafka has it; no worker need be alive. What it led to is read from the topics:

    client = Client("localhost:9092", "shop")
    sent = client.start("checkout", {"order_id": "o-1"}, saga_id="o-1")
    client.outcome(sent)       # started, duplicate, conflict or rejected
    client.result("o-1")       # waits for the end

The saga id makes a start idempotent, a signal's id a signal: after `NotAcknowledged` send the same again.
"""

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import Any, cast, overload

from kompensate.orchestrator.asking.requests import Requests, Start
from kompensate.orchestrator.asking.resetting import resetting
from kompensate.orchestrator.asking.sender import Sender
from kompensate.orchestrator.reading import publishing
from kompensate.orchestrator.reading.forking import Point, point
from kompensate.orchestrator.reading.handling import Handling, covers, handled, not_ended, not_handled, watermark_key
from kompensate.orchestrator.reading.lookup import Lookup
from kompensate.orchestrator.reading.outcomes import ConflictPolicy, Outcome, Sent, check_policy, expect_accepted
from kompensate.orchestrator.reading.reader import TIMEOUT_SECONDS, Reader
from kompensate.orchestrator.reading.status import SagaView, view
from kompensate.orchestrator.reading.stored import Stored
from kompensate.schemas.formats import PayloadFormat, payloads_of
from kompensate.schemas.messages import Request
from kompensate.schemas.refusals import check_bootstrap
from kompensate.schemas.topics import Topics, check_name, check_saga_id

__all__ = ["Client", "Start"]

OUTCOME_SECONDS = 30.0


class Client:
    """Asks things of the sagas of application `app`. May be shared by threads, but for what waits for outcomes.

    `kafka` are librdkafka's own options, TLS and SASL among them; `timeout` (seconds) is how long Kafka may
    take to acknowledge; `source` is what requests say they come from; `payloads` is the application's (default: JSON).
    Methods that send raise ValueError for bad arguments before anything is sent, MissingTopic, Unreachable,
    NotAcknowledged.
    """

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
        self.topics = Topics(check_name("application", app), prefix)
        self._bootstrap = check_bootstrap(bootstrap)
        self._kafka = dict(kafka or {})
        self._timeout = timeout
        self._payloads = payloads_of(payloads, app)
        self._reader: Reader | None = None
        self.requests = Requests(source, self._payloads)
        """Makes requests to `send` with others."""
        self.sender = Sender(bootstrap, self.topics, self._kafka, timeout)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections. What was sent is acknowledged already."""
        self.sender.close()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    # -- asking

    def start(
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
        """Start a saga of definition `saga`; returns when Kafka has the request.

        `input` is a dataclass, msgspec Struct, TypedDict or JSON value, or bytes that are JSON already. With
        `wait` the answer's `outcome` says what became of it, which takes a worker; then also TimedOut.
        `id_conflict_policy` waits too, and raises where the answer is no: StartRejected; AlreadyStarted where the
        id was in use and the policy is "fail", whereas "use_existing" is content with the saga that is there.
        The saga begins at `start_at` and is cancelled at `deadline`, datetimes with a time zone. `attributes` are what
        operators find it by: at most 16 small values (str, int, float, bool, datetime) by name, kept in the clear.
        """
        check_policy(id_conflict_policy)
        request = self.requests.start(
            saga, input, saga_id=saga_id, start_at=start_at, deadline=deadline, attributes=attributes
        )
        if not wait and id_conflict_policy is None:
            return self.send([request])[0]
        partition = self.sender.partition(saga_id)
        seen = self.lookup.reader.ends(self.topics.state, [partition])[partition]
        sent = replace(self.send([request])[0], seen=seen)
        return expect_accepted(replace(sent, outcome=self.outcome(sent, timeout)), id_conflict_policy)

    def execute(
        self,
        saga: str,
        input: object = None,  # noqa: A002  # as in Saga
        *,
        saga_id: str,
        attributes: Mapping[str, object] | None = None,
        timeout: float = OUTCOME_SECONDS,
    ) -> SagaView:
        """Start a saga and wait for its end, `timeout` seconds in all; the same again waits for the same saga.

        Raises AlreadyStarted where the id is another saga's, StartRejected, TimedOut.
        """
        until = time.monotonic() + timeout
        self.start(saga, input, saga_id=saga_id, attributes=attributes, wait=True, timeout=timeout).expect_same()
        return self.result(saga_id, max(0.0, until - time.monotonic()))

    def start_many(self, starts: Iterable[Start]) -> list[Sent]:
        """Start many sagas at once, in their order; returns when Kafka has them all.

        All are checked before the first is sent. After NotAcknowledged some may have been started: starting
        all of them again is harmless.
        """
        return self.send([self.requests.of(start) for start in starts])

    def signal_with_start(
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
        """Send a saga a signal, and start it before where it is not there; returns when Kafka has both.

        After NotAcknowledged do the same again, with the same `signal_id`.
        """
        start = self.requests.start(saga, input, saga_id=saga_id, attributes=attributes)
        started, signalled = self.send([start, self.requests.signal(saga_id, signal, payload, signal_id=signal_id)])
        return started, signalled

    def signal(self, saga_id: str, name: str, payload: object = None, *, signal_id: str | None = None) -> Sent:
        """Send a saga a message; it may come before the start. `signal_id` makes it idempotent."""
        return self.send([self.requests.signal(saga_id, name, payload, signal_id=signal_id)])[0]

    def cancel(self, saga_id: str, reason: str = "") -> Sent:
        """Ask a saga to stop and undo what it did. Past its pivot it goes on, and its history says so."""
        return self.send([self.requests.cancel(saga_id, reason)])[0]

    def pause(self, saga_id: str, reason: str = "") -> Sent:
        """Hold a saga where it is: replies and signals are kept, nothing is sent."""
        return self.send([self.requests.pause(saga_id, reason)])[0]

    def resume(self, saga_id: str, reason: str = "") -> Sent:
        """Release a saga that is paused or quarantined."""
        return self.send([self.requests.resume(saga_id, reason)])[0]

    def order(
        self, verb: str, saga_id: str, *, who: str, reason: str, step: str | None = None, result: object = None
    ) -> Sent:
        """Give an operator's order: retry, skip, complete, compensate or close; `who` and `reason` are recorded.

        `step` is a step's name or number, `result` what a completed step gives. `outcome` says if it was rejected.
        """
        return self.send([self.requests.order(verb, saga_id, who=who, reason=reason, step=step, result=result)])[0]

    def fork(
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
        """Have saga `new_id` go on from the history of one that has ended; `who` and `reason` are recorded.

        It goes on from where `step` (a step's name or an operation's number) was asked for, or from after event number
        `event`, with today's code, in `version` of the definition (default: its own). `outcome` says if it was
        rejected. Raises ValueError where no saga may go on from there, NotFound, DamagedSaga.
        """
        about: dict[str, Any] = {"who": who, "reason": reason, "step": step, "event": event, "version": version}
        return self.send([self.requests.fork(self.point(saga_id, **about), new_id)])[0]

    def reset(
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
        """As `fork`, of a saga under way: it undoes what came after the point, and ends; then the other one goes on.

        Waits, up to `timeout` seconds, until a worker has taken it; the answer's `outcome` says if it was rejected, and
        then nothing has changed. Raises TimedOut too: the same again goes on from there.
        """
        until = time.monotonic() + timeout
        about: dict[str, Any] = {"who": who, "reason": reason, "step": step, "event": event, "version": version}
        steps = resetting(self.requests, self.point(saga_id, reset=True, **about), new_id)
        ask = next(steps)
        try:
            while True:
                sent = self.send([ask.request])[0]
                if ask.decides:
                    sent = replace(sent, outcome=self.outcome(sent, max(0.0, until - time.monotonic())))
                ask = steps.send(sent)
        except StopIteration as done:
            return cast(Sent, done.value)

    def point(self, saga_id: str, **about: Any) -> Point:
        """A point of its history, as `kompensate.orchestrator.reading.forking.point` has it. For any thread."""
        looking = self.open_lookup()
        with looking.reader:
            return point(saga_id, looking.history(saga_id), **about)

    def send(self, requests: Sequence[Request]) -> list[Sent]:
        """Send requests that `requests` made, in their order; returns when Kafka has them all."""
        return self.sender.send(requests)

    # -- what became of it

    @cached_property
    def lookup(self) -> Lookup:
        """The application's topics to read from."""
        found = self.open_lookup()
        self._reader = found.reader
        return found

    def open_lookup(self) -> Lookup:
        """The same with connections of its own, for another thread; the caller closes its reader."""
        return Lookup(Reader(self._bootstrap, self._kafka, timeout=self._timeout), self.topics, self._payloads)

    def outcome(self, sent: Sent, timeout: float = OUTCOME_SECONDS) -> Outcome:
        """What became of a request. Raises TimedOut where no worker has handled it within `timeout` seconds."""
        p, start = sent.partition, sent.seen
        if start is None:
            start = self.lookup.reader.ends(self.topics.state, [p])[p]
            watermark = watermark_key(p)
            found = self.lookup.reader.snapshot(self.topics.state, [p], lambda key: key == watermark)[p]
            if covers(found.get(watermark), sent):
                return handled(self.lookup, sent)
        return self._followed(sent, start, timeout) or handled(self.lookup, sent)

    def _followed(self, sent: Sent, start: int, timeout: float) -> Outcome | None:
        """Follow the state partition until the request was handled: what that shows by itself. Raises TimedOut."""
        deadline = time.monotonic() + timeout
        handling = Handling(sent)
        for batch in self.lookup.reader.follow(self.topics.state, {sent.partition: start}, min(0.1, timeout)):
            for record in batch.records:
                handling.see(record)
                if handling.done:
                    break
            if sent.partition in batch.caught_up:
                handling.caught_up()
            if handling.done:
                return handling.outcome
            if time.monotonic() > deadline:
                break
        raise not_handled(sent, timeout)

    @overload
    def published(self, saga_id: str) -> dict[str, Any]: ...
    @overload
    def published(self, saga_id: str, name: str) -> Any: ...
    def published(self, saga_id: str, name: str | None = None) -> Any:
        """What the saga has published in its present run: the newest value by name, or that of `name`.

        Raises NotFound for a saga or name that is not there, DamagedSaga.
        """
        values = publishing.published(self.lookup, saga_id)
        return values if name is None else publishing.one_of(values, saga_id, name)

    def follow(self, saga_id: str, timeout: float | None = None) -> Generator[tuple[str, Any], None, None]:
        """(name, value): the newest of each name, then each as it is published, until the saga has ended.

        One that has not started is waited for. Raises TimedOut after `timeout` seconds, DamagedSaga. Has readers of
        its own: this client may be asked other things meanwhile.
        """
        following, looking = self.open_lookup(), self.open_lookup()
        with following.reader, looking.reader:
            yield from publishing.followed(following, looking, saga_id, timeout)

    def result(self, saga_id: str, timeout: float = OUTCOME_SECONDS) -> SagaView:
        """Wait for the saga's end, also for its start. Raises TimedOut, saying how far it was by then."""
        deadline = time.monotonic() + timeout
        newest: Stored | None = None
        check_saga_id(saga_id)
        for changes in self.lookup.follow([saga_id]):
            newest = changes[-1] if changes else newest
            if newest is not None and newest.ended:
                return view(self.topics.app, newest, payloads=self._payloads)
            if time.monotonic() > deadline:
                break
        how = "it has not started" if newest is None else view(self.topics.app, newest).shown_status
        raise not_ended(saga_id, timeout, how)
