"""The local stack's Kafka, killed in mid-transaction: what it began it ends, everywhere, when it is back.

Kafka 4.3.0 to 4.4.0 do not (KAFKA-20734): a partition that has no leader at that moment, as all of a single broker's
while it starts, is taken for deleted and gets no marker. The transaction counts as ended all the same. Its records stay
undecided, and offsets that were aborted are committed by that producer's next transaction.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from kompensate.compose.local.stack import Stack
from tests.fixtures.fix_stack import _reset_if_we_die, kill
from tests.fixtures.topics import ends
from tests.fixtures.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.stack]

TIMEOUT_MS = 3_000
TOPIC, OTHER, GROUP = "undecided", "other", "readers"


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[Stack]:
    with _reset_if_we_die(tmp_path):
        stack = Stack(tmp_path)
        stack.up(("kafka",))
        yield stack
        stack.reset()


def test_a_transaction_that_was_open_is_ended_in_every_partition(kafka: Stack) -> None:
    """Its records and its offsets are aborted, and the same producer's next transaction does not bring them back."""
    options: dict[str, Any] = {"bootstrap.servers": kafka.bootstrap, "log_level": 0}
    admin = AdminClient(options)
    for made in admin.create_topics([NewTopic(TOPIC, 1, 1), NewTopic(OTHER, 1, 1)]).values():
        made.result(10)
    reader = Consumer({**options, "group.id": GROUP, "isolation.level": "read_committed"})
    transactional = {**options, "transactional.id": "t", "transaction.timeout.ms": TIMEOUT_MS}
    producer = Producer(transactional)
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(TOPIC, b"aborted")
    assert producer.flush(10) == 0
    producer.send_offsets_to_transaction([TopicPartition(TOPIC, 0, 1)], reader.consumer_group_metadata(), 10)
    kill(kafka, "kafka")
    kafka.up(("kafka",))

    wait_until(
        "the open transaction is ended",
        lambda: ends(AdminClient(options), TopicPartition(TOPIC, 0)) == (2, 2),
        30,
    )
    second = Producer(transactional)
    second.init_transactions(30)
    second.begin_transaction()
    second.produce(TOPIC, b"committed")
    second.send_offsets_to_transaction([TopicPartition(OTHER, 0, 7)], reader.consumer_group_metadata(), 10)
    second.commit_transaction(30)
    committed = {p.topic: p.offset for p in reader.committed([TopicPartition(TOPIC, 0), TopicPartition(OTHER, 0)], 10)}
    assert committed == {TOPIC: OFFSET_INVALID, OTHER: 7}
    reader.assign([TopicPartition(TOPIC, 0, 0)])
    message = reader.poll(20)
    assert message is not None
    assert message.value() == b"committed"
    reader.close()
