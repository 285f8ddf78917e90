"""`kompensate conform`: tries a running participant, in whatever language, with every case of the barrier."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TextIO

import click

from kompensate.orchestrator.cli.asking import quiet
from kompensate.orchestrator.cli.exits import ERROR, leave
from kompensate.orchestrator.cli.options import kafka_options
from kompensate.orchestrator.cli.output import output_option, print_json, say
from kompensate.orchestrator.conformance.cases import CASES
from kompensate.orchestrator.conformance.kafka import KafkaWire
from kompensate.orchestrator.conformance.kit import Result, run
from kompensate.orchestrator.conformance.subject import BadSubject, CannotCount, Subject, read

CODES = (
    "Exit codes: 0 every case passed, 1 one failed or the kit could not go on, 2 wrong usage, 5 Kafka does not answer."
)
PATIENCE_SECONDS = 20.0


@click.command(epilog=CODES)
@click.argument("samples", type=click.File(encoding="utf-8"), metavar="SAMPLES.json")
@click.option("--service", required=True, metavar="NAME", help="The service, as its topics have it.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=PATIENCE_SECONDS,
    show_default=True,
    help="Seconds that an answer may take, from command topic to reply topic.",
)
@output_option("table", "json")
@kafka_options
def conform(
    samples: TextIO, service: str, timeout: float, output: str, bootstrap: str, prefix: str, kafka: dict[str, str]
) -> None:
    """Send a running participant commands in every order that an orchestrator and Kafka may, and judge its answers.

    SAMPLES.json has a command of the service that is done, one that is refused, and what compensates the first; see
    docs/guides/wire.md. The participant and its relay must be running. Commands go to its topic NAME.commands, and
    their effects are real: use a database for tests. Replies come to conform.replies.NAME, which is made if need be.

    \b
    Example:
      kompensate conform payments.json --service payments --bootstrap localhost:9092
    """
    try:
        subject = read(service, samples.read())
    except BadSubject as error:
        raise click.UsageError(f"{samples.name}: {error}") from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    quiet()
    try:
        with KafkaWire(bootstrap, service, prefix, kafka) as wire:
            results = list(_shown(run(wire, subject, prefix, timeout), output))
    except CannotCount as error:
        leave(ERROR, f"Error: {error}")
    if output == "json":
        print_json([asdict(result) for result in results])
    _say_what_came(results, subject)
    if any(result.result == "fail" for result in results):
        raise SystemExit(ERROR)


def _shown(results: Iterator[Result], output: str) -> Iterator[Result]:
    """Print each as it comes, for people."""
    for result in results:
        if output == "table":
            click.echo(f"{result.result:8} {result.case:28} {result.promise}")
            for finding in result.findings:
                click.echo(f"         {finding.what}: expected {finding.expected}, got {finding.got}")
        yield result


def _say_what_came(results: list[Result], subject: Subject) -> None:
    counts = {name: sum(result.result == name for result in results) for name in ("pass", "fail", "skipped")}
    say(f"passed: {counts['pass']}, failed: {counts['fail']}, skipped: {counts['skipped']}")
    if lacking := sorted({kind for result in results for kind in result.lacking}):
        say(f"not tried, for want of samples: {', '.join(lacking)}")
    if not subject.counter:
        say("effects were not counted (no `effects` in the file): who acts twice and answers alike is not found out")
    if len(results) < len(CASES):
        say("the first command was not answered, so the rest was not tried: do the participant and its relay run?")
