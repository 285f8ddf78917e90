"""Seeds, one after the other, for as long as you like, in as many processes as you like.

Failures of earlier campaigns come first: they stand in a file, a plan a line. A new failure is added.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

from kompensate.simulator.application import Simulated
from kompensate.simulator.plan import Plan
from kompensate.simulator.run import Outcome, simulate

CHUNK_SECONDS = 10.0
"""How long a process runs seeds before it tells what came of them."""
_IDS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<![A-Za-z0-9_])\d+(?![A-Za-z0-9_])")
"""UUIDs, and numbers by themselves: also those in a simulated saga's id, not one at the end of a name."""


@dataclass(slots=True)
class Tally:
    """What came of many runs. `held`: sagas by `kind_of` the reason; `failure`: the first run that broke something."""

    runs: int = 0
    events: int = 0
    transactions: int = 0
    sagas: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    failure: Outcome | None = None

    def add(self, other: "Tally") -> None:
        self.runs += other.runs
        self.events += other.events
        self.transactions += other.transactions
        self.sagas += other.sagas
        self.faults += other.faults
        self.ends += other.ends
        self.held += other.held
        if self.failure is None:
            self.failure = other.failure


def kind_of(reason: str) -> str:
    """What reasons have in common that differ in nothing but ids and numbers."""
    return _IDS.sub("#", reason)


def run_plans(plans: Iterator[Plan], simulated: Simulated, until: Callable[[], bool]) -> Tally:
    """Run plan after plan until `until` says so or one fails."""
    tally = Tally()
    for plan in plans:
        outcome = simulate(plan, simulated)
        tally.runs += 1
        tally.events += outcome.events
        tally.transactions += outcome.transactions
        tally.sagas += outcome.sagas
        tally.faults.update(kind for _number, kind in outcome.fired)
        tally.ends.update(outcome.ends)
        tally.held.update(map(kind_of, outcome.held.values()))
        if outcome.violation is not None:
            tally.failure = outcome
            break
        if until():
            break
    return tally


def plans_from(plan: Plan) -> Iterator[Plan]:
    """`plan` with one seed after the other, without end."""
    while True:
        yield plan
        plan = replace(plan, seed=plan.seed + 1)


def read_plans(path: Path) -> list[Plan]:
    """The plans of a file of regressions; none where there is no file. Raises ValueError."""
    if not path.exists():
        return []
    return [Plan.from_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def add_plan(path: Path, plan: Plan) -> None:
    """Add a plan to the file, unless it is there."""
    if plan not in read_plans(path):
        with path.open("a", encoding="utf-8") as file:
            file.write(plan.to_json() + "\n")


def replace_plan(path: Path, plan: Plan, smaller: Plan) -> None:
    """In the file, `smaller` instead of `plan`."""
    kept = [other for other in read_plans(path) if other != plan]
    plans = kept if smaller in kept else [*kept, smaller]
    path.write_text("".join(each.to_json() + "\n" for each in plans), encoding="utf-8")


class Campaign:
    """Runs plans from `plan.seed` on, in `processes` at once. `load` makes the application in each of them."""

    def __init__(self, load: Callable[[], Simulated], plan: Plan, seconds: float, processes: int) -> None:
        self._load, self._plan, self._seconds, self._processes = load, plan, seconds, processes
        self.tally = Tally()

    def run(self, progress: Callable[[Tally, float], None], failed: Callable[[Outcome], None]) -> Tally:
        """All of it. `progress` is told from time to time how it stands, and after how many seconds; `failed` of the
        first run that broke something, when it did: the others are still under way."""
        began = time.monotonic()
        self.tally = Tally()
        # A fresh interpreter each: the loops' threads and connections of this one would not survive a fork.
        with ProcessPoolExecutor(self._processes, mp_context=get_context("spawn")) as pool:
            under_way = {self._send(pool, number, began) for number in range(self._processes)}
            sent = self._processes
            while under_way:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    known = self.tally.failure
                    self.tally.add(future.result())
                    if known is None and self.tally.failure is not None:
                        failed(self.tally.failure)
                    if self.tally.failure is None and time.monotonic() - began < self._seconds:
                        under_way.add(self._send(pool, sent, began))
                        sent += 1
                progress(self.tally, time.monotonic() - began)
        return self.tally

    def _send(self, pool: ProcessPoolExecutor, number: int, began: float) -> "Future[Tally]":
        # Chunks have seeds of their own, far apart, so that none is run twice.
        plan = replace(self._plan, seed=self._plan.seed + number * 10_000)
        left = max(0.0, self._seconds - (time.monotonic() - began))
        return pool.submit(_chunk, self._load, plan, min(CHUNK_SECONDS, left))


def _chunk(load: Callable[[], Simulated], plan: Plan, seconds: float) -> Tally:
    until = time.monotonic() + seconds
    return run_plans(plans_from(plan), load(), lambda: time.monotonic() >= until)
