"""Who has documents indexed over HTTP: some jobs at a time, and keeps the reports."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

A_JOB = 200
"""Documents that one request has, and so one saga: its history stays below a thousand events."""
JOBS_AT_ONCE = 8
UP_SECONDS = 60.0
JOB_SECONDS = 3_600.0


class Caller:
    """Has `locations` indexed by whoever listens at `port`; at once, and without waiting for it."""

    def __init__(self, port: int, locations: Sequence[str], *, a_job: int = A_JOB, name: str = "job") -> None:
        self._at = f"http://127.0.0.1:{port}"
        jobs = [list(locations[first : first + a_job]) for first in range(0, len(locations), a_job)]
        self._threads = ThreadPoolExecutor(JOBS_AT_ONCE)
        self._reports = [self._threads.submit(self._ask, f"/jobs/{name}-{n}", job) for n, job in enumerate(jobs, 1)]

    def report(self) -> tuple[int, dict[str, str]]:
        """How many documents are indexed, and why the others are not. Waits for all of them."""
        found = [report.result() for report in self._reports]
        self._threads.shutdown()
        return sum(it["indexed"] for it in found), {where: why for it in found for where, why in it["failed"].items()}

    def search(self, question: str) -> Any:
        """The chunks that are nearest to a question."""
        return self._ask(f"/search?{urllib.parse.urlencode({'q': question})}")

    def _ask(self, path: str, value: object = None) -> Any:
        data = None if value is None else json.dumps(value).encode()
        request = urllib.request.Request(self._at + path, data, method="GET" if value is None else "PUT")  # noqa: S310  # ours
        deadline = time.monotonic() + UP_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=JOB_SECONDS) as answer:  # noqa: S310
                    return json.load(answer)
            except urllib.error.URLError as error:
                if not isinstance(error.reason, ConnectionRefusedError) or time.monotonic() > deadline:
                    raise
            time.sleep(0.1)  # it is just starting
