"""Local steps on threads and an event loop, under their limits."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from kompensate.orchestrator import Limit
from kompensate.orchestrator.kernel.operation import Work
from kompensate.orchestrator.local.steps import Steps
from kompensate.orchestrator.ports import Job, Ran
from kompensate.schemas import payloads
from tests.fixtures.waiting import wait_until


class Bench:
    """Runs `count` jobs that stay until they are let go, and counts how many run at once."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.ended: list[Ran] = []
        self.running = self.most = 0
        self._lock = threading.Lock()
        self.free = threading.Event()
        self.wanted = True

    def work(self, number: int) -> int:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.free.wait(30)
        with self._lock:
            self.running -= 1
        return number

    async def work_async(self, number: int) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        while not self.free.is_set():
            await asyncio.sleep(0)
        self.running -= 1
        return number

    def start(self, function: Callable[..., Any], count: int, limit: str = "", priority: int = 0) -> None:
        for number in range(count):
            work = Work(function, (number,), limit, priority)
            job = Job("s", f"{limit}{number}", work, False, payloads.encode, lambda: self.wanted)
            self.steps.start(job, self.ended.append)


@pytest.mark.parametrize("kind", ["work", "work_async"])
def test_no_more_than_the_limit_run_at_once(kind: str) -> None:
    """Functions and coroutines alike; the others wait, and all of them end."""
    bench = Bench(Steps({"narrow": Limit(concurrent=2)}, threads=16))
    bench.start(getattr(bench, kind), 6, "narrow")
    wait_until("two run", lambda: bench.running == 2)
    bench.free.set()
    wait_until("all have ended", lambda: len(bench.ended) == 6)

    assert bench.most == 2
    assert {ran.outcome for ran in bench.ended} == {"done"}


def test_ten_thousand_steps_are_not_as_many_threads() -> None:
    """Without any limit of their own, functions share the worker's threads; what is under another limit goes on."""
    bench = Bench(Steps({}, threads=4))
    before = threading.active_count()
    bench.start(bench.work, 10_000)
    wait_until("four run", lambda: bench.running == 4)
    assert threading.active_count() <= before + 6

    other = Bench(bench.steps)
    other.free.set()
    other.start(other.work_async, 3, "other")
    wait_until("coroutines go on beside them", lambda: len(other.ended) == 3)

    bench.wanted = False
    bench.free.set()
    wait_until("those four have ended", lambda: bench.running == 0)
    assert bench.most == 4


def test_what_nobody_wants_any_more_is_not_begun() -> None:
    """The partition has gone while the step waited for its turn."""
    bench = Bench(Steps({"narrow": Limit(concurrent=1)}, threads=4))
    bench.start(bench.work, 2, "narrow")
    wait_until("one runs", lambda: bench.running == 1)
    bench.wanted = False
    bench.free.set()
    last = Bench(bench.steps)
    last.free.set()
    last.start(last.work, 1, "narrow")
    wait_until("the one behind them has ended", lambda: len(last.ended) == 1)

    assert len(bench.ended) == 1


def test_so_many_begin_in_a_second() -> None:
    """The eleventh begins a tenth of a second after the first at a hundred a second, and not earlier."""
    bench = Bench(Steps({"rate": Limit(per_second=100)}, threads=4))
    bench.free.set()
    loop_times: list[float] = []

    async def note(_: int) -> None:
        loop_times.append(asyncio.get_running_loop().time())

    bench.start(note, 11, "rate")
    wait_until("all have ended", lambda: len(bench.ended) == 11)

    assert loop_times[-1] - loop_times[0] >= 0.099


def test_a_higher_priority_is_begun_first() -> None:
    """Those that run go on; of those that wait the highest goes first, among equals who came first."""
    bench = Bench(Steps({"narrow": Limit(concurrent=1)}, threads=4))
    bench.start(bench.work, 1, "narrow")
    wait_until("it runs", lambda: bench.running == 1)
    order: list[tuple[str, int]] = []
    for name, priority in (("low", -1), ("usual", 0), ("high", 3)):
        bench.start(lambda number, name=name: order.append((name, number)), 2, "narrow", priority)
    bench.free.set()
    wait_until("all have ended", lambda: len(bench.ended) == 7)

    assert order == [(name, number) for name in ("high", "usual", "low") for number in range(2)]
