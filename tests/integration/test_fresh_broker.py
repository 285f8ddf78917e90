"""What a broker that nobody has used yet answers slowly the first time."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from kompensate.compose.local.kafka import Kafka
from kompensate.compose.local.stack import Stack
from kompensate.orchestrator import NOTHING, Application, Saga, Service, Step
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.topics import TopicAdmin


@dataclass
class Reserve:
    """Input of the saga, and its only command."""

    order_id: str


APPLICATION = Application(
    "shop", [Saga("checkout", Reserve, [Step("reserve", Service("inventory"), Reserve, undo=NOTHING)])]
)


@pytest.mark.stack
@pytest.mark.slow
def test_topics_are_applied_to_a_fresh_broker(stack_directory: Path) -> None:
    """The first apply makes topics and seeds the group though the broker has no group coordinator yet."""
    stack = Stack(stack_directory, servers=[Kafka(wake=False)])
    stack.up(["kafka"])
    admin = TopicAdmin(APPLICATION, Settings(bootstrap=stack.bootstrap))

    done = admin.apply()

    assert done[-1] == f"group {admin.group}: 12 first offsets set"
    assert admin.check() == []
