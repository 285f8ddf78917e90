"""Which requests lie in the quarantine, and why."""

from collections.abc import Sequence
from typing import TypeAlias

from kompensate.orchestrator.reading.lookup import CLOCKS_APART_MS, Lookup
from kompensate.schemas import letters

Place: TypeAlias = tuple[str, int, int]
"""Topic, partition and offset of a record."""


def rejections(looking: Lookup, partitions: Sequence[int], since: int) -> dict[Place, str]:
    """Reasons by the rejected record's place, of all that were rejected since `since` (ms since the epoch)."""
    topic = looking.topics.quarantine
    found: dict[Place, str] = {}
    for record in looking.reader.scan(topic, looking.reader.since(topic, partitions, since - CLOCKS_APART_MS)):
        headers = {name: (value or b"").decode(errors="replace") for name, value in record.headers or ()}
        partition, offset = headers.get(letters.PARTITION, ""), headers.get(letters.OFFSET, "")
        if partition.isdigit() and offset.isdigit():
            place = (headers.get(letters.TOPIC, ""), int(partition), int(offset))
            found[place] = headers.get(letters.REASON, "")
    return found
