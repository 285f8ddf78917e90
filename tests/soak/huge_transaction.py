"""One transaction of a million outbox rows through the relay: its memory, its rate, and that every row arrives.

    .venv/bin/python -m tests.soak.huge_transaction [--rows 1000000]

Exit status 0 only where every row is in Kafka once and the relay stayed below 200 MB.
"""

import argparse
import secrets
import sys
import tempfile
import time
from pathlib import Path

from kompensate.compose.local.stack import Stack
from tests.fixtures.outboxes import RealOutbox, peak_bytes
from tests.fixtures.waiting import wait_until

RSS_MAX = 200 << 20


def main() -> int:
    """Run it on servers of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(folder, jit="full")
        try:
            stack.up()
            return _run(RealOutbox(stack.make_database("shop"), stack.bootstrap, f"s{secrets.token_hex(3)}."), rows)
        finally:
            stack.reset()


def _run(outbox: RealOutbox, rows: int) -> int:
    log = Path(tempfile.gettempdir()) / f"{outbox.prefix}log"
    with outbox.relay(log=log) as process:
        wait_until("the slot is read", lambda: "reads slot" in log.read_text(), 60)
        began = time.monotonic()
        outbox.write_one_transaction(rows, 250)
        committed = time.monotonic()
        end = outbox.log_end()
        wait_until("all of it confirmed", lambda: outbox.confirmed() >= end, 3_600)
        took, peak = time.monotonic() - committed, peak_bytes(process.pid)
    there = outbox.count()
    outbox.close()
    log.unlink()
    print(
        f"{rows:,} rows written in {committed - began:.0f} s; {there:,} records {took:.0f} s after the commit,"
        f" {rows / took:,.0f} rows/s; the relay's peak {peak / (1 << 20):.0f} MB"
    )
    return 0 if there == rows and peak < RSS_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
