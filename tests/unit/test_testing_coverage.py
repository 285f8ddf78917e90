"""The coverage report: which ways through a saga its tests took, and which never."""

import pytest

from kompensate.orchestrator import NOTHING, Application, Context, FailSaga, Saga, Step, saga
from kompensate.orchestrator.testing import (
    MODES,
    SagaTest,
    done,
    environment,
    failed,
    in_turn,
    late,
    never,
    refused,
    story,
)
from kompensate.orchestrator.testing import coverage as coverage_module
from kompensate.orchestrator.testing.coverage import CANCELLED, Coverage
from tests.fixtures.driving import APP, CHECKOUT, Charge, Confirm, Order, Refund, Reserve, Ship, inventory, payments

SHOP = Application(APP, [CHECKOUT])


@pytest.fixture(autouse=True)
def coverage(monkeypatch: pytest.MonkeyPatch) -> Coverage:
    """A coverage of this test alone."""
    own = Coverage()
    for module in (story, environment, coverage_module):
        monkeypatch.setattr(module, "COVERAGE", own)
    return own


def run(*scripts: tuple[type, object], mode: str = "cached", cancel_at: str | None = None) -> None:
    test = SagaTest(SHOP, mode=mode, seed=1)
    for command, answer in scripts:
        test.on(command, answer)
    order = test.start("checkout", Order())
    if cancel_at:
        order.run_until(cancel_at)
        order.cancel()
    test.run()


def test_nothing_was_taken_yet(coverage: Coverage) -> None:
    """Declared steps are listed before any test has come near them: by their kind, and whether they have an undo."""
    SagaTest(SHOP)

    steps = coverage.sagas["shop/checkout"].steps
    assert {name: ways.never for name, ways in steps.items()} == {
        "reserve": ["done", "refused", "failed", "tried again", "in doubt", CANCELLED, "undone", "undo tried again"],
        "charge": ["done", "refused", "failed", "tried again", "in doubt", CANCELLED, "undone", "undo tried again"],
        "ship": ["done", "refused", "failed", "tried again", CANCELLED],
        "confirm": ["done", "tried again"],
    }
    assert coverage.sagas["shop/checkout"].ends.never == ["cancelled", "compensated", "completed"]


@pytest.mark.parametrize("mode", MODES)
def test_a_run_is_counted_once(coverage: Coverage, mode: str) -> None:
    """Also where its inputs are handled again or come twice."""
    run((Charge, in_turn(failed(), refused())), mode=mode)

    found = coverage.sagas["shop/checkout"]
    assert found.ends.taken == {"compensated": 1}
    assert found.steps["reserve"].taken == {"done": 1, "undone": 1}
    assert found.steps["charge"].taken == {"tried again": 1, "refused": 1}
    assert found.steps["ship"].taken == {}


def test_every_way_of_a_checkout_can_be_taken(coverage: Coverage) -> None:
    """Ten tests, and the report has nothing that never happened."""
    run((Reserve, refused()))
    run((Reserve, in_turn(failed(), failed(), failed())))
    run((Reserve, never()))
    run((Reserve, late(9)), cancel_at="reserve")
    run((Charge, in_turn(failed(), failed(), failed())))
    run((Charge, in_turn(refused())))
    run((Charge, late(9)), (Refund, in_turn(failed(), done())), cancel_at="charge")
    run((Charge, never()))
    run((Ship, in_turn(failed(), failed(), failed())))
    run((Ship, refused()), ("inventory.Release", in_turn(failed(), done())))  # type: ignore[arg-type]  # a name does too
    run((Ship, late(9)), (Confirm, in_turn(failed(), done())), cancel_at="ship")

    found = coverage.sagas["shop/checkout"]
    assert {name: ways.never for name, ways in found.steps.items()} == {step: [] for step in found.steps}
    assert found.ends.never == []
    assert "never" not in "\n".join(coverage.report())


def test_an_async_sagas_steps_are_known_once_met(coverage: Coverage) -> None:
    """It can also end as failed."""

    @saga("pays")
    async def pays(ctx: Context, fail: bool) -> None:
        await ctx.call(payments, Charge("1"), undo=Refund("1"))
        await ctx.call(payments, Charge("2"), step="tip")
        if fail:
            raise FailSaga("asked to")

    test = SagaTest(Application(APP, [pays], services=[payments, inventory]))
    assert coverage.sagas["shop/pays"].steps == {}
    test.start(pays, True)
    test.run()

    found = coverage.sagas["shop/pays"]
    assert found.ends.taken == {"failed": 1}
    assert found.steps["Charge"].taken == {"done": 1, "undone": 1}
    assert found.steps["tip"].never == ["refused", "failed", "tried again", "in doubt", CANCELLED]


def test_signals_come_in_time_or_not(coverage: Coverage) -> None:
    """A signal that is waited for with a limit can time out; both ways are listed."""

    @saga("waits")
    async def waits(ctx: Context, _: None) -> None:
        await ctx.receive("go")
        try:
            await ctx.receive("answer", timeout=60)
        except TimeoutError:
            return

    test = SagaTest(waits)
    test.start(waits).signal("go")
    test.run()

    steps = coverage.sagas["test/waits"].steps
    assert steps["signal 'go'"].never == []
    assert steps["signal 'answer'"].taken == {"timed out": 1}
    assert steps["signal 'answer'"].never == ["received"]


def test_the_report_in_full(coverage: Coverage) -> None:
    """A saga, its ends, its steps: what was taken how often, and below it what never."""
    one = Saga("one", Order, [Step("charge", payments, Charge, undo=NOTHING)])
    test = SagaTest(Application(APP, [one]))
    for n in range(3):
        test.on(Charge, refused() if n else done())
        test.start(one, Order())
        test.run()

    assert list(coverage.report()) == [
        "shop/one",
        "  ends                 compensated 2, completed 1",
        "                       never: cancelled",
        "  charge               done 1, refused 2",
        "                       never: failed, tried again, in doubt, cancelled while out",
    ]
