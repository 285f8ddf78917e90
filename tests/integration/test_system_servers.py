"""Kafka and PostgreSQL die with orders under way, and come back: on servers of these tests' own."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kompensate.compose.local.stack import Stack
from tests.fixtures.fix_stack import kill
from tests.fixtures.system import LOT, System

ORDERS = 60
DEADLINE_SECONDS = 120.0


@pytest.fixture(scope="module")
def own() -> Iterator[System]:
    """A shop on servers that may be killed."""
    directory = Path(tempfile.mkdtemp(prefix="kompensate-tests-"))
    directory.chmod(0o711)  # so that PostgreSQL's user reaches its data in here, where root runs the tests
    stack = Stack(directory)
    try:
        stack.up()
        system = System(stack, directory / "logs")
        system.open()
        yield system
        system.stop()
    finally:
        stack.reset()
        shutil.rmtree(directory)


def kill_in_mid_run(system: System, server: str, how: signal.Signals) -> None:
    """End a server with a signal while orders are under way."""
    system.send(ORDERS)
    system.some_end(LOT)
    kill(system.stack, server, how)
    assert not system.reader.ended >= len(system.acknowledged), "too late: every order had ended"


@pytest.mark.slow
@pytest.mark.stack
@pytest.mark.parametrize(
    ("server", "how"),
    [("kafka", signal.SIGKILL), ("postgres", signal.SIGQUIT)],
    ids=["kafka killed with -9", "postgresql shut down at once"],
)
def test_a_server_comes_back(own: System, server: str, how: signal.Signals) -> None:
    """Its processes wait for the server and go on: every order ends as it must, and no process had to be restarted."""
    kill_in_mid_run(own, server, how)
    own.stack.up()
    own.send(LOT)
    own.finish(DEADLINE_SECONDS)

    own.shop.check()
    own.prove()
