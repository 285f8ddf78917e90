"""The test environment: an application's sagas in memory, on a clock that jumps to whatever is next.

    test = SagaTest(app)
    test.on(Charge, refused("no money"))
    order = test.start("checkout", Order("o-1"))
    test.run()
    order.assert_compensated()

Nothing runs by itself: a test drives, and between two drives nothing moves. Messages take no time unless a script
says so. What comes to rest is run a second time in another world (`double`), to find what a saga must not read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any, NamedTuple

from kompensate.orchestrator.asking.orders import order_request
from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.saga import AsyncSaga, Saga
from kompensate.orchestrator.definitions.schedule import SAGA as SCHEDULE
from kompensate.orchestrator.definitions.schedule import begun
from kompensate.orchestrator.kernel.calls import Service
from kompensate.orchestrator.ports import OutRecord
from kompensate.orchestrator.reading.forking import point
from kompensate.orchestrator.sagas.journal import read_page
from kompensate.orchestrator.testing.answers import Script
from kompensate.orchestrator.testing.clock import VirtualClock
from kompensate.orchestrator.testing.coverage import COVERAGE
from kompensate.orchestrator.testing.double import DoubleRun
from kompensate.orchestrator.testing.engine import Engine
from kompensate.orchestrator.testing.handle import SagaHandle
from kompensate.orchestrator.testing.modes import mode_named
from kompensate.orchestrator.testing.post import Mail, Post
from kompensate.orchestrator.testing.services import Services
from kompensate.orchestrator.testing.story import PAGE, Story
from kompensate.schemas import letters
from kompensate.schemas.formats import payloads_of
from kompensate.schemas.messages import START, Command, Request
from kompensate.schemas.requests import make_request, topic_of
from kompensate.schemas.topics import check_saga_id, saga_of_key

INPUTS_MAX = 10_000
"""One drive handles at most so many inputs: more is a saga that never ends."""


class _Later(NamedTuple):
    """What is asked once a step is done, so many ms later."""

    saga_id: str
    step: str
    delay: int
    request: Request


class SagaTest:
    """The sagas of an application (or one saga) under test, in one of the MODES.

    `services` are needed for an `async def` saga given without its application. `now` is when the test begins
    (it has a time zone). `seed` is for mode reorder; by default a random one, which failures name. `double_run` can be
    turned off to see what a mode finds by itself.
    """

    def __init__(
        self,
        app: Application | Saga | AsyncSaga,
        *,
        services: Sequence[Service | str] = (),
        mode: str = "cached",
        seed: int | None = None,
        now: datetime | None = None,
        double_run: bool = True,
    ) -> None:
        self.application = app if isinstance(app, Application) else Application("test", [app], services=services)
        self.mode = mode_named(mode)
        self.seed = Random().randrange(10**6) if seed is None else seed  # noqa: S311  # not a secret
        self._clock = VirtualClock() if now is None else VirtualClock(round(now.timestamp() * 1000))
        self._engine = Engine(self.application, self.mode, self._clock)
        self._topics = self._engine.topics
        self.payloads = payloads_of(self.application.payloads, self.application.name)
        self.services = Services(self.application, self.payloads)
        self._post = Post(self.mode.copies, Random(self.seed) if self.mode.shuffles else None)  # noqa: S311  # as above
        self._stories: dict[str, Story] = {}
        self._due: dict[str, int] = {}
        self._later: list[_Later] = []
        self._asked = 0
        self._double = DoubleRun(self._engine) if double_run else None
        COVERAGE.add(self.application)

    @property
    def now(self) -> datetime:
        """The virtual time."""
        return datetime.fromtimestamp(self._clock.now() / 1000, UTC)

    @property
    def described(self) -> str:
        """The mode, with its seed where it has one."""
        return f"mode {self.mode.name}, seed {self.seed}" if self.mode.shuffles else f"mode {self.mode.name}"

    @property
    def saga_ids(self) -> list[str]:
        """The sagas that the test knows of: those it named, and those that others started."""
        return list(self._stories)

    @property
    def story(self) -> str:
        """The stories of all sagas."""
        return "\n".join(self.saga(saga_id).story for saga_id in self._stories)

    # -- setting the stage

    def on(self, command: type | str, answer: Script) -> None:
        """From now on commands of that type (a class, or `service.Class`) are answered so; by default: done, with null.

        `answer` is a result, or one of `done`, `refused`, `failed`, `expired`, `never`, `late`, `twice`, `in_turn`, or
        a function that takes the command and returns any of these but `in_turn`.
        """
        self.services.on(command, answer)

    def start(
        self,
        saga: str | Saga | AsyncSaga,
        input: object = None,  # noqa: A002  # as in Client
        *,
        saga_id: str | None = None,
        delay: float = 0.0,
        start_at: datetime | None = None,
        deadline: datetime | None = None,
        attributes: Mapping[str, object] | None = None,
    ) -> SagaHandle:
        """Ask for a saga to be started, when the test runs on, `delay` virtual seconds later.

        As with a Client it waits until `start_at`, is cancelled at `deadline`, and is found by its `attributes`.
        """
        name = saga if isinstance(saga, str) else saga.name
        if name not in self.application.sagas:
            raise ValueError(f"start: expected a saga of {', '.join(self.application.sagas)}, got {name!r}")
        found = saga_id or f"{name}-{len(self._stories) + 1}"
        self.ask(
            START,
            found,
            saga_type=name,
            payload=input,
            delay=delay,
            start_at=start_at,
            deadline=deadline,
            attributes=attributes,
        )
        return self.saga(found)

    def schedule(self, name: str) -> SagaHandle:
        """Begin a schedule that the application declares. It fires for ever: drive on with `advance`."""
        names = [schedule.name for schedule in self.application.schedules]
        if name not in names:
            raise ValueError(f"schedule: expected one that the application declares ({', '.join(names)}), got {name!r}")
        found = self.application.schedules[names.index(name)]
        return self.start(SCHEDULE, begun(found, found.hash), saga_id=found.saga_id)

    def saga(self, saga_id: str) -> SagaHandle:
        """The saga of that id, also one that is not there yet, or that others started."""
        return SagaHandle(self, self._story(check_saga_id(saga_id)))

    def ask(
        self,
        type_: str,
        saga_id: str,
        *,
        saga_type: str | None = None,
        subject: str | None = None,
        payload: object = None,
        id_: str | None = None,
        after: str | None = None,
        delay: float = 0.0,
        start_at: datetime | None = None,
        deadline: datetime | None = None,
        attributes: Mapping[str, object] | None = None,
    ) -> None:
        """Put a request on its way, as a client would; SagaHandle has a verb for each type."""
        self._asked += 1
        request = make_request(
            type_,
            saga_id,
            source="kompensate:test",
            saga_type=saga_type,
            subject=subject,
            payload=payload,
            id_=id_ or f"request-{self._asked}",
            start_at=start_at,
            deadline=deadline,
            attributes=attributes,
            payloads=self.payloads,
        )
        if after is None:
            self._send(request, round(delay * 1000))
        else:
            self._later.append(_Later(saga_id, after, round(delay * 1000), request))

    def order(self, verb: str, saga_id: str, step: str, who: str, reason: str, result: object) -> None:
        """Put an operator's order on its way; SagaHandle has a verb for each."""
        asked = order_request(
            verb,
            saga_id,
            who=who,
            reason=reason,
            source="kompensate:test",
            step=step or None,
            result=result,
            payloads=self.payloads,
        )
        self._send_next(asked)

    def fork(self, saga_id: str, new_id: str, *, reset: bool, **about: Any) -> SagaHandle:
        """Put a fork on its way, or reset a saga; SagaHandle has a verb for each."""
        old, new = self.saga(saga_id), self.saga(new_id)
        found = point(saga_id, [read_page(value) for value in old.pages], reset=reset, **about)
        self._send_next(found.fork(new_id, source="kompensate:test", held=reset))
        if reset:
            # As a client does: nothing is taken from the one before the other is there.
            story, rejected = self._story(new_id), len(new.quarantined)
            self._drive(self._clock.now(), lambda: bool(story.fold.state.forks) or len(new.quarantined) > rejected)
            if len(new.quarantined) == rejected:
                self._send_next(found.reset(new_id, source="kompensate:test"))
        return new

    def _send_next(self, request: Request) -> None:
        """Send it under an id that is the same in each run."""
        self._asked += 1
        self._send(replace(request, id=f"request-{self._asked}", time=None), 0)

    # -- driving

    def run(self) -> None:
        """Until nothing can happen any more: all sagas have ended, or wait for what only the test can send."""
        self._drive(None, lambda: False)

    def run_until_idle(self) -> None:
        """Until nothing is left to do at this virtual time."""
        self._drive(self._clock.now(), lambda: False)

    def advance(self, seconds: float) -> None:
        """So many virtual seconds, with everything that happens in them."""
        until = self._clock.now() + round(seconds * 1000)
        self._drive(until, lambda: False)
        self._clock.advance((until - self._clock.now()) / 1000)

    def run_until(self, condition: Callable[[], bool], what: str = "the condition") -> None:
        """Until `condition` holds; looked at after each input. AssertionError where it never does."""
        __tracebackhide__ = True
        self._drive(None, condition)
        if not condition():
            raise AssertionError(f"expected {what}, got a test in which nothing can happen any more\n{self.story}")

    def _drive(self, until: int | None, stop: Callable[[], bool]) -> None:
        __tracebackhide__ = True
        inputs = 0
        while not stop() and self._next(until):
            inputs += 1
            if inputs > INPUTS_MAX:
                raise AssertionError(
                    f"expected the sagas to come to rest within {INPUTS_MAX} inputs, got more: does one try for ever? "
                    f"(advance() runs for a limited time)\n{self.story[-4_000:]}"
                )
        self._expect_asked()
        if self._double is not None:
            self._double.follow()

    def _next(self, until: int | None) -> bool:
        """Handle one input; False where there is none before `until`."""
        # As the sagas' states have it: the partition's own timers may be earlier, and then find nothing due.
        now, due = self._clock.now(), min(self._due.values(), default=None)
        if self._engine.behind:
            self._committed(self._engine.take())
            return True
        mail = self._post.take(now)
        if mail is not None:
            self._committed(self._engine.give(mail.topic, mail.saga_id, mail.value, mail.headers))
            return True
        if due is not None and due <= now:
            self._committed(self._engine.fire())
            return True
        times = [time for time in (due, self._post.next_due, self._engine.room_at) if time is not None]
        if not times or (until is not None and min(times) > until):
            return False
        self._clock.advance((min(times) - now) / 1000)
        return True

    # -- what a transaction led to

    def _committed(self, written: list[OutRecord]) -> None:
        """What participants and readers do once a transaction stands. Local steps are run by the engine."""
        topics = self._topics
        services = {topics.commands(service) for service in self.application.services}
        for record in written:
            key = (record.key or b"").decode(errors="replace")
            if record.topic in services:
                self._command(record)
            elif record.topic == topics.quarantine:
                headers = dict(record.headers or ())
                self._story(key).quarantined.append((headers.get(letters.REASON) or b"").decode())
            elif (record.value or b"").startswith(PAGE):
                self._page(saga_of_key(key)[0], record.value or b"")
        self._send_later()

    def _page(self, saga_id: str, value: bytes) -> None:
        story = self._story(saga_id)
        story.take(value)
        due = story.fold.state.next_timer()
        if due is None:
            self._due.pop(saga_id, None)
        else:
            self._due[saga_id] = due

    def _command(self, record: OutRecord) -> None:
        for reply in self.services.take(Command.parse(record.headers, record.value), self._clock.now()):
            mail = Mail(self._clock.now() + reply.after, reply.topic, reply.saga_id, reply.value, reply.headers)
            self._post.send(mail)

    def _send(self, request: Request, delay: int) -> None:
        topic = topic_of(request, self._topics)
        mail = Mail(self._clock.now() + delay, topic, request.saga_id, request.payload, request.headers())
        self._post.send(mail)

    def _send_later(self) -> None:
        """Send what was to be asked after a step that is done now."""
        for later in list(self._later):
            if later.step in self.saga(later.saga_id).done:
                self._later.remove(later)
                self._send(later.request, later.delay)

    def _expect_asked(self) -> None:
        __tracebackhide__ = True
        for later in self._later:
            if self._story(later.saga_id).fold.state.ended:
                verb = later.request.type.rpartition(".")[2]
                raise AssertionError(
                    f"saga {later.saga_id!r}: expected step {later.step!r} to be done, and a {verb} after it; got a "
                    f"saga that ended before\n{self.saga(later.saga_id).story}"
                )

    def _story(self, saga_id: str) -> Story:
        if saga_id not in self._stories:
            self._stories[saga_id] = Story(self.application.name, saga_id, self.payloads)
        return self._stories[saga_id]
