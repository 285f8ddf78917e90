"""Workers come and go under load: partitions move, and nothing is lost or doubled."""

import pytest

from examples.common.children import Child
from tests.fixtures.system import LOT, SESSION_MS, System

NAME = "worker-3"
TIMES = 2


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_third_worker_joins_and_leaves(system: System, protocol: str) -> None:
    """A third worker joins, is stopped, joins again, is killed, and all that once more, with orders under way."""
    # KIP-848: the session is the broker's to set.
    session = ("--session-timeout", str(SESSION_MS / 1000)) if protocol == "classic" else ()
    options = ("--group-protocol", protocol, *session)
    third = Child(NAME, ["worker", "--slot", NAME, *options], system.logs_folder, system.shop.environment)
    system.shop.children[NAME] = third
    if protocol != "classic":
        system.restart_workers(*options)
    try:
        for leave in (third.stop, third.kill) * TIMES:
            before = system.running(NAME) if third.log.exists() else 0
            third.start()
            system.feed_until(f"{NAME} runs a partition", lambda n=before: system.running(NAME) > n)  # type: ignore[misc]  # bound now
            system.send(LOT)
            leave()
        system.finish()
        system.prove()
    finally:
        third.kill()
        del system.shop.children[NAME]
        if protocol != "classic":
            system.restart_workers()
