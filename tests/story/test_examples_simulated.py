"""The small examples in the simulator: whole systems in memory, killed, rebalanced and torn by a seed."""

from pathlib import Path

import pytest

from examples.agent import simulated as agent
from examples.agent import tools
from examples.marketplace import simulated as marketplace
from examples.transfer.app import app as transfer
from kompensate.simulator.application import Simulated
from kompensate.simulator.plan import Plan
from kompensate.simulator.run import Outcome, simulate

SEEDS = (1, 2, 3)
MARKET = Simulated(
    marketplace.app, marketplace.simulated_input, marketplace.simulated_reply, marketplace.simulated_signal
)
AGENT = Simulated(agent.app, agent.simulated_input, make_signal=agent.simulated_signal)


def run(simulated: Simulated, seed: int) -> Outcome:
    """A short, rough run in which every invariant held."""
    found = simulate(Plan(seed, sagas=40, width=20, steps=2_000, intensity=5.0), simulated)
    assert found.violation is None, f"seed {seed}: {found.violation}"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("simulated", [MARKET, Simulated(transfer)], ids=["marketplace", "transfer"])
def test_services(simulated: Simulated, seed: int) -> None:
    """Every saga ends, and each step is taken once or undone."""
    found = run(simulated, seed)

    assert found.fired
    assert found.ends["completed"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_tools_are_used_once(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose worker died is looked up, not made again: no key stands twice at the desk."""
    monkeypatch.setenv("AGENT_DESK", str(tmp_path / "desk.sqlite"))

    found = run(AGENT, seed)

    with tools.desk() as desk:
        ((calls, keys),) = desk.execute("SELECT count(*), count(DISTINCT key) FROM call").fetchall()
    assert found.fired
    assert calls == keys > 0


@pytest.mark.slow
def test_the_last_record_of_an_input_may_be_a_childs() -> None:
    """Behind it lies its transaction's marker, which nobody reads: that is no input left behind."""
    found = simulate(Plan(826204642, sagas=9, width=9, faults=()), MARKET)

    assert found.violation is None, found.violation
    assert found.ends["completed"] > 0
