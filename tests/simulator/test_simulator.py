"""The simulator itself: a minute of seeds, the same thing again from the same plan, failures made small and kept."""

import json
import os
import pickle
import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from kompensate.orchestrator.testing import MemoryBroker, VirtualClock
from kompensate.simulator import chaos, rest
from kompensate.simulator.campaign import add_plan, kind_of, plans_from, read_plans, replace_plan, run_plans
from kompensate.simulator.chaos import Chaos, Occasions
from kompensate.simulator.histories import told
from kompensate.simulator.plan import FAULTS, Plan
from kompensate.simulator.run import Outcome, Run, simulate
from kompensate.simulator.scripted import Odds
from kompensate.simulator.shrinking import shrink
from kompensate.simulator.violation import Violation
from tests.fixtures.defenceless import DEFENCES
from tests.fixtures.simulated import SIMULATED

REGRESSIONS = Path(__file__).parent / "regressions.jsonl"
SECONDS = float(os.environ.get("KOMPENSATE_SIMULATE_SECONDS", "60"))
SMALL = Plan(7, sagas=60, width=30, steps=2_000, intensity=3.0)


@pytest.mark.slow
def test_plans_that_failed_before_hold() -> None:
    """Every plan of the file of regressions."""
    tally = run_plans(iter(read_plans(REGRESSIONS)), SIMULATED, lambda: False)

    assert tally.failure is None, f"{tally.failure.plan}: {tally.failure.violation}"


@pytest.mark.slow
def test_a_minute_of_seeds_breaks_nothing() -> None:
    """Seeds by chance, printed; a failure is shrunk and joins the regressions."""
    seed = random.randrange(10**9)
    print(f"seeds from {seed} on")
    until = time.monotonic() + SECONDS

    tally = run_plans(plans_from(Plan(seed)), SIMULATED, lambda: time.monotonic() >= until)

    print(f"{tally.runs} runs, {tally.sagas} sagas, {tally.events} events, {sum(tally.faults.values())} faults")
    if tally.failure is not None:
        small = shrink(tally.failure, lambda smaller: simulate(smaller, SIMULATED), seconds=120)
        add_plan(REGRESSIONS, small.plan)
        pytest.fail(f"{tally.failure.violation}; {tally.failure.plan}; shrunk: {small.plan.to_json()}")
    assert not tally.held


def test_every_kind_of_fault_happens() -> None:
    """A fault that never fires defends nothing."""
    fired = {kind for seed in (1, 2, 3) for _n, kind in simulate(_busy(seed), SIMULATED).fired}

    assert fired == set(FAULTS)


def _busy(seed: int) -> Plan:
    return Plan(seed, sagas=60, width=30, steps=2_500, intensity=8.0)


def test_faults_come_as_often_as_their_rates_say() -> None:
    """Though nothing is drawn before the next one is due; several kinds may happen at one occasion. Seed 5."""
    plan = Plan(5, faults=("kill", "raise"), intensity=200.0)
    occasions = Occasions(Chaos(plan, MemoryBroker(VirtualClock()), lambda: None), ("kill", "raise", "pause"))

    found = [occasions.hits() for _ in range(20_000)]

    for kind in ("kill", "raise"):
        expected = FAULTS[kind] * plan.intensity * len(found)
        assert 0.9 * expected < sum(kind in hits for hits in found) < 1.1 * expected
    assert ["kill", "raise"] in found
    assert not any("pause" in hits for hits in found)


def test_time_does_not_run_away_from_markers_that_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody is paused, and markers hardly ever arrive by themselves: they take moments, not minutes a turn."""
    monkeypatch.setattr(chaos, "MARKER_PACES", (0.0,))
    with closing(Run(Plan(1, sagas=0, faults=()), SIMULATED, Odds())) as run:
        run.stack.extend(run.running.values())
        broker, began = run.world.broker, run.clock.monotonic()
        broker.slow_markers = lambda _: True
        epoch = broker.init_producer("writer")
        for partition in range(run.world.partitions):
            broker.produce_in("writer", epoch, run.world.topics.history, partition, b"key", b"value", None)
        broker.end("writer", epoch, commit=False)

        while broker.undelivered():
            run.turn()
            assert run.clock.monotonic() - began < 30


@pytest.mark.slow
def test_everything_may_go_wrong_at_once() -> None:
    """One process is killed and leaves in the same moment, and only then does another come. Seeds 0 to 19."""
    for seed in range(20):
        plan = Plan(seed, sagas=5, width=5, steps=60, faults=("expire", "kill", "scale"), intensity=2_000)
        assert simulate(plan, SIMULATED).violation is None, plan


AGAIN = """
import json, sys
from kompensate.simulator.plan import Plan
from kompensate.simulator.run import simulate
sys.path.insert(0, sys.argv[1])
from tests.fixtures.simulated import SIMULATED
found = simulate(Plan.from_json(sys.argv[2]), SIMULATED)
print(json.dumps([found.events, found.turns, found.transactions, found.fired, found.ends]))
"""


@pytest.mark.slow
def test_the_same_plan_does_the_same_in_every_process() -> None:
    """Events, turns and faults, whatever Python's hash seed is."""
    root = str(Path(__file__).parents[2])
    found = [
        subprocess.run(
            [sys.executable, "-c", AGAIN, root, SMALL.to_json()],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert found[0] == found[1]
    assert json.loads(found[0])[0] > 0


@pytest.mark.slow
def test_a_failure_is_made_small() -> None:
    """Fewer sagas, kinds of faults and faults; the same invariant still breaks."""
    plan = Plan(0, sagas=120, width=60, steps=6_000, intensity=3.0)
    with DEFENCES["rotation"]():
        outcome = simulate(plan, SIMULATED)
        assert outcome.violation is not None

        small = shrink(outcome, lambda smaller: simulate(smaller, SIMULATED), attempts=60)
        again = simulate(small.plan, SIMULATED)

    assert again.violation is not None
    assert again.violation.name == outcome.violation.name
    assert len(again.fired) < len(outcome.fired)
    assert set(small.plan.faults) < set(plan.faults)
    assert small.plan.sagas < plan.sagas


def _failing(plan: Plan) -> Outcome:
    return Outcome(plan, violation=Violation("I1", "made up"), fired=[(number, "kill") for number in range(1, 5)])


def test_making_a_failure_small_may_be_interrupted() -> None:
    """Ctrl-C keeps the smallest plan so far."""
    plans: list[Plan] = []

    def run(plan: Plan) -> Outcome:
        plans.append(plan)
        if len(plans) > 3:
            raise KeyboardInterrupt
        return _failing(plan)

    small = shrink(_failing(Plan(1)), run)

    assert small.plan == plans[2] != Plan(1)


def test_making_a_failure_small_ends_in_time() -> None:
    """No run begins after the seconds that it may take."""
    failure = _failing(Plan(1))

    assert shrink(failure, lambda plan: pytest.fail("ran"), seconds=0.0) is failure


def test_a_failure_of_another_process_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its violation and the histories, as campaigns send it."""

    def check(run: Run) -> None:
        raise Violation("I1", f"{next(iter(run.ledger.ended))} (completed): made up")

    monkeypatch.setattr(rest, "check", check)
    sent = simulate(Plan(3, sagas=30, width=30), SIMULATED)
    assert sent.violation is not None

    arrived = pickle.loads(pickle.dumps(sent))

    assert str(arrived.violation) == str(sent.violation)
    assert arrived.violation.name == sent.violation.name
    assert arrived.histories == sent.histories != {}


def test_a_saga_that_is_in_the_wrong_is_told() -> None:
    """Its events up to there, by its own id and by that of a command."""
    run = Run(Plan(3, sagas=5, width=5, faults=()), SIMULATED, Odds())
    with closing(run):
        run.go()
        (saga_id, state), (other, second) = list(run.ledger.ended.items())[:2]
        command = next(iter(second.commands))

        found = told(run, Violation("I2", f"{saga_id}: payments executed {command} twice"))

    assert list(found) == [saga_id, other]
    assert len(found[saga_id]) == state.events
    assert "SagaStarted" in [line.kind for line in found[saga_id]]


def test_reasons_that_differ_in_ids_and_numbers_are_one() -> None:
    """A step's name stays, though it ends in a number."""
    first = kind_of("child 'shoot-32.6' of step 'send2': no answer within 300000 ms")

    assert first == kind_of("child 'shoot-237.11' of step 'send2': no answer within 1 ms")
    assert first != kind_of("child 'shoot-32.6' of step 'send3': no answer within 300000 ms")
    assert kind_of(f"key {uuid4()}") == kind_of(f"key {uuid4()}")


def test_a_smaller_plan_takes_the_place_of_the_first(tmp_path: Path) -> None:
    """The others stay."""
    file = tmp_path / "plans.jsonl"
    add_plan(file, SMALL)
    add_plan(file, Plan(1))

    replace_plan(file, SMALL, Plan(2))

    assert read_plans(file) == [Plan(1), Plan(2)]


def test_plans_are_kept_once(tmp_path: Path) -> None:
    """A file of regressions has a plan a line, each once."""
    file = tmp_path / "plans.jsonl"
    assert read_plans(file) == []

    for _ in range(2):
        add_plan(file, SMALL)
    add_plan(file, Plan(1))

    assert read_plans(file) == [SMALL, Plan(1)]


def test_what_is_no_plan_is_said_to_be_none() -> None:
    """Expected and got."""
    with pytest.raises(ValueError, match=r"expected a plan as JSON, got 'nonsense'"):
        Plan.from_json("nonsense")
