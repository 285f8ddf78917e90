"""`kompensate worker`: run an application's sagas until told to stop."""

import click

from kompensate.orchestrator.cli.process import process_options
from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.main import Worker
from kompensate.orchestrator.settings import Settings


@click.command()
@process_options
def worker(application: Application, settings: Settings, health_port: int | None) -> None:
    """Run the sagas of an application. Start as many workers as it has partitions, at most.

    SIGTERM and Ctrl-C finish the batch in hand, commit it and leave the group.

    \b
    Example:
      kompensate worker --app shop.sagas:app --bootstrap localhost:9092 --health 8080
    """
    Worker(application, settings, health_port=health_port).run()
