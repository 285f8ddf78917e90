"""An outbox nobody writes to, and a gigabyte of log written beside it: in another table, and in another database.

    .venv/bin/python -m tests.soak.busy_elsewhere [--megabytes 1024] [--rate 5]

The relay lets go of the log every half minute, and PostgreSQL notes a point to begin at every quarter, which counts
when the relay has passed it: so the slot keeps what is written in a minute and a half, however long it goes on. Exit
status 0 only where it never kept more, and where it let go of all but a little in the end.
"""

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from kompensate.compose.local.stack import Stack
from tests.fixtures.outboxes import RealOutbox
from tests.fixtures.waiting import wait_until

KEPT_SECONDS, LEFT_MB = 100, 48
CHUNK_MB = 2
FILL = "INSERT INTO filler SELECT repeat(md5(n::text), 30) FROM generate_series(1, %s) n"
ROWS_PER_MB = 1_000
"""Of FILL, roughly; what was written is measured."""


def main() -> int:
    """Run it on servers of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rate", type=int, default=5, help="megabytes a second, at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(folder)
        try:
            stack.up(deadline_seconds=300)
            outbox = RealOutbox(stack.make_database("shop"), stack.bootstrap, f"s{secrets.token_hex(3)}.")
            return _run(outbox, stack.make_database("elsewhere"), options.megabytes, options.rate, Path(folder))
        finally:
            stack.reset()


def _run(outbox: RealOutbox, elsewhere: str, megabytes: int, rate: int, folder: Path) -> int:
    log = folder / "relay.log"
    for dsn in (outbox.dsn, elsewhere):
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE filler (x text)")
    with outbox.relay(log=log):
        wait_until("the slot is read", lambda: "reads slot" in log.read_text(), 60)
        began, first = time.monotonic(), outbox.log_end()
        written = peak = 0.0
        while written < megabytes:
            for dsn in (outbox.dsn, elsewhere):
                with psycopg.connect(dsn) as connection:
                    connection.execute(FILL, [CHUNK_MB * ROWS_PER_MB])
            written = (outbox.log_end() - first) / (1 << 20)
            peak = max(peak, _kept(outbox))
            _wait(began + written / rate)
        took = time.monotonic() - began
        wait_until("it lets go", lambda: _kept(outbox) < LEFT_MB, 120)
        left = _kept(outbox)
    outbox.close()
    bound = KEPT_SECONDS * written / took
    print(
        f"{written:,.0f} MB written in {took:.0f} s; the slot kept {peak:,.0f} MB at most (of {bound:,.0f} in"
        f" {KEPT_SECONDS} s), {left:,.0f} MB in the end"
    )
    return 0 if peak <= bound else 1


def _wait(due: float) -> None:
    wait_until("the rate", lambda: time.monotonic() >= due, 60)


def _kept(outbox: RealOutbox) -> float:
    """Megabytes of the log that are kept for the slot."""
    [(kept,)] = outbox.sql(
        "SELECT (pg_current_wal_lsn() - restart_lsn)::float8 / (1 << 20)"
        " FROM pg_replication_slots WHERE slot_name = %s",
        outbox.slot,
    )
    return float(kept)


if __name__ == "__main__":
    sys.exit(main())
