"""What is told on the topics of events, and what came of it: at intakes, and at subscribers.

I10  only events that were told are handled, and a handler's only where its command took effect
I2   a subscriber handles an event once, however often it is told
I13  each transaction of an intake asks for just what the records say whose offsets it commits: none is left out, none
     counts twice
"""

from collections import Counter
from collections.abc import Callable, Sequence

from kompensate.orchestrator.intake.translate import Translator
from kompensate.orchestrator.ports import OutRecord, Record
from kompensate.orchestrator.testing.broker import Offsets
from kompensate.schemas.messages import START
from kompensate.simulator.violation import expect
from kompensate.simulator.world import World


class Hearing:
    """Of all events of a run. `asked` is told of each that stands in its topic, and of the sagas that it starts."""

    def __init__(self, world: World, asked: Callable[[str, list[str]], None]) -> None:
        self._world, self._asked = world, asked
        self._translator = Translator(world.application, world.topics)
        self._sources = frozenset(self._translator.sources)
        self._subscribers: dict[tuple[str, str], list[str]] = {}
        for service, participant in world.participants.items():
            for handler in participant.handlers:
                if handler.topic is not None:
                    self._subscribers.setdefault((handler.topic, handler.contract), []).append(service)
        self.topics = frozenset(world.heard())
        self._graves = {world.topics.dead(service): service for service in world.participants}
        self._offsets: dict[tuple[str, int], int] = {}
        self._open: dict[tuple[str, str], None] = {}
        """(service, event) that is still to be handled; in order, so that what is said of them is."""
        self._told: set[str] = set()
        self._handled: set[tuple[str, str]] = set()

    def appended(self, record: Record) -> None:
        """A record outside of a transaction; of a topic of events, or a dead letter."""
        service = self._graves.get(record.topic)
        if service is not None:
            self._open.pop((service, _header(record, "ce_id")), None)
        elif record.topic in self.topics:
            id_ = _header(record, "ce_id")
            if id_ not in self._told:
                self._told.add(id_)
                for service in self._subscribers.get((record.topic, _header(record, "ce_type")), ()):
                    self._open[service, id_] = None
            self._asked(id_, self._starts(record))

    def _starts(self, record: Record) -> list[str]:
        if record.topic not in self._sources:
            return []
        found = self._translator.translate(record)
        requests = (each for each in found if each.topic == self._world.topics.requests)
        return [(each.key or b"").decode() for each in requests if _header(each, "ce_type") == START]

    def told(self, id_: str) -> bool:
        """Is this an event's id?"""
        return id_ in self._told

    def handled(self, service: str, id_: str) -> None:
        """A subscriber's handler has committed. Raises Violation."""
        expect(id_ in self._told, "I10", f"{service} handled event {id_}, which nobody told")
        expect((service, id_) not in self._handled, "I2", f"{service} handled event {id_} twice")
        self._handled.add((service, id_))
        self._open.pop((service, id_), None)

    def is_intakes(self, records: Sequence[Record], groups: Sequence[Offsets]) -> bool:
        """Is this a transaction of an intake?"""
        if any(found.group == self._world.topics.intake_group for found in groups):
            return True
        return any(_header(record, "ce_source").startswith("kompensate:topic:") for record in records)

    def taken(self, records: Sequence[Record], groups: Sequence[Offsets]) -> None:
        """A transaction of an intake. Raises Violation."""
        expected: list[OutRecord] = []
        for (topic, number), offset in ((p, o) for found in groups for p, o in found.offsets.items()):
            before = self._offsets.get((topic, number), 0)
            self._offsets[topic, number] = max(before, offset)
            for record in self._world.broker.read(topic, number, before, limit=max(0, offset - before)):
                expected += self._translator.translate(record)
        missing, more = Counter(map(_what, expected)), Counter(map(_what, records))
        missing, more = missing - more, more - missing
        expect(not missing, "I13", f"an intake passed over what leads to {list(missing)[:3]}")
        expect(not more, "I13", f"an intake asked for {list(more)[:3]}, and commits no offset for it")

    def missing(self) -> list[str]:
        """What is still to come."""
        lags = self._world.lags
        found = [f"{service}: event {id_}" for service, id_ in self._open]
        return found + [f"intake: {topic}" for topic in self._translator.sources if lags(self._group, topic)]

    @property
    def _group(self) -> str:
        return self._world.topics.intake_group


def _header(record: Record | OutRecord, name: str) -> str:
    return (next((value for header, value in record.headers or () if header == name), None) or b"").decode()


def _what(record: Record | OutRecord) -> tuple[str, int | None, bytes | None, bytes | None, str]:
    return record.topic, record.partition, record.key, record.value, _header(record, "ce_id")
