"""The faults: which happen when, and those that the broker's clients see."""

from collections.abc import Callable, Mapping, Sequence
from math import inf, log
from random import Random

from kompensate.orchestrator.ports import OutRecord
from kompensate.orchestrator.testing import MemoryBroker
from kompensate.orchestrator.testing.broker import InvalidState, ProducerFenced
from kompensate.orchestrator.testing.log import MemoryProducer
from kompensate.orchestrator.worker.transactions import Reaction, TransactionError
from kompensate.simulator.database import MemorySink
from kompensate.simulator.plan import FAULTS, Plan

STRAY_BETWEEN, STRAY_DURING = 0.02, 0.5
"""How likely a stray EndTxn arrives in a turn, and in the midst of a later transaction of its producer."""
MARKER_PACES = (0.3, 0.3, 0.01)
"""How likely a marker arrives in a turn, while some are slow: mostly at once, at times hardly ever."""


class Killed(BaseException):
    """The process ends here, with nothing said. Not an Exception: a dead process catches none."""


class Chaos:
    """Says of each occasion whether a fault happens. `calm` ends them all."""

    def __init__(self, plan: Plan, broker: MemoryBroker, stir: Callable[[], None]) -> None:
        """`stir` is called where something changes that no process did."""
        self.calm = False
        self._stir = stir
        self.fired: list[tuple[int, str]] = []
        """What happened: its number in the run, and its kind."""
        self._plan = plan
        self._broker = broker
        self._rates = {kind: FAULTS[kind] * plan.intensity for kind in plan.faults}
        self._without = frozenset(plan.without)
        self._occasions = 0
        self.random = Random(f"{plan.seed}/faults")
        self._strays: list[tuple[str, int, bool]] = []
        self._marker_pace = MARKER_PACES[0]
        broker.slow_markers = lambda _: self._slow()

    def hit(self, kind: str) -> bool:
        """Does a fault of this kind happen now?"""
        return not self.calm and self.random.random() < self._rates.get(kind, 0.0) and self.fires(kind)

    def gap(self, kind: str) -> float:
        """At which occasion from now on a fault of this kind is next: what `hit` would say, occasion by occasion."""
        rate = self._rates.get(kind, 0.0)
        if not 0 < rate < 1:
            return 1 if rate else inf
        return 1 + int(log(1 - self.random.random()) / log(1 - rate))

    def fires(self, kind: str) -> bool:
        """Chance has it; was it left out of the plan?"""
        self._occasions += 1
        if self._occasions in self._without:
            return False
        self.fired.append((self._occasions, kind))
        return True

    def producer(self, broker: MemoryBroker, transactional_id: str, group: str) -> "UnluckyProducer":
        """What workers produce with."""
        return UnluckyProducer(self, broker, transactional_id, group)

    def sink(self) -> MemorySink:
        """What relays produce with."""
        sink = MemorySink(self._broker)
        sink.lost = lambda waiting: self.random.randint(0, waiting) if self.hit("sink") else None
        sink.answered = lambda waiting: waiting if self.calm else self.random.randint(1, waiting)
        return sink

    def stray(self, transactional_id: str, epoch: int, *, commit: bool) -> None:
        """A copy of this EndTxn is still under way; it arrives when chance has it."""
        self._strays.append((transactional_id, epoch, commit))

    def arrive(self, during: str | None = None) -> None:
        """Perhaps a stray EndTxn, and some marker, reach their ends; `during` a transaction of this id."""
        if self._strays:
            self._arrive_stray(during)
        if self._broker.undelivered() and (self.calm or self.random.random() < self._marker_pace):
            self.deliver()

    def deliver(self) -> None:
        """A marker that is under way reaches its partition."""
        undelivered = self._broker.undelivered()
        id_ = self.random.choice(list(undelivered))
        self._broker.write_marker(id_, self.random.randrange(undelivered[id_]))
        self._stir()

    def _arrive_stray(self, during: str | None) -> None:
        mine = [stray for stray in self._strays if during is None or stray[0] == during]
        if not mine or self.random.random() >= (STRAY_BETWEEN if during is None else STRAY_DURING):
            return
        id_, epoch, commit = stray = self.random.choice(mine)
        self._strays.remove(stray)
        if self._broker.is_open(id_):
            try:
                self._broker.end(id_, epoch, commit=commit)
                self._stir()
            except (ProducerFenced, InvalidState):
                pass  # as the broker answers to nobody

    def _slow(self) -> bool:
        if not self.hit("markers"):
            return False
        self._marker_pace = self.random.choice(MARKER_PACES)
        return True


class Occasions:
    """Where faults of several kinds may happen, and mostly none does: nothing is drawn before the next one."""

    def __init__(self, chaos: Chaos, kinds: Sequence[str]) -> None:
        self._chaos = chaos
        self._passed = 0
        self._due = {kind: chaos.gap(kind) for kind in kinds}
        self._next = min(self._due.values())

    def hits(self) -> Sequence[str]:
        """The kinds that happen now."""
        chaos = self._chaos
        if chaos.calm:
            return ()
        self._passed += 1
        if self._passed < self._next:
            return ()
        found = [kind for kind, due in self._due.items() if due <= self._passed]
        for kind in found:
            self._due[kind] = self._passed + chaos.gap(kind)
        self._next = min(self._due.values())
        return [kind for kind in found if chaos.fires(kind)]


class UnluckyProducer(MemoryProducer):
    """A transactional producer whose requests and answers may be lost, doubled or late."""

    def __init__(self, chaos: Chaos, broker: MemoryBroker, transactional_id: str, group: str) -> None:
        super().__init__(broker, transactional_id, group)
        self._chaos = chaos

    def begin(self) -> None:
        self._perhaps_abort()
        super().begin()

    def produce(self, records: Sequence[OutRecord]) -> None:
        if self._chaos.calm:
            super().produce(records)
            return
        cut = self._chaos.random.randint(0, len(records))
        super().produce(records[:cut])
        self._chaos.arrive(self._id)
        self._perhaps_abort()
        super().produce(records[cut:])

    def send_offsets(self, offsets: Mapping[tuple[str, int], int], metadata: object) -> None:
        self._chaos.arrive(self._id)
        self._perhaps_abort()
        super().send_offsets(offsets, metadata)
        if self._chaos.hit("answer"):
            raise TransactionError(Reaction.RESUME, "send_offsets: the answer was lost")

    def commit(self) -> None:
        chaos = self._chaos
        if not self._broker.is_open(self._id):
            super().commit()  # asked again: it was committed, or another has ended it
            return
        self._perhaps_abort()
        if chaos.hit("unknown"):
            if chaos.random.random() < 0.5:
                super().commit()
            raise TransactionError(Reaction.REPLACE, "commit: nobody knows whether it happened")
        super().commit()
        if chaos.hit("disturbed"):
            # The client made its connection anew and sent the request again, without a word to us.
            self.disturbed = True
            chaos.stray(self._id, self._epoch, commit=True)
        elif chaos.hit("answer"):
            chaos.stray(self._id, self._epoch, commit=True)
            raise TransactionError(Reaction.RESUME, "commit: the answer was lost")

    def abort(self) -> None:
        if self._chaos.hit("answer"):
            raise TransactionError(Reaction.REPLACE, "abort: no answer")
        super().abort()

    def _perhaps_abort(self) -> None:
        if self._chaos.hit("abort"):
            raise TransactionError(Reaction.ABORT, "the broker gave it up")
