"""The door to Kafka of a participant: a plain consumer of commands, and a producer of dead letters.

librdkafka's options pass through, except those that the promises rest on: those are refused.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from kompensate.participants.ports import DeadLetter, Leaving, Place, Record, Unburied
from kompensate.schemas import letters
from kompensate.schemas.refusals import Refusals

log = logging.getLogger("kompensate.participants")
_librdkafka = log.getChild("librdkafka")
# With each try, and once more by the callback for errors, which is where Complaints says them.
_librdkafka.addFilter(lambda record: not record.getMessage().startswith(("FAIL ", "ERROR ")))

CONNECT_SECONDS_MAX = 15.0
BURY_SECONDS_MAX = 30.0
LEAVE_SECONDS = 10.0
REMINDER_SECONDS = 60.0
"""A broker that is away is tried several times a second: each kind of error is logged so often."""
FENCES_MAX, FENCES_SECONDS = 5, 60.0
"""A member that is put out so often is one of two with one name: they would take turns for ever."""
DEAD_BYTES_MAX = 3 * 1024 * 1024  # a dead letter is its record and our headers: the topic's limit is twice the input's

_OURS_CONSUMER: dict[str, object] = {
    # A command of a transaction that was aborted was never sent.
    "isolation.level": "read_committed",
    # Offsets are committed when the database has committed.
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # A new group takes all there is: commands that were sent before the service's first start wait for it, and
    # those of a group whose offsets expired are absorbed by the inbox. Skipping would lose them.
    "auto.offset.reset": "earliest",
    "check.crcs": True,
    "allow.auto.create.topics": False,
    "enable.partition.eof": False,
}
_DEFAULTS_CONSUMER: dict[str, object] = {
    "socket.nagle.disable": True,
    "queued.max.messages.kbytes": 16 * 1024,
}
# With KIP-848 these belong to the broker, and librdkafka refuses them.
_DEFAULTS_CLASSIC: dict[str, object] = {
    "partition.assignment.strategy": "cooperative-sticky",
    "session.timeout.ms": 10_000,
    "heartbeat.interval.ms": 2_000,
}
_AWAY = frozenset({KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT})
_OURS_PRODUCER: dict[str, object] = {
    "acks": "all",
    "enable.idempotence": True,
    "partitioner": "murmur2_random",
    "allow.auto.create.topics": False,
}


_MAKE = "make it with `kompensate topics apply --participant MODULE:OBJECT`"


class CannotStart(RuntimeError):
    """Kafka cannot be reached, or lacks a topic; the text says what is expected."""


class Unreachable(CannotStart):
    """Kafka does not answer at the address given."""


class KafkaStopped(RuntimeError):
    """Consumers met fatal errors again and again: somebody has to look."""


def configuration(bootstrap: str, options: Mapping[str, object], ours: Mapping[str, object]) -> dict[str, Any]:
    """Options for librdkafka. Raises ValueError where `options` would change one of `ours`."""
    for name, value in options.items():
        if name in ours and str(value).lower() != str(ours[name]).lower():
            raise ValueError(f"Kafka option {name}: expected {ours[name]} (the promises rest on it), got {value!r}")
    return {"bootstrap.servers": bootstrap, **options, **ours}


class KafkaSource:
    """Reads the command topic, and those of events, as a member of the service's consumer group."""

    def __init__(
        self, bootstrap: str, topic: str | None, group: str, options: Mapping[str, object], events: Sequence[str] = ()
    ) -> None:
        """`topic` has the commands (None: it takes none), `events` are the topics of events."""
        classic = {} if options.get("group.protocol") == "consumer" else _DEFAULTS_CLASSIC
        ours = {**_OURS_CONSUMER, "group.id": group}
        settings = configuration(bootstrap, {**_DEFAULTS_CONSUMER, **classic, **options}, ours)
        self._commands = topic
        self._topics = [topic, *events] if topic else [*events]
        self._topic = ", ".join(self._topics)
        self._events = tuple(events)
        self._bootstrap = bootstrap
        self._early: list[Record] = []
        self._leaving: Leaving = lambda _places, _commit: None
        self.held: frozenset[Place] | None = None
        """The partitions that are its own, maybe none; None before the group has told it, and after it was put out."""
        self._fences: deque[float] = deque()
        self._refusals = Refusals()
        complaints = Complaints()

        def heard(error: KafkaError) -> None:
            self._refusals(error)
            complaints(error)

        self._settings = {**settings, "error_cb": heard, "on_commit": _on_commit, "logger": _librdkafka}
        self._consumer = Consumer(self._settings)

    def check(self, dead_topic: str, published: Mapping[str, int] | None = None) -> None:
        """Raise CannotStart unless Kafka answers (else Unreachable) and has all topics.

        `published` are those of the service's own events, with the count of partitions that it was told.
        """
        try:
            known = self._consumer.list_topics(timeout=CONNECT_SECONDS_MAX).topics
        except KafkaException as error:
            cause = error.args[0]
            if cause.code() not in _AWAY:
                raise CannotStart(f"Kafka at {self._bootstrap}: {cause.str()} ({cause.name()})") from error
            self._consumer.poll(0)  # calls back
            raise Unreachable(
                f"Kafka at {self._bootstrap}: expected an answer within {CONNECT_SECONDS_MAX:g} s, got none "
                f"({cause.str()}): {self._refusals.advice}"
            ) from error
        own = [topic for topic in (self._commands, dead_topic) if topic]
        missing = [topic for topic in own if topic not in known]
        if missing:
            raise CannotStart(
                f"Kafka at {self._bootstrap}: expected topics {' and '.join(own)}, got no "
                f"{' and no '.join(missing)}: make them with `kompensate topics apply`"
            )
        absent = [topic for topic in self._events if topic not in known]
        if absent:
            raise CannotStart(
                f"Kafka at {self._bootstrap}: expected the topics of the events that are subscribed to, got no "
                f"{' and no '.join(absent)}: is the name whole, its prefix included? "
                f"Else {_MAKE}, of the service that publishes them"
            )
        for topic, count in (published or {}).items():
            got = len(known[topic].partitions) if topic in known else 0
            if got != count:
                remedy = f"{got}: give EventTopic(…, partitions={got})" if got else f"none: {_MAKE}"
                raise CannotStart(
                    f"Kafka at {self._bootstrap}: expected event topic {topic} with {count} partitions (by which "
                    f"events are placed), got {remedy}"
                )

    def open(self, leaving: Leaving) -> None:
        """Join the group; partitions come with the polls that follow."""
        self._leaving = leaving
        self._subscribe()

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, records_max: int, timeout: float) -> list[Record]:
        """What is there, at most `records_max`; else the first within `timeout` seconds. Raises KafkaStopped."""
        if self._early:
            found, self._early = self._early[:records_max], self._early[records_max:]
            return found
        messages = self._consumer.consume(records_max, 0)
        if not messages and timeout > 0:
            # consume() would wait for all of `records_max`; poll() returns with the first.
            first = self._consumer.poll(timeout)
            messages = [] if first is None else [first, *self._consumer.consume(records_max - 1, 0)]
        return self._records(messages)

    def rest(self, seconds: float) -> None:
        """Stay a member while nothing can be handled; what slips through is kept for the next poll."""
        until = time.monotonic() + seconds
        held = self._consumer.assignment()
        self._consumer.pause(held)
        while (left := until - time.monotonic()) > 0:
            message = self._consumer.poll(min(left, 0.1))
            if message is not None:
                self._early.extend(self._records([message]))
        still = set(self._consumer.assignment())
        self._consumer.resume([place for place in held if place in still])

    def commit(self, offsets: Mapping[Place, int], *, wait: bool) -> None:
        """Commit next offsets. A failure is logged: the records are then read, and absorbed, once more."""
        places = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        try:
            if wait:
                self._consumer.commit(offsets=places, asynchronous=False)
            else:
                self._consumer.commit(offsets=places, asynchronous=True)
        except KafkaException as error:
            log.warning("offsets %s not committed, their commands may come again: %s", dict(offsets), error)

    def close(self) -> None:
        """Leave the group; after LEAVE_SECONDS without it: librdkafka waits long for a broker that says nothing."""
        leaving = threading.Thread(target=self._consumer.close, name="leave Kafka", daemon=True)
        leaving.start()
        leaving.join(LEAVE_SECONDS)
        if leaving.is_alive():
            log.warning("Kafka does not answer: not left the group in %g s, its session there will end", LEAVE_SECONDS)
        self.held = None

    def _rejoin(self, error: KafkaError) -> None:
        """Go on with a new consumer: a fatal error ends one for good.

        A member with a `group.instance.id` meets it after an outage longer than its session: it joins anew, and
        what it still asks for in its old name is refused. What it held is another's, or comes again.
        """
        now = time.monotonic()
        self._fences.append(now)
        while self._fences[0] < now - FENCES_SECONDS:
            self._fences.popleft()
        if len(self._fences) > FENCES_MAX:
            raise KafkaStopped(
                f"consumer of {self._topic}: had to rejoin {len(self._fences)} times in {FENCES_SECONDS:.0f} s, the "
                f"last time for: {error}; has another process the same group.instance.id? Each needs one of its own"
            )
        log.warning("consumer of %s: rejoining: %s", self._topic, error)
        self._put_out(list(self.held or ()))
        self._consumer.close()
        self._consumer = Consumer(self._settings)
        self._subscribe()

    def _records(self, messages: Sequence[Message]) -> list[Record]:
        records = []
        for message in messages:
            error = message.error()
            if error is not None:
                # Among messages a fatal error has the code, not the flag.
                if error.fatal() or error.code() == KafkaError._FATAL:
                    self._rejoin(error)
                    return []
                log.warning("consumer of %s: %s", self._topic, error)
                continue
            records.append(_record(message))
        return records

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self.held = (self.held or frozenset()).union(Place(p.topic, p.partition) for p in partitions)
        log.info("%s: partitions %s assigned", self._topic, sorted(p.partition for p in partitions))

    def _on_revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._leave([Place(p.topic, p.partition) for p in partitions], commit=True)

    def _on_lost(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._put_out([Place(p.topic, p.partition) for p in partitions])

    def _put_out(self, places: list[Place]) -> None:
        self._leave(places, commit=False)
        self.held = None

    def _leave(self, places: list[Place], *, commit: bool) -> None:
        self.held = (self.held or frozenset()).difference(places)
        self._early = [record for record in self._early if record.place not in places]
        self._leaving(places, commit)


class KafkaGrave:
    """Writes dead letters. The producer is made with the first one: most services never need it."""

    def __init__(self, bootstrap: str, topic: str, options: Mapping[str, object]) -> None:
        own = {"socket.nagle.disable": True, "linger.ms": 0, "message.max.bytes": DEAD_BYTES_MAX}
        self._settings = configuration(bootstrap, {**own, **options}, _OURS_PRODUCER)
        self._topic = topic
        self._producer: Producer | None = None

    def bury(self, dead: Sequence[DeadLetter]) -> None:
        """Write them and wait for the broker's word. Raises Unburied."""
        if not dead:
            return
        if self._producer is None:
            self._producer = Producer({**self._settings, "error_cb": Complaints(), "logger": _librdkafka})
        problems: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                problems.append(error)

        for letter in dead:
            record = letter.record
            try:
                self._producer.produce(
                    self._topic,
                    key=record.key,
                    value=record.value,
                    headers=_headers(letter),
                    on_delivery=delivered,
                )
            except (KafkaException, BufferError) as error:
                raise Unburied(_unburied(self._topic, letter, error)) from error
        left = self._producer.flush(BURY_SECONDS_MAX)
        got = problems[0] if problems else f"no answer in {BURY_SECONDS_MAX:g} s"
        if left:
            # Given up here, or it would be delivered later beside its own repetition. Purging goes on in the
            # background and may take new messages along, so the next letters get a producer of their own.
            self._producer.purge()
            self._producer.flush(1.0)
            self._producer = None
        if left or problems:
            raise Unburied(_unburied(self._topic, dead[0], got))

    def close(self) -> None:
        """Every letter was flushed when it was buried: there is nothing left to wait for."""
        self._producer = None


def _record(message: Message) -> Record:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    headers: Any = message.headers()
    return Record(Place(topic, partition), offset, message.key(), message.value(), headers)


def _headers(letter: DeadLetter) -> list[tuple[str, str | bytes | None]]:
    """The record's own headers, then why and whence."""
    record, place, now = letter.record, letter.record.place, time.time_ns() // 1_000_000
    return [
        *(record.headers or ()),
        *letters.put_aside(place.topic, place.partition, record.offset, letter.reason, now),
        *([] if letter.answered is None else [(letters.ANSWERED, letter.answered)]),
        *([] if letter.stack is None else [(letters.STACK, letter.stack.encode(errors="replace"))]),
    ]


def _unburied(topic: str, letter: DeadLetter, got: object) -> str:
    place = letter.record.place
    return (
        f"dead letter from {place.topic} [{place.partition}] offset {letter.record.offset}: "
        f"expected {topic} to take it, got {got}"
    )


class Complaints:
    """A client's callback for errors: logs each kind once, and again after REMINDER_SECONDS."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[int, float] = {}

    def __call__(self, error: KafkaError) -> None:
        now = self._clock()
        if now - self._said.get(error.code(), -math.inf) >= REMINDER_SECONDS:
            self._said[error.code()] = now
            log.warning("Kafka: %s", error.str())


def _on_commit(error: KafkaError | None, partitions: list[TopicPartition]) -> None:
    if error is not None:
        offsets = {(p.topic, p.partition): p.offset for p in partitions if p.offset != OFFSET_INVALID}
        log.warning("offsets %s not committed, their commands may come again: %s", offsets, error)
