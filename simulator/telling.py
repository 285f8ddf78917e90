"""Domain events that nobody typed: of every type that an intake or a subscriber of the application listens for.

One of a topic that a simulated service publishes is a row of that service's outbox, in a transaction of its own, as its
front would write it; what a handler tells is committed with its effect. Any other topic is another program's: the event
stands there at once, and perhaps a second time.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

from kompensate.outbox.events import EventTopic
from kompensate.outbox.writer import Row
from kompensate.participants.outcome import Call
from kompensate.participants.participant import Participant
from kompensate.schemas.messages import JSON, SPEC_VERSION, timestamp
from kompensate.schemas.payloads import encode, has_fields
from kompensate.schemas.topics import partition_of
from kompensate.simulator.application import NoValue, Simulated
from kompensate.simulator.world import World

SOURCE = "kompensate:simulator"
KEYS = 8
"""What the events are about: those of one key keep their order."""
AGAIN = 0.1
"""How often another program tells something a second time."""


@dataclass(frozen=True, slots=True)
class Event:
    """A type of events, and how its values are made. `asks`: an intake asks for sagas by it."""

    topic: str
    type: str
    make: Callable[[Random], Any]
    publisher: EventTopic | None
    asks: bool


def headers(type_: str, key: str, id_: str, source: str, time: int) -> list[tuple[str, bytes | None]]:
    """Those of an event's record; `time` in milliseconds since the epoch."""
    texts = {
        "ce_id": id_,
        "ce_type": type_,
        "ce_source": source,
        "ce_specversion": SPEC_VERSION,
        "ce_subject": key,
        "ce_time": timestamp(time),
        "content-type": JSON,
    }
    return [(name, text.encode()) for name, text in texts.items()]


class Teller:
    """Tells `events` in `world`. `write` puts rows into a service's outbox, in a transaction."""

    def __init__(self, events: Sequence[Event], world: World, write: Callable[[str, list[Row]], None]) -> None:
        self._events, self._world, self._write = events, world, write
        self._recent: deque[tuple[str, int, bytes, bytes | None, list[tuple[str, bytes | None]]]] = deque(maxlen=20)

    def tell(self, random: Random) -> str:
        """One event, by chance; its id."""
        event, key, id_ = (
            random.choice(self._events),
            f"key-{random.randrange(KEYS)}",
            UUID(int=random.getrandbits(128)),
        )
        payload = encode(event.make(random))
        if event.publisher is not None:
            self._write(event.publisher.service, [_row(event.publisher, event, key, id_, payload, self._now())])
            return str(id_)
        partition = partition_of(key, self._world.broker.partitions(event.topic))
        told = headers(event.type, key, str(id_), SOURCE, self._now())
        self._recent.append((event.topic, partition, key.encode(), payload, told))
        self._world.broker.produce(*self._recent[-1])
        if random.random() < AGAIN:
            self._world.broker.produce(*random.choice(self._recent))
        return str(id_)

    def told_by(self, service: str, call: Call, random: Random) -> list[Row]:
        """What this service's handler tells with a command: one row, or none where it publishes nothing to be heard."""
        own = [e for e in self._events if e.publisher is not None and e.publisher.service == service and not e.asks]
        if not own:
            return []
        event = random.choice(own)
        assert event.publisher is not None
        key, id_ = f"key-{random.randrange(KEYS)}", UUID(int=random.getrandbits(128))
        return [_row(event.publisher, event, key, id_, encode(event.make(random)), self._now(), call)]

    def _now(self) -> int:
        return self._world.clock.now()


def _row(
    topic: EventTopic, event: Event, key: str, id_: UUID, payload: bytes | None, now: int, call: Call | None = None
) -> Row:
    return Row(
        id=id_,
        aggregatetype=topic.name,
        aggregateid=key,
        type=event.type,
        payload=payload,
        partition=partition_of(key, topic.partitions),
        ce_id=str(id_),
        ce_source=f"kompensate:{topic.service}",
        ce_correlationid=call.saga_id if call else None,
        ce_causationid=call.id if call else None,
        ce_subject=key,
        ce_time=timestamp(now),
    )


def events_of(simulated: Simulated) -> list[Event]:
    """Every type of events that somebody listens for. Raises NoValue for one whose values nobody can make."""
    publishers = {topic.name: topic for one in simulated.participants for topic in one.publishes}
    found: dict[tuple[str, str], Event] = {}
    for topic, type_, kind, asks in (*_asking(simulated, publishers), *_subscribed(simulated.participants)):
        if (topic, type_) not in found:
            make = simulated.event_maker(type_, kind)
            found[topic, type_] = Event(topic, type_, make, publishers.get(topic), asks)
    return list(found.values())


def _asking(simulated: Simulated, publishers: dict[str, EventTopic]) -> Iterable[tuple[str, str, Any, bool]]:
    for mapping in simulated.application.intake:
        typed = mapping.type if isinstance(mapping.type, type) and has_fields(mapping.type) else None
        if typed is None and simulated.make_event is None:
            raise NoValue(
                f"the events of {mapping.topic}: expected FromTopic to have a type= of which a value can be made, got "
                f"{mapping.type!r}; have the application's module say one, by a function simulated_event"
            )
        publisher = publishers.get(mapping.topic)
        name = mapping.topic if typed is None else typed.__name__
        yield mapping.topic, f"{publisher.service}.{name}" if publisher and typed else name, typed, True


def _subscribed(participants: Sequence[Participant]) -> Iterable[tuple[str, str, Any, bool]]:
    for participant in participants:
        for handler in participant.handlers:
            if handler.topic is not None:
                yield handler.topic, handler.contract, handler.payload_type, False
