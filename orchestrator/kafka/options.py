"""librdkafka's options: the user's own, and those that correctness rests on."""

import logging
from typing import Any, TypeAlias

from confluent_kafka import KafkaError

from kompensate.orchestrator.errors import Fatal
from kompensate.orchestrator.settings import Settings

Options: TypeAlias = dict[str, Any]

CALL_SECONDS = 10.0
"""How long a request outside a transaction may take: metadata, offsets, the end of a partition."""

RELIED_ON = frozenset(
    {
        *("group.id", "group.instance.id", "group.protocol", "session.timeout.ms", "heartbeat.interval.ms"),
        *("partition.assignment.strategy", "enable.auto.commit", "enable.auto.offset.store", "isolation.level"),
        *("check.crcs", "auto.offset.reset", "enable.partition.eof", "allow.auto.create.topics"),
        *("transactional.id", "transaction.timeout.ms", "message.timeout.ms", "socket.timeout.ms", "partitioner"),
        *("enable.idempotence", "acks", "request.required.acks", "max.in.flight.requests.per.connection"),
        *("max.in.flight", "statistics.interval.ms", "delivery.report.only.error"),
    }
)
"""What the worker's promises rest on: an application's own options may not set them."""

AUTHORIZATION = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
    }
)
"""Errors that no waiting mends."""


def client_options(settings: Settings, ours: Options) -> Options:
    """Options of one client: the user's, then `ours`. Raises Fatal where the user's touch what we rely on."""
    clash = sorted(RELIED_ON & settings.kafka.keys())
    if clash:
        raise Fatal(f"Kafka options {', '.join(clash)}: expected them to be left out, the worker sets them itself")
    return {"bootstrap.servers": settings.bootstrap, **settings.kafka, **ours}


def admin_options(settings: Settings) -> Options:
    """Options of an admin client: its calls raise what there is to say, so it logs nothing."""
    return client_options(settings, {"log_level": 0})


def consumer_options(settings: Settings, group: str, ours: Options) -> Options:
    """Options of one consumer (R5)."""
    return client_options(
        settings,
        {
            "logger": logging.getLogger("kompensate.librdkafka"),
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            "check.crcs": True,
            "allow.auto.create.topics": False,
            # Never guess where to begin: an offset that is not there is an error.
            "auto.offset.reset": "error",
            # How soon offsets that a transaction covers are asked for again.
            "retry.backoff.ms": 10,
            # A queue that was full is filled again soon; the default is a second.
            "fetch.queue.backoff.ms": 10,
            # The default is 64 MB a consumer: several partitions may be restored at a time.
            "queued.max.messages.kbytes": 32 * 1024,
            **ours,
        },
    )
