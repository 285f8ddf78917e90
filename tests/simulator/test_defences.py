"""The simulator bites: with any one defence switched off it finds a broken invariant, with it on it does not."""

from dataclasses import dataclass, replace

import pytest

from kompensate.simulator.application import Simulated
from kompensate.simulator.plan import Plan
from kompensate.simulator.run import simulate
from kompensate.simulator.scripted import Odds
from tests.fixtures.defenceless import DEFENCES
from tests.fixtures.eventful import EVENTFUL
from tests.fixtures.simulated import SIMULATED

USUAL = Plan(0, sagas=120, width=60, steps=6_000, intensity=3.0)
TAKE_OVERS = Plan(0, sagas=120, width=60, steps=3_000, faults=("markers", "kill", "expire", "scale"), intensity=8.0)
ZOMBIES = Plan(0, sagas=120, width=60, steps=6_000, faults=("pause", "expire", "kill"), intensity=8.0)
ABORTS = Plan(40, sagas=120, width=60, steps=3_000, faults=("abort",), intensity=8.0)
MOVED_OFFSETS = Plan(0, sagas=120, width=60, steps=3_000, faults=("kill", "offsets"), intensity=6.0)
OVERTAKING = Plan(25, sagas=120, width=60, steps=4_000, faults=("grow", "kill"), intensity=20.0)


@dataclass(frozen=True)
class Case:
    """Where to look: plans from this one's seed on, at most `seeds`; what may break."""

    plan: Plan = USUAL
    breaks: tuple[str, ...] = ()
    seeds: int = 15
    odds: Odds | None = None
    simulated: Simulated = SIMULATED


CASES = {
    "generation": Case(ZOMBIES, ("I6", "I8", "stopped")),
    "watermark": Case(MOVED_OFFSETS, ("I6", "I8")),
    "stable end": Case(replace(TAKE_OVERS, seed=11), ("I6", "I8", "stopped")),
    "fencing": Case(ZOMBIES, ("I6", "I8", "stopped")),
    "stable offsets": Case(TAKE_OVERS, ("I6", "I8")),
    "rotation": Case(USUAL, ("I8", "stopped")),
    "discard": Case(USUAL, ("I5", "I6", "I8")),
    "dedup window": Case(USUAL, ("I5",)),
    "rewind": Case(USUAL, ("I3",)),
    "unknown outcome": Case(USUAL, ("I5", "I8")),
    "inbox": Case(USUAL, ("I2",)),
    "cancel mark": Case(OVERTAKING, ("I1",), odds=Odds(late=400, late_seconds=(25.0, 120.0))),
    "savepoint": Case(USUAL, ("I1", "I2")),
    "committed commands": Case(USUAL, ("I10",)),
    "acknowledged": Case(USUAL, ("I9",)),
    "slot check": Case(USUAL, ("I9",)),
    "counted limits": Case(USUAL, ("I3", "I12")),
    "settled": Case(TAKE_OVERS, ("I12",)),
    "moved back": Case(ABORTS, ("I3", "I12")),
    "key": Case(USUAL, ("I2",), simulated=EVENTFUL),
    "intent": Case(USUAL, ("I14",), simulated=EVENTFUL),
    "window": Case(USUAL, ("I2",), simulated=EVENTFUL),
    "in doubt": Case(USUAL, ("I1", "I2"), simulated=EVENTFUL),
    "waiting": Case(USUAL, ("I1", "I2"), simulated=EVENTFUL),
    "heard": Case(USUAL, ("I2",), simulated=EVENTFUL),
    "intake offsets": Case(USUAL, ("I13",), simulated=EVENTFUL),
    "intake rewind": Case(USUAL, ("I13",), simulated=EVENTFUL),
}


def test_every_defence_has_a_case() -> None:
    """No switch without its test."""
    assert CASES.keys() == DEFENCES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_absence_of_a_defence_is_found(name: str) -> None:
    """Without it an invariant breaks within a few seeds; the very plan that showed it holds with the defence on."""
    case = CASES[name]
    plan = case.plan
    with DEFENCES[name]():
        for seed in range(case.plan.seed, case.plan.seed + case.seeds):
            plan = replace(case.plan, seed=seed)
            broken = simulate(plan, case.simulated, case.odds).violation
            if broken is not None:
                break

    assert broken is not None, f"{case.seeds} seeds from {case.plan} on"
    assert broken.name in case.breaks, broken
    held = simulate(plan, case.simulated, case.odds).violation
    assert held is None, f"{plan}: {held}"
