"""One transactional producer of librdkafka, and what its errors mean.

Contract with its neighbour: kompensate.orchestrator.worker.transactions knows the order of the calls and what
follows an error; here each call is made, and its error named by what may follow (R1).
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from kompensate.orchestrator.kafka.options import AUTHORIZATION, CALL_SECONDS, Options, client_options
from kompensate.orchestrator.ports import OutRecord
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.worker.aside import aside
from kompensate.orchestrator.worker.transactions import Reaction, TransactionError

logger = logging.getLogger(__name__)

RECORD_OVERHEAD_BYTES = 64 * 1024
"""Headers and framing beside the value, in the client's size limit."""
OVERTIME_SECONDS = 2.0
"""How long beyond its time-out a call of librdkafka is waited for."""
STATISTICS_MS = 500
"""How late a lost connection to the coordinator may be noticed where no error tells of it (R9)."""

# R4. librdkafka calls most of them fatal; the broker's own names come where it does not.
FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.INVALID_TXN_STATE})
# A record that no repetition makes acceptable.
UNACCEPTABLE = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    }
)


def reaction(error: KafkaError) -> Reaction:
    """What may follow this error of a transactional call; the order of the questions is R1's."""
    code = error.code()
    if code in UNACCEPTABLE and not error.fatal():
        return Reaction.REJECT
    if code in AUTHORIZATION:
        return Reaction.STOP
    if error.fatal():
        return Reaction.FENCED if code in FENCED else Reaction.REPLACE
    if error.txn_requires_abort():
        return Reaction.ABORT
    if error.retriable():
        return Reaction.RESUME
    # _STATE, _INVALID_ARG and the like say that the producer is not where we think it is.
    return Reaction.REPLACE


class KafkaProducer:
    """A producer that is initialised: older transactions of its id are ended. Raises TransactionError."""

    def __init__(self, settings: Settings, transactional_id: str) -> None:
        self.disturbed = False
        self._timeout = settings.transaction_timeout_seconds
        self._undelivered: KafkaError | None = None
        self._id = transactional_id
        self._coordinator: tuple[int, int] | None = None
        self._offsets: Future[None] = Future()  # the call that sends them
        self._offsets.set_result(None)
        try:
            self._producer = Producer(self._options(settings))
        except KafkaException as error:
            raise TransactionError(Reaction.STOP, f"Kafka options: {error.args[0].str()}") from error
        try:
            with self._reacting():
                self._producer.init_transactions(settings.transaction_timeout_seconds + CALL_SECONDS)
        except TransactionError:
            self.close()
            raise

    def _options(self, settings: Settings) -> Options:
        timeout_ms = round(settings.transaction_timeout_seconds * 1000)
        return {
            **client_options(settings, {"logger": logging.getLogger("kompensate.librdkafka")}),
            "transactional.id": self._id,
            "acks": "all",
            "enable.idempotence": True,
            # The Java client's, where a record has no partition of its own (R18).
            "partitioner": "murmur2_random",
            "allow.auto.create.topics": False,
            "transaction.timeout.ms": timeout_ms,
            "message.timeout.ms": timeout_ms,
            # As long as a transaction, and no longer is allowed: none of its requests is repeated for want of
            # patience (R9).
            "socket.timeout.ms": timeout_ms + 100,
            # The waits for a coordinator that is still writing markers: with the default of 100 a commit takes that.
            "retry.backoff.ms": 1,
            "retry.backoff.max.ms": 50,
            # Larger requests while the batch is produced; the commit flushes and does not wait for it.
            "linger.ms": 5,
            "batch.num.messages": 10_000,
            "queue.buffering.max.messages": 1_000_000,
            "message.max.bytes": 2 * settings.record_bytes_max + RECORD_OVERHEAD_BYTES,
            # A delivery that fails fails the commit: nobody needs to be told of each record.
            "delivery.report.only.error": True,
            "statistics.interval.ms": STATISTICS_MS,
            "on_delivery": self._on_undelivered,
            "stats_cb": self._on_statistics,
            "error_cb": self._on_error,
        }

    @contextmanager
    def _reacting(self) -> Iterator[None]:
        """Name the error of a call. Where a record was not delivered, that is the cause: the call's error hides it."""
        try:
            yield
        except KafkaException as exception:
            with suppress(KafkaException):
                self._producer.poll(0)
            error = exception.args[0]
            found = reaction(error)
            text = f"{error.name()}: {error.str()}"
            if found is Reaction.ABORT and self._undelivered is not None:
                text = f"{self._undelivered.name()}: {self._undelivered.str()}"
                found = Reaction.REJECT if self._undelivered.code() in UNACCEPTABLE else Reaction.ABORT
            raise TransactionError(found, text) from exception

    def _on_undelivered(self, error: KafkaError | None, message: Message) -> None:
        # What an abort purges is not the cause of anything (R17).
        purged = (KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT)
        if error is not None and error.code() not in purged and self._undelivered is None:
            self._undelivered = error
            logger.warning("producer %s: a record for %s was not delivered: %s", self._id, message.topic(), error.str())

    def _on_statistics(self, text: str) -> None:
        """See whether a request to the coordinator was left without an answer (R9).

        `txretries` is not looked at: it also counts answers (CONCURRENT_TRANSACTIONS), which leave nothing behind.
        """
        for broker in json.loads(text)["brokers"].values():
            if broker["source"] == "logical":
                now = (broker["req_timeouts"], broker["disconnects"])
                self.disturbed |= self._coordinator is not None and now != self._coordinator
                self._coordinator = now

    def _on_error(self, error: KafkaError) -> None:
        # Sooner than the statistics, which lag.
        self.disturbed |= error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)
        logger.warning("producer %s: %s", self._id, error.str())

    def serve(self) -> None:
        # A fatal error is raised here once more; the call that met it has told already.
        with suppress(KafkaException):
            self._producer.poll(0)

    def begin(self) -> None:
        self._undelivered = None
        with self._reacting():
            self._producer.begin_transaction()

    def produce(self, records: Sequence[OutRecord]) -> None:
        produce = self._producer.produce
        with self._reacting():
            for topic, partition, key, value, headers in records:
                to = -1 if partition is None else partition
                try:
                    produce(topic, value, key, to, None, None, 0, headers)  # type: ignore[arg-type]  # any sequence will do
                except BufferError:
                    self._make_room()
                    produce(topic, value, key, to, None, None, 0, headers)  # type: ignore[arg-type]  # as above

    def _make_room(self) -> None:
        """The queue is full (R17): send what is there."""
        left = self._producer.flush(CALL_SECONDS)
        if left:
            raise TransactionError(Reaction.ABORT, f"{left} records still queued after {CALL_SECONDS:g} s")

    def send_offsets(self, offsets: Mapping[tuple[str, int], int], metadata: object) -> None:
        """Raises TransactionError also where librdkafka does not return: it may then wait for ever.

        It does so where the group's coordinator went away (librdkafka's issues 5456 and 5511), so it is called on
        a thread of its own, and left there with its producer.
        """
        positions = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        send = partial(self._producer.send_offsets_to_transaction, positions, metadata, self._timeout)
        self._offsets = aside(send)
        seconds = self._timeout + OVERTIME_SECONDS
        with self._reacting():
            try:
                self._offsets.result(seconds)
            except TimeoutError:
                raise TransactionError(Reaction.ABORT, f"no answer to the offsets within {seconds:g} s") from None

    def commit(self) -> None:
        with self._reacting():
            self._producer.commit_transaction()  # without a time-out: the rest of the transaction's (R2)

    def abort(self) -> None:
        if not self._offsets.done():
            raise TransactionError(Reaction.REPLACE, "it still waits for the answer to its offsets")
        with self._reacting():
            self._producer.abort_transaction()

    def close(self) -> None:
        # Not under a call: then when that returns.
        self._offsets.add_done_callback(lambda _: self._close())

    def _close(self) -> None:
        try:
            self._producer.purge()
            self._producer.close()
        except (KafkaException, RuntimeError, SystemError) as error:
            # A fenced producer says so once more (the client's close() raises it, or trips over it).
            logger.debug("producer %s: closing it: %s", self._id, error)
