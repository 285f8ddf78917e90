"""What everybody does who reads in a consumer group and commits its offsets by transactions: workers and intakes.

The member belongs to the group for the sake of ownership alone, and a second consumer reads what is owned; records
and offsets go out by producers in turn.
"""

import logging
from collections.abc import Iterable, Sequence
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, Message

from kompensate.orchestrator.errors import Aborted, Fatal
from kompensate.orchestrator.kafka.options import AUTHORIZATION, Options
from kompensate.orchestrator.kafka.producer import KafkaProducer
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.worker.aside import aside
from kompensate.orchestrator.worker.transactions import Producer

logger = logging.getLogger(__name__)

PRODUCERS = 2
"""Transactional producers in turn: see kompensate.orchestrator.worker.transactions."""
WAIT_MS = 100
"""How long the broker holds a fetch without records: a partition that is resumed meanwhile waits for it."""
LEAVE_SECONDS = 10.0
"""The client waits for ever for a broker that does not let it leave; the others take over after the session."""

GONE = frozenset(
    {
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)


def ids_of_slot(slot: str) -> list[str]:
    """The transactional ids of a slot, `<group>.<slot>`."""
    return [f"{slot}.{k}" for k in range(PRODUCERS)]


def open_producers(settings: Settings, ids: Sequence[str]) -> list[Producer]:
    """Initialised producers of these ids, together: each takes half a second. Raises TransactionError."""
    opening = [aside(partial(KafkaProducer, settings, id_)) for id_ in ids]
    return [producer.result() for producer in opening]


def member_options(settings: Settings) -> Options:
    """How a member takes part in its group."""
    if settings.group_protocol != "classic":
        return {"group.protocol": "consumer"}
    return {
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": round(settings.session_timeout_seconds * 1000),
        "heartbeat.interval.ms": round(settings.heartbeat_seconds * 1000),
    }


def not_joined(group: str, error: KafkaError) -> Fatal | Aborted:
    """What it means that a group could not be joined: no trying again helps, or it may."""
    text = f"group {group}: {error.str()} ({error.name()})"
    hopeless = error.code() == KafkaError._INVALID_ARG or error.code() in AUTHORIZATION
    return Fatal(text) if hopeless else Aborted(text)


def generation(metadata: object) -> tuple[int, str]:
    """(generation, member id) of librdkafka's group metadata: `CGMDv2:`, int32 LE, group and member, each ended by 0.

    Before a member has joined it is (-1, ""). Raises Fatal for what is not that.
    """
    raw = metadata if isinstance(metadata, bytes) else b""
    if not raw.startswith(b"CGMDv2:"):
        raise Fatal(f"group metadata: expected to begin with CGMDv2:, got {raw[:16]!r}: librdkafka is too new for this")
    _group, _, rest = raw[11:].partition(b"\0")
    return int.from_bytes(raw[7:11], "little", signed=True), rest.partition(b"\0")[0].decode()


def consume(reader: Consumer, records_max: int, timeout: float) -> list[Message]:
    """What there is, at most `records_max`; where there is nothing, what comes first within `timeout` seconds."""
    messages = reader.consume(records_max, 0)
    if not messages and timeout > 0:
        # consume(n, t) waits for all of t unless it has n: let the first record wake us.
        messages = reader.consume(1, timeout)
        if messages and records_max > 1:
            messages += reader.consume(records_max - 1, 0)
    return messages


def leave(group: str, consumers: Iterable[Consumer]) -> None:
    """Close them, the member first. Raises nothing."""
    for consumer in consumers:
        try:
            aside(consumer.close).result(LEAVE_SECONDS)
        except TimeoutError:
            # Leaving calls back, and that may still use the other consumer: it is not closed under its hands.
            logger.warning("group %s: it was not left within %g s", group, LEAVE_SECONDS)
            break
        except (KafkaException, RuntimeError) as error:
            logger.warning("group %s: leaving it failed: %s", group, error)
