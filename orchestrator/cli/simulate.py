"""`kompensate simulate`: an application's sagas under every fault we know of, in memory, by a seed."""

import importlib
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from kompensate.orchestrator.cli.options import load_application
from kompensate.orchestrator.cli.output import say
from kompensate.simulator.application import NoValue, Simulated
from kompensate.simulator.campaign import Campaign, Tally, add_plan, plans_from, read_plans, run_plans
from kompensate.simulator.plan import FAULTS, Plan

EPILOG = "Exit codes: 0 nothing broke, 1 something did (its plan is printed and kept), 2 wrong usage."


@click.command(epilog=EPILOG)
@click.argument("app", metavar="MODULE:OBJECT")
@click.option("--app-dir", default=".", show_default=True, help="Where MODULE is looked for first.")
@click.option("--minutes", type=click.FloatRange(min=0), default=1.0, show_default=True, help="How long to run seeds.")
@click.option("--seed", type=int, help="The first seed. Default: by chance; it is printed.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at the same time.")
@click.option("--sagas", type=click.IntRange(min=1), default=Plan(0).sagas, show_default=True, help="Sagas in a run.")
@click.option(
    "--faults",
    default=",".join(FAULTS),
    help="Kinds of faults, with commas between; none for an empty text. Default: all of them.",
)
@click.option("--plan", "plan_text", metavar="JSON", help="Run just this plan, as a failure printed it.")
@click.option(
    "--regressions",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("simulations.jsonl"),
    show_default=True,
    help="Plans that failed before: they are run first, and new ones are added.",
)
def simulate(
    app: str,
    app_dir: str,
    minutes: float,
    seed: int | None,
    processes: int,
    sagas: int,
    faults: str,
    plan_text: str | None,
    regressions: Path,
) -> None:
    """Run an application's sagas in a simulated system that fails all the time.

    Workers, participants and relays are the real ones; log, databases and time are in memory. Services are
    played by participants that do, refuse, fail or take long as chance has it. After every commit the
    invariants are checked. The same seed does the same again.

    \b
    Examples:
      kompensate simulate shop:app --minutes 10 --processes 4
      kompensate simulate shop:app --seed 17 --minutes 0
    """
    load = partial(simulated, app, app_dir)
    found = load()
    try:
        one = None if plan_text is None else Plan.from_json(plan_text)
        known = read_plans(regressions)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    plan = Plan(random.randrange(10**9) if seed is None else seed, sagas=sagas, faults=_kinds(faults))  # noqa: S311 not a secret
    try:
        if one is not None:
            _report(run_plans(iter([one]), found, lambda: True), regressions)
            return
        if known:
            say(f"{regressions}: {len(known)} plans that failed before")
            _report(run_plans(iter(known), found, lambda: False), regressions)
        say(f"from seed {plan.seed} on")
        if minutes == 0:
            _report(run_plans(plans_from(plan), found, lambda: True), regressions)
        else:
            _report(Campaign(load, plan, minutes * 60, processes).run(_progress), regressions)
    except NoValue as error:
        raise click.UsageError(str(error)) from error


def simulated(app: str, app_dir: str) -> Simulated:
    """The application that MODULE:OBJECT names, with what its module says about inputs, replies and signals."""
    application = load_application(app, app_dir)
    module: Any = importlib.import_module(app.partition(":")[0])
    names = ("make_input", "make_reply", "make_signal")
    return Simulated(application, **{name: getattr(module, f"simulated_{name[5:]}", None) for name in names})


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(filter(None, text.split(",")))
    unknown = [kind for kind in kinds if kind not in FAULTS]
    if unknown:
        raise click.UsageError(f"--faults: expected some of {', '.join(FAULTS)}, got {', '.join(unknown)}")
    return kinds


def _progress(tally: Tally, seconds: float) -> None:
    say(
        f"{seconds:.0f} s: {tally.runs} runs, {tally.sagas} sagas, {tally.events} events, "
        f"{sum(tally.faults.values())} faults, {tally.events / max(seconds, 0.001) * 3600:,.0f} events/hour"
    )


def _report(tally: Tally, regressions: Path) -> None:
    click.echo(f"runs {tally.runs}, sagas {tally.sagas}, events {tally.events}, transactions {tally.transactions}")
    click.echo("faults: " + (", ".join(f"{kind} {count}" for kind, count in tally.faults.most_common()) or "none"))
    click.echo("ends: " + (", ".join(f"{end} {count}" for end, count in tally.ends.most_common()) or "none"))
    for reason, count in tally.held.most_common(10):
        click.echo(f"held: {count} sagas: {reason}")
    if tally.failure is None or tally.original is None:
        return
    add_plan(regressions, tally.failure)
    click.echo(f"broken: {tally.text}")
    click.echo(f"seed {tally.original.seed}; shrunk and added to {regressions}, to run it again:")
    click.echo(f"  kompensate simulate … --plan '{replace(tally.failure).to_json()}'")
    raise SystemExit(1)
