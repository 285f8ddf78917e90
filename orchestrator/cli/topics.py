"""`kompensate topics`: make, check or print the topics of an application."""

import click

from kompensate.orchestrator.cli.acl import acl
from kompensate.orchestrator.cli.options import application_option, kafka_options
from kompensate.orchestrator.cli.participant import participants_option
from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.topics import TopicAdmin, as_commands, as_json, group_of, plan
from kompensate.participants import Participant


@click.group()
def topics() -> None:
    """Make, check or print the topics of an application, and who may do what to them."""


topics.add_command(acl)


@topics.command()
@application_option
@participants_option
@kafka_options
@click.option("--alter", is_flag=True, help="Also set settings that differ. Partitions and replicas are never changed.")
def apply(
    application: Application,
    participants: list[Participant],
    bootstrap: str,
    prefix: str,
    kafka: dict[str, str],
    alter: bool,
) -> None:
    """Make the topics that are missing, and set the group's first offsets. Exit code 1 where others differ."""
    admin = TopicAdmin(application, Settings(bootstrap=bootstrap, prefix=prefix, kafka=kafka), participants)
    for line in admin.apply(alter=alter):
        click.echo(line)
    _report(admin)


@topics.command()
@application_option
@participants_option
@kafka_options
def check(
    application: Application, participants: list[Participant], bootstrap: str, prefix: str, kafka: dict[str, str]
) -> None:
    """Print what is missing or differs, with expected and got. Exit code 1 where anything does."""
    _report(TopicAdmin(application, Settings(bootstrap=bootstrap, prefix=prefix, kafka=kafka), participants))


@topics.command()
@application_option
@participants_option
@kafka_options
@click.option("-o", "output", type=click.Choice(["sh", "json"]), default="sh", show_default=True)
@click.option("--brokers", type=click.IntRange(min=1), help="For a cluster of so many brokers. Default: ask it.")
def export(
    application: Application,
    participants: list[Participant],
    bootstrap: str,
    prefix: str,
    kafka: dict[str, str],
    output: str,
    brokers: int | None,
) -> None:
    """Print the topics as commands of Kafka's own tools, or as JSON, for whoever may make them."""
    settings = Settings(bootstrap=bootstrap, prefix=prefix, kafka=kafka)
    plans = plan(application, settings, brokers or TopicAdmin(application, settings).brokers(), participants)
    click.echo(as_json(plans) if output == "json" else as_commands(plans, group_of(application, settings)))


def _report(admin: TopicAdmin) -> None:
    drifts = admin.check()
    for drift in drifts:
        click.echo(f"{'refused' if drift.needed else 'advised'}: {drift}", err=True)
    if drifts:
        raise SystemExit(1)
    click.echo("topics are as they should be")
