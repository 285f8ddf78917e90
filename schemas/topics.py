"""Names of topics, their keys, and the partition a saga lives on.

An application's own topics are co-partitioned: a saga has one partition number in all of them,
computed here once from its id and carried explicitly from then on.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from struct import unpack

SAGA_ID = re.compile(r"(?!__)[A-Za-z0-9._:-]{1,200}\Z")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")

PAGE_NUMBER = re.compile(r"[1-9][0-9]{0,17}\Z")

WATERMARK_PREFIX = "__wm/"
PLAN_PREFIX = "__def/"

ORDERED = "o"
"""Stands before the offset in the runs of sagas that an order began: children, and forks."""

READER_GROUP = "kompensate-reader"
"""What clients give as their group where they only read: librdkafka asks for one, and nobody joins it."""


def check_saga_id(saga_id: str) -> str:
    """Return `saga_id`, or raise ValueError naming what an id may be."""
    _check_text("saga id", saga_id)
    if not SAGA_ID.match(saga_id):
        raise ValueError(
            f"saga id: expected 1 to 200 of the characters A-Z a-z 0-9 . _ : - not beginning with '__', got {saga_id!r}"
        )
    return saga_id


def check_name(what: str, name: str) -> str:
    """Return `name`, or raise ValueError: names of applications, services, sagas and steps."""
    _check_text(what, name)
    if not NAME.match(name):
        raise ValueError(
            f"{what}: expected 1 to 100 of A-Z a-z 0-9 . _ - beginning with a letter or digit, got {name!r}"
        )
    return name


def _check_text(what: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{what}: expected a text, got {type(value).__name__}")


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of topics and consumer groups of one application; `prefix` lets applications share a cluster.

    The prefix stands before every name, the services' included.
    """

    app: str
    prefix: str = ""

    @property
    def requests(self) -> str:
        return f"{self.prefix}{self.app}.requests"

    @property
    def control(self) -> str:
        """Operators' orders, and what sagas ask of sagas: with ACLs nobody else says such things."""
        return f"{self.prefix}{self.app}.control"

    @property
    def state(self) -> str:
        return f"{self.prefix}{self.app}.state"

    @property
    def history(self) -> str:
        return f"{self.prefix}{self.app}.history"

    @property
    def quarantine(self) -> str:
        return f"{self.prefix}{self.app}.quarantine"

    @property
    def group(self) -> str:
        """The consumer group of its workers; their transactional ids begin with it and a dot."""
        return f"{self.prefix}{self.app}"

    @property
    def intake_group(self) -> str:
        """The same of its intakes. No application's name has a ~: they never share a group with workers."""
        return f"{self.group}~intake"

    def hook_group(self, name: str) -> str:
        """The same of its hooks of that name."""
        return f"{self.group}~hook.{name}"

    def replies(self, service: str) -> str:
        """One reply topic a service: with ACLs no service can answer for another."""
        return f"{self.prefix}{self.app}.replies.{service}"

    def inputs(self, services: Iterable[str]) -> tuple[str, ...]:
        """Every topic whose records are inputs of sagas, the requests first: who owns a partition there owns all."""
        return self.requests, self.control, *map(self.replies, services)

    def run_of(self, topic: str, partition: int, offset: int) -> str:
        """The run that a record begins. Requests and orders may have the same offset, so an order's is marked."""
        return f"{partition}.{ORDERED if topic == self.control else ''}{offset}"

    def commands(self, service: str) -> str:
        return commands_topic(service, self.prefix)

    def dead(self, service: str) -> str:
        return dead_topic(service, self.prefix)


def commands_topic(service: str, prefix: str = "") -> str:
    """Where a service takes its commands, from whichever application."""
    return f"{prefix}{service}.commands"


def dead_topic(service: str, prefix: str = "") -> str:
    """Where a service puts commands it cannot handle."""
    return f"{prefix}{service}.dead"


def participant_group(service: str, prefix: str = "") -> str:
    """The consumer group of a service's participants."""
    return f"{prefix}{service}"


def page_key(saga_id: str, number: int) -> str:
    """Key of a page in the state topic: the first page has the saga's id alone."""
    return f"{saga_id}/{number}" if number else saga_id


def saga_of_key(key: str) -> tuple[str, int]:
    """(saga id, page number) of a page's key. Raises ValueError for a key that is neither."""
    saga_id, slash, number = key.partition("/")
    if saga_id and not slash:
        return saga_id, 0
    if not saga_id or not PAGE_NUMBER.match(number):
        raise ValueError(f"key: expected a saga id, or one with / and a page number from 1, got {key[:300]!r}")
    return saga_id, int(number)


def partition_of(saga_id: str, partitions: int) -> int:
    """The partition a saga lives on, the same as the Java client's for this key."""
    return (murmur2(saga_id.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Kafka's murmur2 of `data` as an unsigned 32-bit number (org.apache.kafka.common.utils.Utils)."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for word in unpack(f"<{length // 4}I", data[:whole]):
        k = word * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    if length & 3:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15
