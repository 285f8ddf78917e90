"""The limit of a relay: reads so many rows of a replication slot with psycopg, and does nothing with them.

Prints a line with the seconds from the first row to the last. Nothing is decoded but a message's
kind, nothing confirmed.
"""

import argparse
import json
import select
import time

import psycopg

from kompensate.outbox.tables import PUBLICATION

KIND = 25
"""Where pgoutput's message begins, behind the stream's own header."""


def main() -> None:
    """Read the slot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--slot", required=True)
    parser.add_argument("--rows", type=int, required=True)
    args = parser.parse_args()
    connection = psycopg.connect(args.dsn, replication="database", autocommit=True)
    statement = (
        f"START_REPLICATION SLOT {args.slot} LOGICAL 0/0 (proto_version '1', publication_names '{PUBLICATION}',"
        " binary 'true')"
    )
    connection.execute(statement.encode())
    print(json.dumps({"seconds": read(connection, args.rows)}), flush=True)


def read(connection: psycopg.Connection[tuple[object, ...]], rows: int) -> float:
    """Seconds from the first of so many rows to the last."""
    pgconn, insert = connection.pgconn, ord("I")
    poll = select.poll()
    poll.register(pgconn.socket, select.POLLIN)
    seen, began = 0, 0.0
    while seen < rows:
        size, data = pgconn.get_copy_data(1)
        if size > KIND and data[KIND] == insert:
            began = began or time.perf_counter()
            seen += 1
        elif size < 0:
            raise ConnectionError(f"expected {rows} rows, got the end of the stream after {seen}")
        elif not size:
            poll.poll()
            pgconn.consume_input()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
