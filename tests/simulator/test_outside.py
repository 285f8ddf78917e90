"""External handlers in the simulator: providers as they are, every fault point of outside calls, unknown outcomes."""

from collections import Counter
from contextlib import closing
from dataclasses import replace

import pytest

from kompensate.participants.outcome import Failed, OutsideCall, Refused, Retry
from kompensate.schemas.faults import observe
from kompensate.simulator import outside
from kompensate.simulator.outside import Outside, SlowHands
from kompensate.simulator.plan import Plan
from kompensate.simulator.run import Run, simulate
from kompensate.simulator.scripted import Odds
from tests.fixtures.eventful import EVENTFUL

PLAN = Plan(2, sagas=60, width=30, steps=5_000)
POINTS = {
    *("outside.after_intent", "outside.before_call", "outside.after_call"),
    *("outside.before_result_commit", "outside.after_result_commit"),
}


def test_calls_end_in_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without faults: results, both kinds of no, errors, heartbeats, queries, and outcomes that an operator says."""
    seen: Counter[str] = Counter()
    find, beat, said = Outside.find, OutsideCall.heartbeat, Outside.answer_unknown

    def found(self: Outside, payload: object, call: OutsideCall) -> object:
        seen["asked"] += 1
        return find(self, payload, call)

    def beaten(self: OutsideCall, progress: object = None) -> None:
        seen["heartbeat"] += 1
        beat(self, progress)

    def answered(self: Outside) -> None:
        unknown = [self._world.databases[s].query(UNKNOWN)[0][0] for s in self._services]
        seen["unknown"] += sum(unknown)
        said(self)

    end = SlowHands._end

    def ended(one: object) -> object:
        made = end(one)  # type: ignore[arg-type]
        seen[type(made.error).__name__] += 1
        return made

    monkeypatch.setattr(outside, "CANNOT_TELL", 7_000)
    monkeypatch.setattr(Outside, "find", found)
    monkeypatch.setattr(OutsideCall, "heartbeat", beaten)
    monkeypatch.setattr(Outside, "answer_unknown", answered)
    monkeypatch.setattr(SlowHands, "_end", staticmethod(ended))
    outcomes = [simulate(replace(PLAN, seed=seed, faults=()), EVENTFUL) for seed in (2, 3)]

    assert [outcome.violation for outcome in outcomes] == [None, None]
    named = ("NoneType", "OSError", Refused.__name__, Failed.__name__, Retry.__name__)
    assert all(seen[name] for name in (*named, "asked", "heartbeat", "unknown")), seen


UNKNOWN = "SELECT count(*) FROM idempotency WHERE status = 'unknown'"


def test_every_fault_point_of_outside_calls_is_passed() -> None:
    """So that processes are killed there."""
    passed: set[str] = set()
    with closing(Run(replace(PLAN, faults=()), EVENTFUL, Odds())) as run, observe(passed.add):
        run.go()

    assert passed >= POINTS


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_outside_calls_survive_every_fault(seed: int) -> None:
    """With faults at every point, most of them kills: one effect a command, whatever the provider answers."""
    plan = replace(PLAN, seed=seed, faults=("kill", "raise", "pause", "expire", "scale"), intensity=10.0)

    assert simulate(plan, EVENTFUL).violation is None, plan
