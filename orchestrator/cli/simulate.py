"""`kompensate simulate`: an application's sagas under every fault we know of, in memory, by a seed."""

import importlib
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from kompensate.orchestrator.cli import participant
from kompensate.orchestrator.cli.history import cells, history_table
from kompensate.orchestrator.cli.options import load_application
from kompensate.orchestrator.cli.output import print_table, say
from kompensate.simulator.application import NoValue, Simulated
from kompensate.simulator.campaign import Campaign, Tally, add_plan, plans_from, read_plans, replace_plan, run_plans
from kompensate.simulator.plan import FAULTS, Plan
from kompensate.simulator.run import Outcome
from kompensate.simulator.run import simulate as simulate_plan
from kompensate.simulator.shrinking import ATTEMPTS, shrink

SHRINK_SECONDS = 600.0
"""Longer nobody waits for a smaller plan."""
HELD_MAX = 10
MADE = ("input", "reply", "signal", "event")

EPILOG = "Exit codes: 0 nothing broke, 1 something did (its plan is printed and kept), 2 wrong usage."


@click.command(epilog=EPILOG)
@click.argument("app", metavar="MODULE:OBJECT")
@click.option("--app-dir", default=".", show_default=True, help="Where MODULE is looked for first.")
@click.option(
    "--participant",
    "participants",
    multiple=True,
    metavar="MODULE:OBJECT",
    help="Play what it declares, too: what it subscribes to and publishes. May be repeated.",
)
@click.option("--minutes", type=click.FloatRange(min=0), default=1.0, show_default=True, help="How long to run seeds.")
@click.option("--seed", type=int, help="The first seed. Default: by chance; it is printed.")
@click.option("--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Runs at the same time.")
@click.option("--sagas", type=click.IntRange(min=1), default=Plan(0).sagas, show_default=True, help="Sagas in a run.")
@click.option(
    "--faults",
    default=",".join(FAULTS),
    help="Kinds of faults, with commas between; none for an empty text. Default: all of them.",
)
@click.option("--plan", "plan_text", metavar="JSON", help="Run just this plan, once, as a failure printed it.")
@click.option(
    "--regressions",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("simulations.jsonl"),
    show_default=True,
    help="Plans that failed before: they are run first, and new ones are added.",
)
def simulate(
    app: str,
    participants: tuple[str, ...],
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

    Workers, intakes, participants and relays are the real ones; log, databases and time are in memory. Services
    are played by participants that do, refuse, fail or take long as chance has it; handlers are not called. After
    every commit the invariants are checked. The same seed does the same again.

    \b
    Examples:
      kompensate simulate shop:app --minutes 10 --processes 4
      kompensate simulate shop:app --seed 17 --minutes 0
      kompensate simulate shop:app --participant shop.mails:mails
    """
    load = partial(simulated, app, app_dir, participants)
    found = load()
    try:
        one = None if plan_text is None else Plan.from_json(plan_text)
        known = read_plans(regressions)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    plan = Plan(random.randrange(10**9) if seed is None else seed, sagas=sagas, faults=_kinds(faults))  # noqa: S311 not a secret
    try:
        if one is not None:
            _run_known([one], found)
            return
        if known:
            say(f"{regressions}: {len(known)} plans that failed before")
            _run_known(known, found)
        say(f"from seed {plan.seed} on")
        if minutes == 0:
            tally = run_plans(plans_from(plan), found, lambda: True)
            if tally.failure is not None:
                _keep(tally.failure, regressions)
        else:
            tally = Campaign(load, plan, minutes * 60, processes).run(_progress, lambda new: _keep(new, regressions))
        _report(tally)
        if tally.failure is not None:
            _make_small(tally.failure, found, regressions)
            raise SystemExit(1)
    except NoValue as error:
        raise click.UsageError(str(error)) from error


def _run_known(plans: list[Plan], found: Simulated) -> None:
    """Plans as they are: where one breaks, that was known."""
    tally = run_plans(iter(plans), found, lambda: False)
    if tally.failure is not None:
        _announce(tally.failure)
    _report(tally)
    if tally.failure is not None:
        raise SystemExit(1)


def _keep(failure: Outcome, regressions: Path) -> None:
    """Said and kept before anything else is done about it."""
    add_plan(regressions, failure.plan)
    _announce(failure)
    click.echo(f"added to {regressions}")


def simulated(app: str, app_dir: str, participants: Sequence[str] = ()) -> Simulated:
    """The application that MODULE:OBJECT names, with what its module says about inputs, replies, signals and events."""
    application = load_application(app, app_dir)
    module: Any = importlib.import_module(app.partition(":")[0])
    makers = {f"make_{what}": getattr(module, f"simulated_{what}", None) for what in MADE}
    known = tuple(participant.load(one, app_dir) for one in participants)
    return Simulated(application, participants=known, **makers)


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


def _report(tally: Tally) -> None:
    click.echo(f"runs {tally.runs}, sagas {tally.sagas}, events {tally.events}, transactions {tally.transactions}")
    click.echo("faults: " + (", ".join(f"{kind} {count}" for kind, count in tally.faults.most_common()) or "none"))
    click.echo("ends: " + (", ".join(f"{end} {count}" for end, count in tally.ends.most_common()) or "none"))
    if tally.held:
        click.echo(f"held: {tally.held.total()} sagas in all")
    for reason, count in tally.held.most_common(HELD_MAX):
        click.echo(f"held: {count} sagas: {reason}")
    if len(tally.held) > HELD_MAX:
        rest = tally.held.most_common()[HELD_MAX:]
        click.echo(f"held: {sum(count for _reason, count in rest)} sagas for {len(rest)} other reasons")


def _announce(failure: Outcome) -> None:
    """At once, for what comes after it may take long."""
    click.echo(f"broken: {failure.violation}")
    click.echo(f"seed {failure.plan.seed}, to run it again:")
    click.echo(f"  kompensate simulate … --plan '{failure.plan.to_json()}'")
    for saga_id, lines in failure.histories.items():
        click.echo(f"history of {saga_id}:")
        events = history_table()
        for line in lines:
            events.add_row(*cells(line))
        print_table(events)


def _make_small(failure: Outcome, found: Simulated, regressions: Path) -> None:
    say(
        f"making it smaller: at most {ATTEMPTS} runs, for {SHRINK_SECONDS / 60:.0f} minutes at most; "
        "Ctrl-C keeps the smallest so far"
    )
    small = shrink(failure, lambda plan: simulate_plan(plan, found), seconds=SHRINK_SECONDS)
    if small is failure:
        click.echo("no smaller plan was found")
        return
    replace_plan(regressions, failure.plan, small.plan)
    click.echo(f"smaller, and in {regressions} instead:")
    _announce(small)
