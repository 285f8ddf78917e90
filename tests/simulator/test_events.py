"""Events in the simulator: intakes and subscribers under every fault, and what is found where a defence is missing."""

from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from kompensate.orchestrator import Application, Context, FromTopic, Service, saga
from kompensate.orchestrator.cli import main
from kompensate.simulator.application import NoValue, Simulated
from kompensate.simulator.plan import Plan
from kompensate.simulator.run import Run, simulate
from kompensate.simulator.scripted import Odds
from tests.fixtures.eventful import EVENTFUL, Paid


def test_sagas_are_started_by_events_and_subscribers_hear_them() -> None:
    """In a run without faults: of every kind some, nothing is left."""
    with closing(Run(Plan(1, sagas=40, width=20, faults=()), EVENTFUL, Odds())) as run:
        run.go()
        events = {
            service: run.world.databases[service].query("SELECT count(*) FROM effect WHERE phase = 'event'")[0][0]
            for service in ("loyalty", "kitchen")
        }

    by_event = [saga_id for saga_id in run.load.started if saga_id.startswith(("placed-", "s"))]
    assert len(by_event) > 5
    assert len(run.load.started) - len(by_event) > 5
    assert events["kitchen"] > events["loyalty"] > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_events_survive_every_fault(seed: int) -> None:
    """All kinds of faults, three times as often as usual."""
    plan = Plan(seed, sagas=60, width=30, steps=5_000, intensity=3.0)

    assert simulate(plan, EVENTFUL).violation is None, plan


def test_the_same_plan_tells_the_same() -> None:
    """Ids of events decide what becomes of them, so they are of the seed too."""
    plan = Plan(3, sagas=20, width=10, steps=1_500, intensity=3.0)
    one, other = simulate(plan, EVENTFUL), simulate(plan, EVENTFUL)

    assert (one.events, one.turns, one.fired, one.ends) == (other.events, other.turns, other.fired, other.ends)
    assert one.events > 0


def test_the_food_delivery_is_simulated_with_its_services(tmp_path: Path) -> None:
    """By the command: what is given as --participant is played, and some of the sagas are its events'."""
    named = ("orders:orders", "payments:payments", "services:loyalty")
    played = [argument for name in named for argument in ("--participant", f"examples.food.{name}")]
    once = ("--minutes", "0", "--seed", "3", "--sagas", "10", "--regressions", str(tmp_path / "kept.jsonl"))
    result = CliRunner().invoke(main, ["simulate", "examples.food.app:app", *played, *once])

    assert result.exit_code == 0, result.output
    assert "ends: completed" in result.output


def test_what_is_no_participant_is_refused() -> None:
    """Expected and got."""
    result = CliRunner().invoke(main, ["simulate", "examples.food.app:app", "--participant", "examples.food.app:app"])

    assert result.exit_code == 2
    assert "examples.food.app:app: expected a Participant, got Application" in result.output


@saga("typed")
async def typed(ctx: Context, order: dict[str, str]) -> None:
    await ctx.call(Service("stock"), Paid(order["id"]))


def test_events_of_which_no_value_can_be_made_have_to_be_said() -> None:
    """By the application's module; then its sagas begin by them."""
    source = FromTopic("orders", start="typed", saga_id=lambda record: record.value["id"])
    application = Application("shop", [typed], services=["stock"], intake=[source])
    plan = Plan(1, sagas=10, width=5, faults=())

    with pytest.raises(NoValue, match="events of orders: expected FromTopic to have a type="):
        simulate(plan, Simulated(application, make_input=lambda name, random: {"id": "x"}))

    said = Simulated(
        application,
        make_input=lambda name, random: {"id": "direct"},
        make_event=lambda type_, random: {"id": f"{type_}-{random.randrange(1_000)}"},
    )
    with closing(Run(plan, said, Odds())) as run:
        run.go()
    assert any(saga_id.startswith("orders-") for saga_id in run.load.started)
