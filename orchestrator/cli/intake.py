"""`kompensate intake`: start and signal sagas from existing topics, as the application's mappings say."""

import click

from kompensate.orchestrator.cli.process import process_options
from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.intake.main import IntakeProcess
from kompensate.orchestrator.kafka.sources import Begin
from kompensate.orchestrator.settings import Settings


@click.command()
@process_options
@click.option(
    "--begin",
    type=click.Choice(["earliest", "latest"]),
    help="Where a topic is begun that was never read: with every record that is there, or with what comes from now on. "
    "Needed once for each; it changes nothing for those that were.",
)
def intake(application: Application, settings: Settings, health_port: int | None, begin: Begin | None) -> None:
    """Start and signal sagas from existing topics, by the mappings of Application(…, intake=[…]).

    Several share the topics' partitions. SIGTERM and Ctrl-C finish the batch in hand, commit it and leave the group.

    \b
    Example:
      kompensate intake --app shop.sagas:app --bootstrap localhost:9092 --begin latest
    """
    IntakeProcess(application, settings, begin=begin, health_port=health_port).run()
