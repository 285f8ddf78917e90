"""Sagas that are reset while everything else happens: the same invariants hold, over both sagas."""

import random

import pytest

from kompensate.orchestrator.kernel.state import SagaState
from kompensate.simulator.plan import Plan
from kompensate.simulator.run import Outcome, simulate
from tests.fixtures.simulated import SIMULATED

SEEDS = 4


def simulated(seed: int) -> Outcome:
    return simulate(Plan(seed, sagas=120, width=30, steps=4_000, intensity=2.0, resets=True), SIMULATED)


@pytest.mark.slow
def test_resets_break_nothing() -> None:
    """No effect is undone twice or left standing, whichever saga answers for it; and all come to an end."""
    first = random.randrange(10**9)
    print(f"seeds from {first} on")
    outcomes = [simulated(seed) for seed in range(first, first + SEEDS)]

    assert [found.violation for found in outcomes] == [None] * SEEDS


@pytest.mark.slow
def test_ids_of_its_own_for_what_was_kept_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the other saga's ids nothing of what it did would be found to undo."""
    monkeypatch.setattr(SagaState, "owner", lambda state, _: (state.saga_id, state.run))

    assert any(simulated(seed).violation is not None for seed in range(1, 1 + SEEDS))
