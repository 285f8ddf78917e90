"""Disposes of dead letters: hands one in again, or discards it, and writes down that it was done.

Both are one Kafka transaction: nobody sees the one without the other, whatever crashes between. Whoever disposes of a
topic's letters does it under that topic's transactional id: beginning ends what another has open there, and fences it.
So read the topic after beginning: it then has every disposal that there will be but one's own.
"""

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Final

import confluent_kafka as ck

from kompensate.orchestrator.client_errors import ClientError, NotAcknowledged, NotTaken, Superseded
from kompensate.orchestrator.reading.letters import Letter
from kompensate.orchestrator.reading.reader import TIMEOUT_SECONDS, UNREACHABLE, common_options, error_of
from kompensate.schemas import letters as q

RECORD_BYTES_MAX: Final = 8 * 1024 * 1024
"""What the client lets through: the topic's own limit is the broker's to enforce."""
KNOWN_WITHIN_MS: Final = 5_000
"""How long a topic may be unknown before that is believed."""

_FENCED = frozenset({ck.KafkaError._FENCED, ck.KafkaError.INVALID_PRODUCER_EPOCH, ck.KafkaError.PRODUCER_FENCED})


class Settler:
    """Disposes of the letters in `topic`. Raises Unreachable, ClientError; `timeout` in seconds."""

    def __init__(self, bootstrap: str, topic: str, kafka: Mapping[str, str], timeout: float = TIMEOUT_SECONDS) -> None:
        self._bootstrap, self._topic, self._timeout = bootstrap, topic, timeout
        self._refused: ck.KafkaError | None = None
        self._producer = ck.Producer(
            {
                **common_options(bootstrap, kafka),
                "transactional.id": f"{q.TRANSACTIONAL_ID}{topic}",
                "transaction.timeout.ms": round(timeout * 1000),
                "message.timeout.ms": round(timeout * 1000),
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 0,
                "message.max.bytes": RECORD_BYTES_MAX,
                "allow.auto.create.topics": False,
                "topic.metadata.propagation.max.ms": KNOWN_WITHIN_MS,
                "on_delivery": self._delivered,
            }
        )
        try:
            self._producer.init_transactions(timeout)
        except ck.KafkaException as error:
            raise error_of(error.args[0], f"a transaction for {topic}", bootstrap, timeout) from error

    def __enter__(self) -> "Settler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is open: every disposal is a transaction of its own, ended or aborted."""

    def settle(self, letter: Letter, verb: str, *, who: str, why: str) -> None:
        """`retried`: back where it came from, with its key, bytes and headers, and the disposal; else that alone.

        Raises NotTaken (nothing was done), Superseded, NotAcknowledged (it may or may not be done: look again).
        """
        self._refused = None
        try:
            self._producer.begin_transaction()
            if verb == q.RETRIED:
                assert letter.origin is not None  # see unfit
                topic, partition = letter.origin
                self._write(topic, partition, letter.record.key, letter.record.value, letter.original_headers)
            said = ((q.DONE, verb), (q.OF, letter.identity), (q.WHO, who), (q.WHY, why))
            self._write(self._topic, letter.record.partition, None, None, [(n, text.encode()) for n, text in said])
            self._producer.commit_transaction(self._timeout)
        except ck.KafkaException as error:
            raise self._ended(letter, error.args[0]) from error

    def _write(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
    ) -> None:
        self._producer.produce(topic, value, key, partition=partition, headers=[*headers])

    def _delivered(self, error: ck.KafkaError | None, _message: ck.Message) -> None:
        if error is not None and error.code() != ck.KafkaError._PURGE_QUEUE:
            self._refused = self._refused or error

    def _ended(self, letter: Letter, error: ck.KafkaError) -> ClientError:
        """What an error means, after the transaction was given up where that can be."""
        if error.code() in _FENCED or error.fatal():
            return Superseded(
                f"{self._topic}: expected nobody else to dispose of its letters, got {error.str()} ({error.name()}): "
                "whoever began later goes on; list them again"
            )
        cause = self._refused or error
        if error.txn_requires_abort() or cause.code() not in UNREACHABLE:
            try:
                self._producer.abort_transaction(self._timeout)
            except ck.KafkaException as worse:
                logging.getLogger(__name__).debug("not aborted, its time-out will: %s", worse)
            origin = letter.origin
            place = f"{origin[0]}/{origin[1]}" if origin else self._topic
            return NotTaken(f"{letter.name}: expected {place} to take it, got {cause.str()} ({cause.name()})")
        return NotAcknowledged(
            f"{letter.name}: Kafka at {self._bootstrap} did not say within {self._timeout:g} s whether it is done "
            f"({error.str()}): list the letters again"
        )
