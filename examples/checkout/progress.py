"""A live line on a terminal; elsewhere a line every few seconds."""

import sys
import time

LIVE_SECONDS, PLAIN_SECONDS = 0.2, 5.0


class Progress:
    """How far the orders are. Remarks go on lines of their own."""

    def __init__(self, total: int | None) -> None:
        self._of = "" if total is None else f"/{total}"
        self._live = sys.stdout.isatty()
        self._every = LIVE_SECONDS if self._live else PLAIN_SECONDS
        self._shown_at = time.monotonic()
        self._shown = 0

    def show(self, ended: int, under_way: int) -> None:
        """Bring the line up to date, if it is time to."""
        now = time.monotonic()
        passed = now - self._shown_at
        if passed < self._every:
            return
        rate = (ended - self._shown) / passed
        self._shown_at, self._shown = now, ended
        line = f"{ended}{self._of} ended   {under_way} under way   {rate:.0f}/s"
        if self._live:
            print(f"\r\x1b[K{line}", end="", flush=True)
        else:
            print(line, flush=True)

    def say(self, remark: str) -> None:
        print(f"\r\x1b[K{remark}" if self._live else remark, flush=True)

    def end(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", flush=True)
