"""A participant that is put out of its group goes on as a new member; two with one name do not take turns for ever."""

import pytest

from kompensate.participants.kafka import KafkaSource, KafkaStopped
from tests.fixtures.topics import ServiceTopics
from tests.fixtures.waiting import wait_until


def source_of(topics: ServiceTopics, session_ms: int) -> KafkaSource:
    options = {"group.instance.id": "one", "session.timeout.ms": session_ms, "heartbeat.interval.ms": 300}
    return KafkaSource(topics.bootstrap, topics.commands, f"{topics.prefix}stock", options)


@pytest.fixture
def topics(kafka: str, topic_prefix: str) -> ServiceTopics:
    found = ServiceTopics(kafka, topic_prefix)
    found.make()
    found.send_junk(b"nobody commits that it was read")
    return found


@pytest.mark.slow
def test_a_fenced_member_reads_on(topics: ServiceTopics) -> None:
    """A member whose place was taken is told so, gives up what it held, and joins anew when the place is free."""
    first, second = source_of(topics, 6_000), source_of(topics, 6_000)
    given_up: list[object] = []
    try:
        first.open(lambda places, commit: given_up.extend((place, commit) for place in places))
        wait_until("the first reads", lambda: first.poll(10, 0.05))
        second.open(lambda _places, _commit: None)
        wait_until("the second reads", lambda: second.poll(10, 0.05))
        wait_until("the first reads again", lambda: first.poll(10, 0.05))
    finally:
        first.close()
        second.close()
    assert ((topics.commands, 0), False) in given_up


@pytest.mark.slow
def test_two_with_one_name_end(topics: ServiceTopics) -> None:
    """They put each other out again and again, until one of them says why and stops."""
    sources = [source_of(topics, 6_000) for _ in range(2)]
    told: list[str] = []

    def turn() -> bool:
        try:
            for source in sources:
                source.poll(10, 0.02)
        except KafkaStopped as error:
            told.append(str(error))
        return bool(told)

    try:
        for source in sources:
            source.open(lambda _places, _commit: None)
        wait_until("one has stopped", turn, 60)
    finally:
        for source in sources:
            source.close()
    assert "has another process the same group.instance.id?" in told[0]
