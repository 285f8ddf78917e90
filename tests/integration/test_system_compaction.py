"""The state topic is compacted in mid-run, then both workers die: what they restore is what they had."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but not re-exported for checkers
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from examples.checkout import orders
from examples.checkout.sagas import app
from examples.checkout.shop import WORKERS
from kompensate.orchestrator.ports import Record
from kompensate.orchestrator.reading.reader import Reader
from kompensate.orchestrator.sagas.journal import read_watermark
from kompensate.schemas.topics import partition_of
from tests.fixtures.system import ALL, DEADLINE_SECONDS, LOT, System
from tests.fixtures.waiting import wait_until

EAGER = {"segment.ms": "300", "min.cleanable.dirty.ratio": "0.001", "max.compaction.lag.ms": "300"}
"""Roll segments at once, clean them whenever there is anything to clean."""


def alter(system: System, topic: str, settings: dict[str, str]) -> dict[str, str]:
    """Set these settings of a topic; return what they were."""
    admin = AdminClient({"bootstrap.servers": system.shop.bootstrap})
    resource = ConfigResource(ResourceType.TOPIC, topic)
    [found] = admin.describe_configs([resource]).values()
    before = {name: found.result(DEADLINE_SECONDS)[name].value for name in settings}
    entries = [ConfigEntry(n, v, incremental_operation=AlterConfigOpType.SET) for n, v in settings.items()]
    change = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    [altered] = admin.incremental_alter_configs([change]).values()
    altered.result(DEADLINE_SECONDS)
    return before


@contextmanager
def eager_compaction(system: System) -> Iterator[None]:
    before = alter(system, system.topics.state, EAGER)
    try:
        yield
    finally:
        alter(system, system.topics.state, before)


def transactions_gone(system: System) -> bool:
    """Has every partition lost watermarks to compaction? Their numbers have no gaps as written."""
    for partition in ALL:
        key = f"__wm/{partition}".encode()
        records = system.topic_reader.scan(system.topics.state, {partition: 0}, lambda k, key=key: k == key)  # type: ignore[misc]  # bound now
        numbers = [read_watermark(record.value or b"").transaction for record in records]
        if numbers == list(range(1, len(numbers) + 1)):
            return False
    return True


class Follower:
    """Folds the state topic as it grows, so that it also reads what compaction takes later."""

    def __init__(self, system: System) -> None:
        self.fold: dict[bytes, bytes | None] = {}
        self._reader = Reader(system.shop.bootstrap)
        self._batches = self._reader.follow(system.topics.state, dict.fromkeys(ALL, 0), 0.05)

    def read(self) -> int:
        """Take in what comes; how much it was."""
        records = next(self._batches).records
        for record in records:
            key = record.key or b""
            if record.value is None:
                self.fold.pop(key, None)
            elif not key.startswith(b"__wm/"):
                self.fold[key] = record.value
        return len(records)

    def close(self) -> None:
        self._reader.close()


@pytest.mark.slow
def test_compacted_in_mid_run_and_taken_over(system: System) -> None:
    """With sagas under way and records really gone, workers killed with -9 take over and every saga ends as it must."""
    assert system.shop.children["shipping"].stop()
    follower = Follower(system)

    def gone() -> bool:
        system.send(LOT)  # they wait for shipping: all that is compacted belongs to sagas under way
        follower.read()
        system.reader.read(0.02)
        return len(system.acknowledged) - system.reader.ended >= 5 * LOT and transactions_gone(system)

    with eager_compaction(system):
        wait_until("compaction has taken records of every partition", gone, DEADLINE_SECONDS)
        for worker in WORKERS:
            system.shop.children[worker].kill()
        wait_until(
            "what compaction left folds to the same as all of it",
            lambda: not follower.read() and system.fold() == follower.fold,
        )
        for worker in WORKERS:
            system.shop.children[worker].start()
        system.shop.children["shipping"].start()
        system.finish()
        system.settle()
    follower.close()

    system.prove()


@pytest.mark.slow
def test_a_saga_that_compaction_should_have_kept_is_missed(system: System) -> None:
    """The checker bites: where the newest page of a saga under way is really gone, it is reported as lost."""
    assert system.shop.children["shipping"].stop()
    lost = next(o for o in system.send(LOT) if orders.expected(o) is orders.Fate.COMPLETED).order_id
    system.wait_for_commands("shipping", [lost])
    for worker in WORKERS:
        system.shop.children[worker].kill()
    tombstone = Record(system.topics.state, partition_of(lost, app.partitions), 0, 0, lost.encode(), None, None)
    system.produce([tombstone])
    for name in (*WORKERS, "shipping"):
        system.shop.children[name].start()

    wait_until("every other order has ended", lambda: system.ended_but(1), DEADLINE_SECONDS)

    assert [line for line in system.verdict().lost if lost in line]
