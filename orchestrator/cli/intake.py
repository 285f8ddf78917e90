"""`kompensate intake`: start and signal sagas from existing topics, as the application's mappings say."""

from pathlib import Path

import click

from kompensate.orchestrator.cli.options import application_option, kafka_options
from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.intake.main import IntakeProcess
from kompensate.orchestrator.kafka.sources import Begin
from kompensate.orchestrator.logs import set_up_logs
from kompensate.orchestrator.settings import Settings

DEFAULTS = Settings()


@click.command()
@application_option
@kafka_options
@click.option(
    "--begin",
    type=click.Choice(["earliest", "latest"]),
    help="Where a topic is begun that was never read: with every record that is there, or with what comes from now on. "
    "Needed once for each; it changes nothing for those that were.",
)
@click.option("--slot", envvar="KOMPENSATE_SLOT", help="As a worker's: its place among the application's intakes.")
@click.option(
    "--slot-directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where lock files of slots are kept. Default: a directory for temporary files.",
)
@click.option(
    "--group-protocol",
    type=click.Choice(["classic", "consumer"]),
    default=DEFAULTS.group_protocol,
    show_default=True,
    help="Kafka's rebalance protocol; consumer is KIP-848.",
)
@click.option(
    "--session-timeout",
    type=click.FloatRange(min=1),
    default=DEFAULTS.session_timeout_seconds,
    show_default=True,
    metavar="SECONDS",
    help="A dead intake's partitions are given away after that (classic; KIP-848: the broker's setting).",
)
@click.option(
    "--transaction-timeout",
    type=click.FloatRange(min=1),
    default=DEFAULTS.transaction_timeout_seconds,
    show_default=True,
    metavar="SECONDS",
    help="The broker ends a transaction that nobody ends after that.",
)
@click.option(
    "--batch-max",
    type=click.IntRange(min=1),
    default=DEFAULTS.batch_records_max,
    show_default=True,
    help="Source records in one transaction.",
)
@click.option("--health", "health_port", type=int, metavar="PORT", help="Serve /live and /ready on 127.0.0.1:PORT.")
@click.option("--log-format", type=click.Choice(["plain", "json"]), default="plain", show_default=True)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def intake(
    application: Application,
    bootstrap: str,
    prefix: str,
    kafka: dict[str, str],
    begin: Begin | None,
    slot: str | None,
    slot_directory: Path | None,
    group_protocol: str,
    session_timeout: float,
    transaction_timeout: float,
    batch_max: int,
    health_port: int | None,
    log_format: str,
    log_level: str,
) -> None:
    """Start and signal sagas from existing topics, by the mappings of Application(…, intake=[…]).

    Several share the topics' partitions. SIGTERM and Ctrl-C finish the batch in hand, commit it and leave the group.

    \b
    Example:
      kompensate intake --app shop.sagas:app --bootstrap localhost:9092 --begin latest
    """
    set_up_logs(log_format, log_level)
    settings = Settings(
        bootstrap=bootstrap,
        prefix=prefix,
        kafka=kafka,
        slot=slot,
        slot_directory=slot_directory,
        group_protocol=group_protocol,
        session_timeout_seconds=session_timeout,
        heartbeat_seconds=min(DEFAULTS.heartbeat_seconds, session_timeout / 3),
        transaction_timeout_seconds=transaction_timeout,
        batch_records_max=batch_max,
    )
    IntakeProcess(application, settings, begin=begin, health_port=health_port).run()
