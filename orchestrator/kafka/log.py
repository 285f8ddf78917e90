"""The worker's log on Kafka: who owns what, inputs, take-overs and commits.

Two consumers. The *member* subscribes to the requests topic and belongs to the group for the sake of
ownership alone; its partitions stay paused. The *inputs* consumer has the same group.id, reads requests, orders
and replies of the partitions that are ours by assign(), and never joins. So every reply topic's partition p goes
where the requests' p goes, and there is one queue to wait on.

One thread makes all calls (R16), but for the blocking part of a take-over, whose clients are its own.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from kompensate.orchestrator.errors import Aborted, Corrupted, Fatal, Fenced
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
from kompensate.orchestrator.kafka.options import AUTHORIZATION, CALL_SECONDS, admin_options, consumer_options
from kompensate.orchestrator.kafka.state import KafkaState, to_record
from kompensate.orchestrator.ports import Clock, OutRecord, Polled, Takeover
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.worker.aside import aside
from kompensate.orchestrator.worker.restore import take_over
from kompensate.orchestrator.worker.transactions import Transactions, expect_fenced

logger = logging.getLogger(__name__)


class KafkaLog:
    """A Log. `inputs` are the topics of requests, orders and replies; `writer_of` reads a watermark's writer.

    Transactional ids are `<group>.<slot>.<k>`: a restart in the same slot ends its former life's transactions.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        group: str,
        slot: str,
        inputs: Sequence[str],
        state: str,
        writer_of: Callable[[bytes], str],
        clock: Clock,
    ) -> None:
        self._settings, self._clock = settings, clock
        self._group, self._state, self._inputs = group, state, tuple(inputs)
        self._requests = self._inputs[0]
        self._writer_of = writer_of
        self._owned: set[int] = set()
        self._reading: set[int] = set()
        self._assigned: set[int] = set()
        self._revoked: set[int] = set()
        self._lost: set[int] = set()
        self._metadata: object = None
        self._error: Exception | None = None
        self._transactions = Transactions(
            ids_of_slot(f"{group}.{slot}"), partial(open_producers, settings), settings, clock
        )
        self._transactions.open()
        try:
            self._admin = AdminClient(admin_options(settings))
            self._reader = Consumer(consumer_options(settings, group, {"fetch.wait.max.ms": WAIT_MS}))
            # Asked for by name first: a topic that the client hears of by assign() costs it up to a second.
            for topic in self._inputs:
                self._reader.list_topics(topic, CALL_SECONDS)
            self._member = self._join()
        except KafkaException as exception:
            self._transactions.close()
            raise not_joined(group, exception.args[0]) from exception

    @staticmethod
    def _siblings(writer: str) -> list[str]:
        """The transactional ids of the writer's slot."""
        return ids_of_slot(writer.rpartition(".")[0])

    # Ownership. R12: callbacks run inside poll() and note what has changed. The loop polls between
    # transactions, so there is nothing to commit or to abort in here.

    def _join(self) -> Consumer:
        member = Consumer(consumer_options(self._settings, self._group, member_options(self._settings)))
        member.subscribe([self._requests], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        return member

    def _on_assign(self, member: Consumer, partitions: list[TopicPartition]) -> None:
        # With an offset of its own, so that librdkafka asks for none; being paused it is not used.
        member.incremental_assign([TopicPartition(p.topic, p.partition, OFFSET_END) for p in partitions])
        member.pause(partitions)
        self._owned.update(p.partition for p in partitions)
        self._assigned.update(p.partition for p in partitions)

    def _on_revoke(self, member: Consumer, partitions: list[TopicPartition]) -> None:
        self._revoked.update(self._give_up(member, partitions))

    def _on_lost(self, member: Consumer, partitions: list[TopicPartition]) -> None:
        self._lost.update(self._give_up(member, partitions))

    def _give_up(self, member: Consumer, partitions: list[TopicPartition]) -> set[int]:
        gone = {p.partition for p in partitions}
        self._owned -= gone
        self._assigned -= gone
        for partition in gone:
            self.pause(partition)
        member.incremental_unassign(partitions)
        return gone

    # Inputs.

    def poll(self, records_max: int, timeout: float) -> Polled:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        self._transactions.serve()
        self._serve_group()
        changed = bool(self._assigned or self._revoked or self._lost)
        records = []
        for message in consume(self._reader, records_max, 0 if changed else timeout):
            if message.error() is None:
                records.append(to_record(message))
            else:
                self._note(message)
        polled = Polled(records, frozenset(self._assigned), frozenset(self._revoked), frozenset(self._lost))
        for changes in (self._assigned, self._revoked, self._lost):
            changes.clear()
        return polled

    def _serve_group(self) -> None:
        """Let librdkafka call back, then take the metadata that goes with what is owned now.

        Once a poll, before its records are taken (R7): a rebalance that comes later makes the metadata old,
        and the broker refuses the batch. It is never taken at the commit, where it would be too fresh.
        """
        message = self._member.poll(0)
        if message is not None and (error := message.error()) is not None:
            self._judge(error, f"group {self._group}", None)
        self._metadata = self._member.consumer_group_metadata()

    def _note(self, message: Message) -> None:
        """Keep an error that came among records for the next poll: the records must not be lost with it."""
        error = message.error()
        assert error is not None
        try:
            self._judge(error, f"{message.topic()}/{message.partition()}", message.partition())
        except (Fenced, Corrupted, Fatal) as judged:
            self._error = judged

    def _judge(self, error: KafkaError, where: str, partition: int | None) -> None:
        text = f"{where}: {error.str()} ({error.name()})"
        if error.code() in AUTHORIZATION:
            raise Fatal(f"{text}: the worker's principal needs access, or its credentials are wrong")
        # Among messages a fatal error has the code, not the flag.
        if error.fatal() or error.code() == KafkaError._FATAL:
            raise Fenced(text)
        if error.code() in GONE:
            raise Corrupted(
                f"{text}: expected the next input there; its topic was deleted or made anew, or its retention "
                "ended before the input was handled",
                partition,
            )
        logger.warning("%s", text)

    def take_over(self, partition: int) -> Takeover:
        self.pause(partition)
        try:
            # Ours are open before anybody looks at what hangs: none of it is ours then.
            self._transactions.open()
        except Aborted as error:
            raise Corrupted(f"partition {partition}: {error}", partition, retry=True) from error
        source = KafkaState(
            self._settings,
            self._group,
            self._state,
            self._inputs,
            partition,
            admin=self._admin,
            siblings=lambda writer: [id_ for id_ in self._siblings(writer) if id_ not in self._transactions.ids],
            writer_of=self._writer_of,
        )
        return take_over(source, self._requests, settings=self._settings, clock=self._clock, spawn=aside)

    def resume(self, partition: int, offsets: Mapping[str, int]) -> None:
        if offsets.keys() != set(self._inputs):
            raise Fatal(f"partition {partition}: expected an offset for each of {self._inputs}, got {dict(offsets)}")
        self.pause(partition)
        if partition in self._owned:
            # Assigned anew, not sought: what librdkafka had fetched before is of no more use (R15).
            self._reader.incremental_assign(
                [TopicPartition(topic, partition, offset) for topic, offset in offsets.items()]
            )
            self._reading.add(partition)

    def pause(self, partition: int) -> None:
        if partition in self._reading:
            self._reading.discard(partition)
            self._reader.incremental_unassign([TopicPartition(topic, partition) for topic in self._inputs])

    # Commits.

    @property
    def writer(self) -> str:
        return self._transactions.writer

    def commit(self, records: Sequence[OutRecord], offsets: Mapping[tuple[str, int], int]) -> None:
        expect_fenced(offsets, self._owned, self._requests, *generation(self._metadata))
        self._transactions.commit(records, offsets, self._metadata)

    def close(self) -> None:
        self._transactions.close()
        leave(self._group, (self._member, self._reader))
