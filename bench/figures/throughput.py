"""raw and engine: steps a second with loopback participants, the bare loop's and the worker's, taken in turn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.endings import endings, sagas_per_second
from bench.figure import Figure
from bench.ground import Ground
from bench.sagas import STEPS

WINDOW, WINDOWS = 8_000, 6
"""Sagas under way at a time, and how often as many are run."""
ROUNDS = 5
BAR = 0.4
READY_SECONDS = 60.0
RUN_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Round:
    """One run: steps a second; of the loop's thread the CPU a step (µs) and the shares of its time, by phase."""

    rate: float
    phases: Mapping[str, float]
    shares: Mapping[str, float]
    responder: float


def raw(ground: Ground) -> list[Figure]:
    """The bare loop alone."""
    rounds = [bare_round(ground) for _ in range(ROUNDS)]
    rate = median(each.rate for each in rounds)
    note = f"bare loop, median of {ROUNDS}: {_described(rounds)}"
    return [Figure("raw", rate, "steps/s", None, None, note)]


def engine(ground: Ground) -> list[Figure]:
    """The worker, and the bare loop in turn with it."""
    pairs = [(bare_round(ground), engine_round(ground)) for _ in range(ROUNDS)]
    limit = median(bare.rate for bare, _ in pairs)
    ratio = median(engine.rate / bare.rate for bare, engine in pairs)
    rounds = [engine for _, engine in pairs]
    rate = median(each.rate for each in rounds)
    note = f"limit: the bare loop, in turn with it, bar {BAR}; medians of {ROUNDS} pairs: {_described(rounds)}"
    return [Figure("engine", rate, "steps/s", limit, ratio, note)]


def bare_round(ground: Ground) -> Round:
    """One run of the bare loop."""
    return _round(ground, "bench.bare")


def engine_round(ground: Ground) -> Round:
    """One run of a worker."""
    return _round(ground, "bench.engine")


def _round(ground: Ground, loop: str) -> Round:
    window, bootstrap = ground.sized(WINDOW), ground.stack.bootstrap
    sagas = window * WINDOWS
    with ground.topics() as topics:
        common = ("--bootstrap", bootstrap, "--prefix", topics.prefix)
        with ground.child(loop, *common) as running:
            running.until(lambda: bool(running.lines()), f"{loop} to be ready", READY_SECONDS)
            load = ("--sagas", str(sagas), "--window", str(window))
            with ground.child("bench.loopback", *common, *load) as loopback:
                answered = loopback.result(RUN_SECONDS)
                rate = sagas_per_second(endings(bootstrap, topics, sagas), window) * STEPS
            running.stop()
            took = running.result(RUN_SECONDS)
    steps = sagas * STEPS
    phases = {name: cpu / steps * 1e6 for name, cpu in took["phases"].items()}
    shares = {name: wall / sum(took["waits"].values()) for name, wall in took["waits"].items()}
    found = Round(rate, phases, shares, answered["cpu"] / steps * 1e6)
    ground.say(f"{loop}: {_described([found])}")
    return found


def _described(rounds: Sequence[Round]) -> str:
    """Medians in words."""
    rate, responder = median(each.rate for each in rounds), median(each.responder for each in rounds)
    phases = {name: median(each.phases[name] for each in rounds) for name in rounds[0].phases}
    shares = {name: median(each.shares[name] for each in rounds) for name in rounds[0].shares}
    return (
        f"{rate:,.0f} steps/s = {rate / STEPS:,.0f} sagas/s of {STEPS}; CPU of the loop's thread a step "
        f"{sum(phases.values()):.1f} µs ({_listed(phases, '.1f')}), of the responder {responder:.1f}; "
        f"the thread's time by the clock: {_listed(shares, '.0%')}"
    )


def _listed(by_name: Mapping[str, float], form: str) -> str:
    return ", ".join(f"{name} {value:{form}}" for name, value in sorted(by_name.items(), key=lambda i: -i[1]))
