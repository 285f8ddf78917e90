"""A partition whose offsets ran ahead of its state (a broker's defect can bring it about): stopped, and mended by hand.

In the way that docs/guides/workers.md names.
"""

import re

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from kompensate.orchestrator.topics import group_of
from tests.fixtures.echo_app import app
from tests.fixtures.fix_workers import Echoes
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.slow

MESSAGE = re.compile(
    r"partition 0 is stopped, the others go on: (\S+)/0: expected the committed offset (\d+) of the water"
)


def set_offset(echoes: Echoes, topic: str, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": echoes.settings.bootstrap})
    group = group_of(app, echoes.settings)
    asked = admin.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, offset)])]
    )
    asked[group].result(10)


def test_offsets_that_ran_ahead_are_put_back(echoes: Echoes) -> None:
    """Inputs that the group says are handled and the state does not know: they are, once the offset is set back."""
    first = echoes.worker("a")
    echoes.start(20)
    echoes.finish()
    first.leave()
    requests = echoes.topics.requests
    before = echoes.committed([requests], 0)[requests]
    echoes.start(20)
    set_offset(echoes, requests, before + 3)

    second = echoes.worker("b")
    wait_until("the partition is stopped", lambda: MESSAGE.search(second.text()), 30)
    wait_until("the others go on", lambda: second.text().count(": running from") == 3, 30)
    found = MESSAGE.search(second.text())
    assert found is not None
    assert found.groups() == (requests, str(before))
    second.leave()
    set_offset(echoes, found[1], int(found[2]))

    echoes.worker("c")
    echoes.finish()
    assert echoes.violations() == []
