"""The intake's sources on Kafka: who owns which partition of other people's topics, their records, and commits.

Two consumers, as in `log`: the *member* belongs to the group for the sake of ownership alone, the *reader* has the
same group.id, reads what is owned by assign(), and never joins. One thread makes all calls (R16).

Where reading begins is never guessed. A topic that the group has read before goes on from its committed offsets, and a
partition that was added to it since begins at its first record. A topic that it never read needs `begin`.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, TypeAlias

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from kompensate.orchestrator.errors import Aborted, Fatal, Fenced
from kompensate.orchestrator.kafka.membership import (
    GONE,
    WAIT_MS,
    consume,
    generation,
    ids_of_slot,
    leave,
    member_options,
    not_joined,
    open_producers,
)
from kompensate.orchestrator.kafka.options import AUTHORIZATION, CALL_SECONDS, consumer_options
from kompensate.orchestrator.kafka.state import to_record
from kompensate.orchestrator.ports import Clock, OutRecord, Record
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.worker.transactions import Transactions

logger = logging.getLogger(__name__)

Begin: TypeAlias = Literal["earliest", "latest"]
Place: TypeAlias = tuple[str, int]

COMMITTED_SECONDS = 1.0
"""One try at asking for committed offsets. An open transaction of one who died is waited for, a try a poll."""
SEED_SECONDS = 60.0
"""As long as such a transaction may stand, and the broker's own pace beside it."""


class KafkaSources:
    """The Sources on Kafka. Transactional ids are `<group>.<slot>.<k>`, as a worker's."""

    def __init__(
        self, settings: Settings, *, group: str, slot: str, topics: Sequence[str], begin: Begin | None, clock: Clock
    ) -> None:
        self._settings, self._group, self._topics = settings, group, tuple(topics)
        self._owned: set[Place] = set()
        self._fresh: set[Place] = set()
        self._positions: dict[Place, int] = {}
        self._metadata: object = None
        self._error: Exception | None = None
        ids = ids_of_slot(f"{group}.{slot}")
        self._transactions = Transactions(ids, partial(open_producers, settings), settings, clock)
        self._transactions.open()
        try:
            self._reader = Consumer(consumer_options(settings, group, {"fetch.wait.max.ms": WAIT_MS}))
            self._seed(begin)
            self._member = self._join()
        except KafkaException as exception:
            self._transactions.close()
            raise not_joined(group, exception.args[0]) from exception
        except (Fatal, Aborted):
            self._transactions.close()
            self._reader.close()
            raise

    # Where to begin.

    def _seed(self, begin: Begin | None) -> None:
        """Give the group its first offsets of topics that it has never read. Raises Fatal."""
        for topic in self._topics:
            lacking = self._never_read(topic)
            if not lacking:
                continue
            if begin is None:
                raise Fatal(
                    f"topic {topic}: expected offsets of group {self._group}, got none: it has not been read before, "
                    "or they have expired. Say once where to begin: --begin earliest (every record that is there) or "
                    "--begin latest (only what comes from now on)"
                )
            ends = [self._ends(place) for place in lacking]
            seeds = [
                TopicPartition(*place, low if begin == "earliest" else high)
                for place, (low, high) in zip(lacking, ends, strict=True)
            ]
            try:
                self._reader.commit(offsets=seeds, asynchronous=False)
            except KafkaException as exception:
                if exception.args[0].code() not in (KafkaError.UNKNOWN_MEMBER_ID, KafkaError.STALE_MEMBER_EPOCH):
                    raise
                # The group is at work: another process may just have done the same.
                if self._never_read(topic):
                    raise Fatal(
                        f"topic {topic}: expected group {self._group} to be empty, so that its first offsets can be "
                        "set, got members: stop every intake of the application, then start one with --begin"
                    ) from exception
            else:
                logger.info("topic %s: is read from its %s records on", topic, begin)

    def _never_read(self, topic: str) -> list[Place]:
        """Its partitions, where the group has no offset of any of them. Raises Fatal, Aborted."""
        found = self._reader.list_topics(topic, CALL_SECONDS).topics.get(topic)
        if found is None or found.error is not None or not found.partitions:
            raise Fatal(
                f"topic {topic}: expected it at {self._settings.bootstrap}, got no such topic: is the name whole?"
            )
        places = [(topic, number) for number in sorted(found.partitions)]
        deadline = time.monotonic() + SEED_SECONDS
        while (known := self._committed(places)) is None:
            if time.monotonic() > deadline:
                raise Aborted(f"topic {topic}: an open transaction holds the offsets of group {self._group}")
        return [] if known else places

    def _committed(self, places: Sequence[Place]) -> dict[Place, int] | None:
        """The group's offsets where it has some; None while an open transaction covers them."""
        try:
            found = self._reader.committed([TopicPartition(*place) for place in places], COMMITTED_SECONDS)
        except KafkaException as exception:
            error = exception.args[0]
            if error.retriable() or error.code() in (KafkaError._TIMED_OUT, KafkaError.UNSTABLE_OFFSET_COMMIT):
                return None
            raise
        return {(p.topic, p.partition): p.offset for p in found if p.offset >= 0}

    def _ends(self, place: Place) -> tuple[int, int]:
        low, high = self._reader.get_watermark_offsets(TopicPartition(*place), CALL_SECONDS)
        return low, high

    # Ownership. Callbacks run inside poll() and note what has changed (R12).

    def _join(self) -> Consumer:
        member = Consumer(consumer_options(self._settings, self._group, member_options(self._settings)))
        member.subscribe(
            list(self._topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )
        return member

    def _on_assign(self, member: Consumer, partitions: list[TopicPartition]) -> None:
        # With an offset of its own, so that librdkafka asks for none; being paused it is not used.
        member.incremental_assign([TopicPartition(p.topic, p.partition, OFFSET_END) for p in partitions])
        member.pause(partitions)
        places = {(p.topic, p.partition) for p in partitions}
        self._owned |= places
        self._fresh |= places
        logger.info("assigned: %s", _shown(places))

    def _on_revoke(self, member: Consumer, partitions: list[TopicPartition]) -> None:
        places = {(p.topic, p.partition) for p in partitions}
        self._owned -= places
        self._fresh -= places
        self._silence(places)
        member.incremental_unassign(partitions)
        logger.info("given away: %s", _shown(places))

    def _silence(self, places: set[Place]) -> None:
        reading = [place for place in places if self._positions.pop(place, None) is not None]
        if reading:
            self._reader.incremental_unassign([TopicPartition(*place) for place in reading])

    def _take_over(self) -> None:
        """Read what was newly assigned from where its former owner left it, once that is certain."""
        known = self._committed(sorted(self._fresh))
        if known is None:
            return
        for place in self._fresh:
            # A partition that was added to a topic that is read: all of it is new.
            self._positions[place] = known[place] if place in known else self._ends(place)[0]
        self._reader.incremental_assign([TopicPartition(*place, self._positions[place]) for place in self._fresh])
        self._fresh.clear()

    # Records.

    def poll(self, records_max: int, timeout: float) -> Sequence[Record]:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        self._transactions.serve()
        self._serve_group()
        if self._fresh:
            try:
                self._take_over()
            except KafkaException as exception:
                self._judge(exception.args[0], f"group {self._group}")
        records = []
        for message in consume(self._reader, records_max, timeout):
            if message.error() is not None:
                self._note(message)
            elif (message.topic(), message.partition()) in self._positions:
                records.append(to_record(message))
        return records

    def _serve_group(self) -> None:
        """Let librdkafka call back, then take the metadata that goes with what is owned now (R7)."""
        message = self._member.poll(0)
        if message is not None and (error := message.error()) is not None:
            self._judge(error, f"group {self._group}")
        self._metadata = self._member.consumer_group_metadata()

    def _note(self, message: Message) -> None:
        """Keep an error that came among records for the next poll: the records must not be lost with it."""
        error = message.error()
        assert error is not None
        try:
            self._judge(error, f"{message.topic()}/{message.partition()}")
        except (Fenced, Fatal) as judged:
            self._error = judged

    def _judge(self, error: KafkaError, where: str) -> None:
        text = f"{where}: {error.str()} ({error.name()})"
        if error.code() in AUTHORIZATION:
            raise Fatal(f"{text}: the intake's principal needs access, or its credentials are wrong")
        if error.fatal() or error.code() == KafkaError._FATAL:
            raise Fenced(text)
        if error.code() in GONE:
            raise Fatal(
                f"{text}: expected the next record there; the topic was deleted or made anew, or its retention ended "
                f"before the record was read. To go on without what is gone, set the offsets of group {self._group} "
                "(kafka-consumer-groups.sh --reset-offsets)"
            )
        logger.warning("%s", text)

    def rewind(self) -> None:
        if self._positions:
            # Assigned anew, not sought: what librdkafka had fetched before is of no more use (R15).
            self._reader.incremental_unassign([TopicPartition(*place) for place in self._positions])
            self._reader.incremental_assign(
                [TopicPartition(*place, offset) for place, offset in self._positions.items()]
            )

    # Commits.

    def commit(self, records: Sequence[OutRecord], offsets: Mapping[Place, int]) -> None:
        member = generation(self._metadata)
        # The broker's fence is the member's, not the partition's (R8): that we own what we commit is ours to know.
        stray = offsets.keys() - self._positions.keys()
        if stray or not offsets:
            raise Fenced(f"a commit for {_shown(stray)}: expected to own them, got {_shown(self._owned)} as ours")
        if member[0] < 0 or not member[1]:
            raise Aborted(f"expected to be a member of the group, got generation {member[0]}, member {member[1]!r}")
        self._transactions.commit(records, offsets, self._metadata)
        self._positions.update(offsets)

    def close(self) -> None:
        self._transactions.close()
        leave(self._group, (self._member, self._reader))


def _shown(places: "set[Place]") -> str:
    return ", ".join(f"{topic}/{partition}" for topic, partition in sorted(places)) or "nothing"
