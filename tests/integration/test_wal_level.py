"""A server whose log cannot be decoded: the relay says so, services work on, and nothing is lost once it is mended."""

from pathlib import Path

import psycopg
import pytest

from kompensate.compose.local.stack import Stack
from kompensate.outbox.errors import Misconfigured
from kompensate.outbox.main import RelayService, RelaySettings, diagnose
from tests.fixtures.outboxes import RealOutbox


def set_level(stack: Stack, level: str) -> None:
    """Change it as an operator would: it takes a restart."""
    with psycopg.connect(stack.postgres_dsn(), autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET wal_level = {level}".encode())
    stack.down(["postgres"])
    stack.up(["postgres"])


@pytest.mark.slow
def test_another_wal_level_is_named_and_costs_no_row(stack_directory: Path, kafka: str, topic_prefix: str) -> None:
    """Rows are committed meanwhile; with the level that it asked for they arrive."""
    stack = Stack(stack_directory)
    stack.up(["postgres"])
    set_level(stack, "replica")
    outbox = RealOutbox(stack.make_database("shop"), kafka, topic_prefix)
    outbox.write([("order-1", b"1")])
    remedy = (
        "expected wal_level 'logical', got 'replica': ALTER SYSTEM SET wal_level = logical, then restart the server"
    )

    with pytest.raises(Misconfigured) as told:
        RelayService(outbox.settings()).run()
    assert remedy in str(told.value)
    found = diagnose(RelaySettings(outbox.dsn, kafka, service="shop", prefix=topic_prefix))
    assert [str(one) for one in found if one.check == "server.wal_level"] == [f"PostgreSQL: {remedy}"]

    set_level(stack, "logical")
    with RelayService(outbox.settings()):
        outbox.write([("order-1", b"2")])
        outbox.arrived([b"1", b"2"])
    outbox.close()
