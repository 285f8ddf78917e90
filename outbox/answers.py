"""Answers that never come: a connection that is up, and silent for ever.

TCP's own patience (keepalives, tcp_user_timeout) finds out about a host that is gone. It finds nothing where something
in between still acknowledges every packet: a proxy, balancer or tunnel that lost the server behind it. psycopg waits
for ever then, so whoever works alone has to say for how long.
"""

import time
from collections.abc import Generator
from typing import Any, Final

from psycopg import Connection, OperationalError
from psycopg.generators import execute

ANSWER_SECONDS = 30.0
"""A relay's: half of what PostgreSQL's own subscribers wait (`wal_receiver_timeout`)."""
LONG_SECONDS: Final = 3_600.0
"""For what may take its time by nature: an index of a big table, its rows sorted for a resync."""


def expect_answers(connection: Connection[Any], seconds: float) -> None:
    """From here on, where nothing comes for `seconds`, close `connection` and raise psycopg's OperationalError.

    For each statement, its rows, COMMIT. Called again it changes the limit. A statement may well be done by then:
    nobody knows.
    """
    wait = Connection.wait

    def wait_for_answer(generator: Generator[Any, Any, Any], *arguments: Any, **named: Any) -> Any:
        return wait(connection, _answered(connection, generator, seconds), *arguments, **named)

    connection.wait = wait_for_answer  # type: ignore[method-assign, assignment]  # all of psycopg waits with it


def run(connection: Connection[Any], statements: bytes) -> Any:
    """The last result of statements without parameters: quicker than by a cursor, and with the same patience.

    Not by libpq's PQexec, which waits in C for ever. (`generators.execute` is not announced; it is what cursors use.)
    """
    connection.pgconn.send_query(statements)
    return connection.wait(execute(connection.pgconn))[-1]


def _answered(
    connection: Connection[Any], generator: Generator[Any, Any, Any], seconds: float
) -> Generator[Any, Any, Any]:
    until = time.monotonic() + seconds
    try:
        wanted = next(generator)
        while True:
            ready = yield wanted
            if ready:
                until = time.monotonic() + seconds
            elif time.monotonic() > until:
                connection.close()
                raise OperationalError(
                    f"expected an answer within {seconds:g} s, got none: given up with its connection"
                )
            wanted = generator.send(ready)
    except StopIteration as done:
        return done.value
