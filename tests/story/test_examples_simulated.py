"""The small examples in the simulator: whole systems in memory, killed, rebalanced and torn by a seed."""

from collections import Counter
from pathlib import Path

import pytest

from examples.agent import simulated as agent
from examples.agent import tools
from examples.infrastructure import cloud
from examples.infrastructure import simulated as infrastructure
from examples.marketplace import simulated as marketplace
from examples.transfer.app import app as transfer
from kompensate.simulator.application import Simulated
from kompensate.simulator.plan import Plan
from kompensate.simulator.run import Outcome, simulate

SEEDS = (1, 2, 3)
MARKET = Simulated(
    marketplace.app, marketplace.simulated_input, marketplace.simulated_reply, marketplace.simulated_signal
)
CLOUD = Simulated(infrastructure.app, infrastructure.simulated_input)
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
@pytest.mark.parametrize("seed", SEEDS)
def test_all_resources_or_none(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made twice, and of each environment there are all four or none."""
    monkeypatch.setenv("CLOUD", str(tmp_path / "cloud.sqlite"))
    cloud.open_account()

    found = run(CLOUD, seed)

    made = Counter(environment for (environment,) in cloud.rows("SELECT environment FROM resource"))
    assert found.fired
    assert set(made.values()) == {4}
    ((calls, distinct),) = cloud.rows(
        "SELECT count(*), count(DISTINCT kind || environment) FROM call WHERE verb = 'create'"
    )
    assert calls == distinct


@pytest.mark.slow
def test_the_last_record_of_an_input_may_be_a_childs() -> None:
    """Behind it lies its transaction's marker, which nobody reads: that is no input left behind."""
    found = simulate(Plan(826204642, sagas=9, width=9, faults=()), MARKET)

    assert found.violation is None, found.violation
    assert found.ends["completed"] > 0
