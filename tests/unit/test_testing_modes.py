"""Each mode finds what it is for: a planted defect is found by the mode, and not without it."""

from typing import Any
from uuid import uuid4

import pytest

from kompensate.orchestrator import Application, Context, Service, saga
from kompensate.orchestrator.kernel import decide as decide_module
from kompensate.orchestrator.testing import MODES, SagaTest, done
from tests.fixtures.driving import Charge, Reserve

A, B, C = Service("a"), Service("b"), Service("c")
SENT: list[str] = []


@saga("keeps-its-own-uuid")
async def keeps_its_own_uuid(ctx: Context, _: None) -> None:
    """The defect: a value that no replay gives again."""
    key = uuid4().hex
    await ctx.call(A, Reserve(key))
    await ctx.call(B, Charge(key))


@saga("sends-mail-itself")
async def sends_mail_itself(ctx: Context, order: str) -> None:
    """The defect: an effect in the program, after its last operation, where no replay comes."""
    await ctx.call(A, Reserve(order))
    SENT.append(f"thanks for {order}")


@saga("counts-on-an-order")
async def counts_on_an_order(ctx: Context, order: str) -> str:
    """The defect: which of two answers comes first is nobody's promise."""
    name, _ = await ctx.select(a=ctx.call(A, Reserve(order)), b=ctx.call(B, Reserve(order)))
    return name


@saga("adds-two")
async def adds_two(ctx: Context, _: None) -> int:
    found: int = await ctx.receive("n") + await ctx.receive("n")
    return found


APP = Application(
    "shop", [keeps_its_own_uuid, sends_mail_itself, counts_on_an_order, adds_two], services=[A, B, C], partitions=3
)


def _same_uuid(mode: str) -> bool:
    test = SagaTest(APP, mode=mode, double_run=False)
    found = test.start(keeps_its_own_uuid)
    test.run()
    found.assert_completed()
    reserve, charge = (seen.message["order_id"] for seen in found.seen)
    return bool(reserve == charge)


def _one_mail(mode: str) -> bool:
    SENT.clear()
    test = SagaTest(APP, mode=mode, double_run=False)
    found = test.start(sends_mail_itself, "o1")
    test.run()
    found.assert_completed()
    return SENT == ["thanks for o1"]


def _a_first(mode: str) -> bool:
    tests = [SagaTest(APP, mode=mode, seed=seed, double_run=False) for seed in range(10)]
    found = [test.start(counts_on_an_order, "o1") for test in tests]
    for test in tests:
        test.run()
    return {one.result for one in found} == {"a"}


@pytest.mark.parametrize(
    ("holds", "found_in"),
    [
        (_same_uuid, {"always-replay", "evict-after-every-step", "crash-at-every-commit"}),
        (_one_mail, {"crash-at-every-commit"}),
        (_a_first, {"reorder"}),
    ],
)
def test_a_planted_defect_is_found_in_its_modes_and_in_no_other(holds: Any, found_in: set[str]) -> None:
    """The same test passes in the modes without what brings it out, and fails in those with it."""
    assert {mode for mode in MODES if not holds(mode)} == found_in


def test_duplicates_find_an_engine_without_its_memory_of_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine absorbs what comes twice; with that defence taken out, a signal counts twice in this mode only."""

    def result(mode: str) -> Any:
        test = SagaTest(APP, mode=mode, double_run=False)
        found = test.start(adds_two)
        found.signal("n", 1, signal_id="first")
        found.signal("n", 20, signal_id="second")
        test.run()
        return found.result

    assert {mode: result(mode) for mode in MODES} == dict.fromkeys(MODES, 21)

    defended = decide_module._signal

    def forgets(turn: Any, signal: Any) -> None:
        turn.state.signal_ids.clear()
        defended(turn, signal)

    monkeypatch.setattr(decide_module, "_signal", forgets)

    assert {mode: result(mode) for mode in MODES} == {**dict.fromkeys(MODES, 21), "duplicate-every-message": 2}


def test_reordering_keeps_what_a_log_keeps() -> None:
    """What one sender has for one saga stays in its order, whatever the seed; others overtake."""

    @saga("two-of-a")
    async def two_of_a(ctx: Context, _: None) -> list[str]:
        asked = [ctx.call(s, Reserve(str(s)), step=f"{s}{n}") for s in (A, B) for n in (1, 2)]
        found: list[str] = await ctx.at_least(4, *asked)
        return found

    orders = set()
    for seed in range(40):
        test = SagaTest(two_of_a, services=[A, B, C], mode="reorder", seed=seed)
        found = test.start(two_of_a)
        found.signal("x")  # a request on the way at the same time
        test.run()
        order = found.done
        assert order.index("a1") < order.index("a2"), f"seed {seed}"
        assert order.index("b1") < order.index("b2"), f"seed {seed}"
        orders.add(tuple(order))
    assert len(orders) > 3


def test_a_seed_is_a_run() -> None:
    """The same seed gives the same order; without one a run has one of its own, and names it."""

    def order(seed: int | None) -> tuple[str, list[str]]:
        test = SagaTest(APP, mode="reorder", seed=seed)
        sagas = [test.start(counts_on_an_order, f"o{n}") for n in range(5)]
        test.run()
        return test.described, [found.result for found in sagas]

    assert order(5) == order(5)
    described, found = order(None)
    seed = int(described.removeprefix("mode reorder, seed "))
    assert order(seed) == (described, found)


def test_a_crash_restores_from_what_was_written_alone() -> None:
    """After each commit another partition goes on, with plans, timers and kept signals as the topic has them."""
    test = SagaTest(APP, mode="crash-at-every-commit")
    before = {id(test._engine._partition)}
    found = test.start(adds_two, saga_id="s")
    found.signal("n", 1)
    test.run()
    before.add(id(test._engine._partition))
    found.pause()
    test.run()
    found.signal("n", 2)
    test.run()
    found.resume()
    test.run()

    found.assert_completed(3)
    assert test._engine._partition.live == 0


def test_modes_do_to_a_saga_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often the program is made for a saga of three inputs: once, or again for each."""
    made: list[str] = []

    @saga("counted")
    async def counted(ctx: Context, _: None) -> None:
        made.append("")
        await ctx.call(A, Reserve("1"))
        await ctx.call(B, Reserve("2"))
        await ctx.receive("end")

    def programs(mode: str) -> int:
        made.clear()
        test = SagaTest(counted, services=[A, B, C], mode=mode, double_run=False)
        test.on(Reserve, done())
        found = test.start(counted)
        test.run()
        found.signal("end")
        test.run()
        found.assert_completed()
        return len(made)

    assert {mode: programs(mode) for mode in MODES} == {
        "cached": 1,
        "always-replay": 4,  # for the start, two replies and the signal
        "evict-after-every-step": 4,
        "crash-at-every-commit": 8,  # each of them twice
        "duplicate-every-message": 1,
        "reorder": 1,
    }
