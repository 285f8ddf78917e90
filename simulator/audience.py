"""Who tells events in a run, and who listens: intakes, and subscribers; none where nobody does."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.testing.broker import Offsets
from kompensate.outbox.writer import Row, write
from kompensate.simulator.application import Simulated
from kompensate.simulator.hearing import Hearing
from kompensate.simulator.processes import Process
from kompensate.simulator.telling import Teller, events_of

if TYPE_CHECKING:
    from kompensate.simulator.run import Run


class Audience:
    """Of one run. `hearing` holds the invariants."""

    def __init__(self, run: "Run", simulated: Simulated) -> None:
        world = self._world = run.world
        self._run = run
        teller = run.load.teller = Teller(events_of(simulated), world, self._told)
        self.hearing = Hearing(world, run.load.came)
        run.effects.listen(self.hearing)
        self.published = {topic.name: name for name, one in run.scripted.items() for topic in one.publishes}
        self._intakes = [f"intake-{number}" for number in range(run.plan.workers)] if world.application.intake else []
        self._listeners = {mapping.topic: list(self._intakes) for mapping in world.application.intake}
        for service, scripted in run.scripted.items():
            scripted.tell = teller.told_by if scripted.publishes else None
            for topic in scripted.subscribes:
                self._listeners.setdefault(topic, []).extend(run.consumers[world.topics.commands(service)])
        self._inputs = frozenset(world.inputs)

    def intakes(self) -> dict[str, Callable[[], Process]]:
        """What makes each of the intakes, by its name."""
        make, producer = self._world.intake, self._run.chaos.producer
        return {name: lambda n=name: make(n.partition("-")[2], producer) for name in self._intakes}  # type: ignore[misc]

    def appended(self, record: Record) -> bool:
        """Is this record none for a worker? Then its listeners are woken. Raises Violation."""
        if record.topic in self._inputs:
            return False
        self._run.wake(*self._listeners.get(record.topic, ()))
        self.hearing.appended(record)
        return True

    def committed(self, records: list[Record], groups: list[Offsets]) -> bool:
        """Is this transaction an intake's? Then it is looked at. Raises Violation."""
        if not self.hearing.is_intakes(records, groups):
            return False
        self.hearing.taken(records, groups)
        for record in records:
            self._run.ledger.appended(record)
            self._run.wake_owner(record.partition)
        return True

    def _told(self, service: str, rows: list[Row]) -> None:
        """A service's front has told something."""
        database = self._world.databases[service]
        with database.engine.begin() as connection:
            write(connection, rows)
        database.collect()
