"""The stories of outside calls again, on MariaDB."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from kompensate.outbox.retention import Retention
from kompensate.participants.database import connect
from tests.fixtures.outside import Stage, charge

# Each story, with the stage below.
from tests.integration.test_outside_postgres import (  # noqa: F401
    test_two_processes_take_up_one_backlog,
    test_whatever_happens,
)
from tests.unit.test_outside_breaker import *  # noqa: F403
from tests.unit.test_outside_calls import *  # noqa: F403
from tests.unit.test_outside_long import (  # noqa: F401  # without the twenty minutes, which are 10,000 transactions
    test_it_sees_that_a_compensation_waits,
    test_one_that_was_taken_over_is_told,
    test_progress_outlives_the_process,
)
from tests.unit.test_outside_unknown import *  # noqa: F403


@pytest.fixture  # type: ignore[no-redef]
def stage(mariadb: str) -> Iterator[Stage]:
    found = Stage(connect(mariadb, "payments"))
    yield found
    found.engine.dispose()


def test_the_retention_keeps_what_has_no_answer(stage: Stage) -> None:
    """However old: only commands with an answer are forgotten, and their requests with them."""
    stage.provider.script = ["ok", "timeout-after"]
    process = stage.process(timeout=2, window=0)
    process.send(charge("answered"), charge("unknown", "saga-2"))
    process.until(lambda: process.grave.letters)
    with stage.engine.begin() as connection:
        connection.execute(text("UPDATE inbox SET received_at = UTC_TIMESTAMP() - INTERVAL 40 DAY"))
        connection.execute(text("UPDATE idempotency SET created_at = UTC_TIMESTAMP() - INTERVAL 40 DAY"))
        retention = Retention(7, 30)
        assert not retention.forget_inbox(connection)
        assert not retention.forget_outside(connection)

    assert stage.states() == {"unknown": ("claimed", "unknown")}
    assert stage.rows("SELECT command_id FROM inbox") == [("unknown",)]
    assert stage.rows("SELECT command_id FROM idempotency") == [("unknown",)]
