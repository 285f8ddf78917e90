"""A participant's ports on the broker in memory: its topics as a member of its group, and its dead letters."""

from collections.abc import Callable, Mapping, Sequence

from kompensate.orchestrator.ports import Clock, Record
from kompensate.orchestrator.testing import MemoryBroker
from kompensate.participants.ports import DeadLetter, Leaving, Place
from kompensate.participants.ports import Record as Taken
from kompensate.schemas.letters import REASON, reason_bytes

REST_SECONDS_MIN = 0.05
"""A rest takes this long at least: the runner asks for many short ones."""


class MemorySource:
    """A participants.Source. `held` may keep a record, and so what comes after it in its partition, back for now.

    A group of the broker counts partitions of one topic: those of `events` come first here, for they never grow.
    """

    def __init__(self, broker: MemoryBroker, topic: str, group: str, clock: Clock, events: Sequence[str] = ()) -> None:
        self._broker, self._topic, self._group, self._clock = broker, topic, group, clock
        self._events = [Place(name, number) for name in events for number in range(broker.partitions(name))]
        self._leaving: Leaving = lambda places, commit: None
        self._positions: dict[Place, int] = {}
        self.member = ""
        self.held: Callable[[Record], bool] = lambda record: False
        self.committed_only = True
        self.events = len(self._events)
        """How many partitions its group counts before those of the commands."""

    def open(self, leaving: Leaving) -> None:
        self._leaving = leaving
        self._join()

    def _join(self) -> None:
        count = len(self._events) + self._broker.partitions(self._topic)
        self.member = self._broker.group(self._group).join(count)

    def _place(self, number: int) -> Place:
        events = self._events
        return events[number] if number < len(events) else Place(self._topic, number - len(events))

    def poll(self, records_max: int, timeout: float) -> Sequence[Taken]:
        """Does not wait: time goes on elsewhere."""
        self._hear()
        found: list[Taken] = []
        for place, position in self._positions.items():
            records = self._broker.read(*place, position, limit=records_max - len(found), committed=self.committed_only)
            for record in records:
                if self.held(record):
                    break
                found.append(Taken(place, record.offset, record.key, record.value, record.headers))
                self._positions[place] = record.offset + 1
        return found

    @property
    def unread(self) -> bool:
        """Are there records that no poll has brought, held back or not?"""
        return any(self._broker.read(*place, position, limit=1) for place, position in self._positions.items())

    def _hear(self) -> None:
        told = self._broker.group(self._group).poll(self.member)
        if told is None:
            gone = list(self._positions)
            self._positions.clear()
            self._leaving(gone, False)
            self._join()
            return
        if told.revoked:
            revoked = [self._place(number) for number in told.revoked]
            self._leaving(revoked, True)
            for place in revoked:
                self._positions.pop(place, None)
        for number in told.assigned:
            topic, partition = place = self._place(number)
            found = self._broker.committed(self._group, [topic], partition) or {}
            self._positions[place] = found.get(topic, self._broker.ends(topic, partition).low)

    def rest(self, seconds: float) -> None:
        self._hear()
        self._clock.sleep(max(seconds, REST_SECONDS_MIN))

    def commit(self, offsets: Mapping[Place, int], *, wait: bool) -> None:
        """As Kafka: refused from one who is no member any more."""
        if self.member in self._broker.group(self._group).members:
            for place, offset in offsets.items():
                self._broker.set_committed(self._group, place.topic, place.partition, offset)

    def close(self) -> None:
        self._broker.group(self._group).remove(self.member)


class MemoryGrave:
    """A participants.Grave."""

    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        self._broker, self._topic = broker, topic

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            headers: list[tuple[str, bytes | None]] = [(REASON, reason_bytes(letter.reason))]
            for name, value in letter.record.headers or ():
                headers.append((name, value.encode() if isinstance(value, str) else value))
            self._broker.produce(self._topic, 0, letter.record.key, letter.record.value, headers)

    def close(self) -> None:
        """Nothing is held."""
