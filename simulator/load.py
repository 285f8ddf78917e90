"""What the outside does: starts sagas, and starts them again, signals, cancels, pauses and resumes them."""

from collections import deque
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

from kompensate.orchestrator.definitions.firing import ScheduleSaga
from kompensate.orchestrator.definitions.schedule import SAGA
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.kernel.tables import Hold
from kompensate.schemas.formats import payloads_of
from kompensate.schemas.messages import CANCEL, PAUSE, RESUME, SIGNAL, START, Request
from kompensate.simulator.application import Simulated
from kompensate.simulator.expected import Expected
from kompensate.simulator.ledger import Ledger
from kompensate.simulator.plan import Plan
from kompensate.simulator.resets import Resets
from kompensate.simulator.schedules import Schedules
from kompensate.simulator.telling import Teller
from kompensate.simulator.world import World

SOURCE = "kompensate:simulator"


@dataclass(frozen=True)
class Habits:
    """How likely it is, in each step, that somebody does this to one of the sagas under way."""

    signal: float = 0.05
    cancel: float = 0.003
    pause: float = 0.002
    resume: float = 0.02
    tell: float = 0.5
    """Tells an event instead of starting a saga, where somebody listens."""
    again: float = 0.005
    """Starts or signals it once more, as a client does that had no answer."""

    @cached_property
    def anything(self) -> float:
        """How likely it is that somebody does one of these."""
        return self.signal + self.cancel + self.pause + self.resume + self.again


class Load:
    """Asks for `plan.sagas` sagas of `simulated`, as fast as others end."""

    def __init__(self, plan: Plan, simulated: Simulated, world: World, ledger: Ledger, expected: Expected) -> None:
        self.calm = False
        self.started: list[str] = []
        self.teller: Teller | None = None
        self._under_way: set[str] = set()
        """Events that were told, and do not stand in their topics yet."""
        self._plan, self._simulated, self._world, self._ledger = plan, simulated, world, ledger
        self._expected = expected
        self._random = Random(f"{plan.seed}/load")
        application = simulated.application
        self._names = sorted(name for name, saga in application.sagas.items() if not isinstance(saga, ScheduleSaga))
        self._payloads = payloads_of(application.payloads, application.name)
        self.schedules = Schedules(application)
        self._declared = self._deleted = False
        self._recent: deque[Request] = deque(maxlen=50)
        self._signals: dict[str, Any] = {}
        """Names that were waited for, with the types of their payloads."""
        self._count = 0
        self._habits = Habits()
        self._resets = Resets(plan, ledger, self.started, self._send) if plan.resets else None

    @property
    def done(self) -> bool:
        """Everything was asked for."""
        return len(self.started) >= self._plan.sagas

    def asked_for(self) -> list[str]:
        """Every saga that was started from outside."""
        return [*self.started, *(saga_id for saga_id, _ in self.schedules.starts())]

    def came(self, event: str, sagas: list[str]) -> None:
        """An event stands in its topic, and asks for these sagas."""
        self._under_way.discard(event)
        self.started += [saga_id for saga_id in dict.fromkeys(sagas) if saga_id not in self.started]

    def step(self) -> None:
        """A moment passes: perhaps somebody asks for something."""
        random, habits = self._random, self._habits
        if self._resets is not None:
            self._resets.step(calm=self.calm)
        if not self._deleted:
            self._tend()
        if not self._deleted and len(self.started) + len(self._under_way) - self._ledger.closed < self._plan.width:
            if self.teller is not None and random.random() < habits.tell:
                self._under_way.add(self.teller.tell(random))
            else:
                self._start()
        roll = random.random()
        if roll > habits.anything:
            return
        for habit, act in (
            (habits.signal, self._signal),
            (habits.cancel, lambda state: self._ask(CANCEL, state, "scripted")),
            (habits.pause, lambda state: self._ask(PAUSE, state, "scripted")),
            (habits.resume, lambda state: self._ask(RESUME, state, "scripted") if state.hold is not None else None),
        ):
            roll -= habit
            if roll < 0:
                if not self.calm or act is self._signal:
                    self._to_one(act)
                return
        if roll < habits.again and self._recent and not self.calm:
            self._world.ask(random.choice(self._recent))

    def _tend(self) -> None:
        """Schedules begin with the run and end with its load."""
        if not self._declared:
            self._declared = True
            for saga_id, begun in self.schedules.starts():
                self._say(START, saga_id, begun, saga_type=SAGA, time=self._world.clock.now())
        if self.done:
            self._deleted = True
            for saga_id, _ in self.schedules.starts():
                self._say(SIGNAL, saga_id, self.schedules.deletion(), subject=SAGA)

    def _to_one(self, act) -> None:  # type: ignore[no-untyped-def]
        live = self._ledger.live
        if live:
            # Insertion order is the order of commits: the same in each run of a plan.
            act(list(live.values())[self._random.randrange(len(live))].state)

    def _start(self) -> None:
        random = self._random
        name = random.choice(self._names)
        saga_id = f"{name}-{len(self.started)}"
        self.started.append(saga_id)
        if self._signals and random.random() < 0.05:
            early = random.choice(sorted(self._signals))
            self._say(SIGNAL, saga_id, self._simulated.signal(early, self._signals[early], random), subject=early)
        self._say(START, saga_id, self._simulated.input(name, random), saga_type=name, time=self._world.clock.now())

    def _signal(self, state: SagaState) -> None:
        if self.schedules.keeps(state.saga_id):
            if not self.calm:
                said = self.schedules.word(state.saga_id, self._world.clock.now(), self._random)
                self._say(SIGNAL, state.saga_id, said, subject=SAGA)
        elif state.receives:
            receive = self._random.choice(list(state.receives.values()))
            name, kind = receive.name, self._expected.signal(state.saga_id, receive.number)
            self._signals[name] = kind
            self._say(SIGNAL, state.saga_id, self._simulated.signal(name, kind, self._random), subject=name)

    def _ask(self, type_: str, state: SagaState, reason: str) -> None:
        self._send(type_, state.saga_id, subject=reason)

    def _say(self, type_: str, saga_id: str, value: object, **fields: object) -> None:
        """`_send` with a payload."""
        self._send(type_, saga_id, payload=self._payloads.for_saga(saga_id).encode(value), **fields)

    def _send(self, type_: str, saga_id: str, **fields: object) -> None:
        self._count += 1
        request = Request(f"request-{self._count}", type_, saga_id, SOURCE, **fields)  # type: ignore[arg-type]
        if type_ in (START, SIGNAL):
            self._recent.append(request)
        self._world.ask(request)

    def help(self) -> None:
        """Healing: whoever is paused is resumed, whoever waits for a signal gets it."""
        for shadow in list(self._ledger.live.values()):
            state = shadow.state
            if state.hold is Hold.PAUSED and not state.waits_for:
                self._ask(RESUME, state, "healing")
            elif state.receives:
                self._signal(state)
