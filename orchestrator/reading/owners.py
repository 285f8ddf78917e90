"""A door to Kafka for asking who owns an application's partitions: the members of its workers' consumer group."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient

from kompensate.orchestrator.reading.reader import TIMEOUT_SECONDS, error_of
from kompensate.schemas.refusals import Refusals


@dataclass(frozen=True, slots=True)
class Owners:
    """A consumer group as the broker has it. `members` is how many workers are in it, `by_partition` who owns what,
    `together` which partitions each of them is owned with, itself among them."""

    group: str
    state: str
    members: int
    by_partition: Mapping[int, str]
    together: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


def owners(
    bootstrap: str, kafka: Mapping[str, str] | None, group: str, topic: str, *, timeout: float = TIMEOUT_SECONDS
) -> Owners:
    """Who owns the partitions of `topic`, the one that workers subscribe to. Raises ClientError."""
    # Its calls raise what there is to say, so it logs nothing.
    refusals = Refusals()
    ours: dict[str, Any] = {"log_level": 0, "error_cb": refusals}
    admin = AdminClient({"bootstrap.servers": bootstrap, "client.id": "kompensate", **(kafka or {}), **ours})
    (asked,) = admin.describe_consumer_groups([group], request_timeout=timeout).values()
    try:
        found: Any = asked.result(timeout)
    except ck.KafkaException as error:
        if error.args[0].code() == ck.KafkaError.GROUP_ID_NOT_FOUND:
            return Owners(group, "dead", 0, {})
        admin.poll(0)  # calls back
        raise error_of(error.args[0], f"group {group}", bootstrap, timeout, refusals) from error
    by_partition = {
        place.partition: f"{member.client_id} at {member.host.removeprefix('/')}"
        for member in found.members
        for place in member.assignment.topic_partitions
        if place.topic == topic
    }
    shares = [
        tuple(sorted(place.partition for place in member.assignment.topic_partitions if place.topic == topic))
        for member in found.members
    ]
    together = {number: share for share in shares for number in share}
    return Owners(group, found.state.name.lower().replace("_", " "), len(found.members), by_partition, together)
