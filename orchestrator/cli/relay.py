"""`kompensate relay`: carries outboxes to Kafka, and looks at what that rests on."""

import logging

import click

from kompensate.orchestrator.cli.debezium import debezium
from kompensate.orchestrator.cli.options import dsn_given, kafka_options
from kompensate.orchestrator.cli.outboxes import (
    dsn_option,
    outbox_of,
    publication_option,
    show_findings,
    table_option,
)
from kompensate.orchestrator.cli.output import output_option
from kompensate.outbox.errors import Halted
from kompensate.outbox.main import RelaySettings, diagnose, run_relays


@click.group(invoke_without_command=True)
@click.option(
    "--dsn",
    "dsns",
    multiple=True,
    metavar="[SERVICE=]DSN",
    envvar="KOMPENSATE_DSN",
    callback=dsn_given,
    help="A service's database, as in inventory=postgresql://host/db; may be repeated. Rows that their topic refuses "
    "go to <prefix><service>.dead; without SERVICE= the database's name stands for the service. "
    "Env KOMPENSATE_DSN, by spaces.",
)
@click.option("--slot", help="The replication slot's name, for one --dsn. Default: kompensate_outbox_<database>.")
@click.option(
    "--polling",
    is_flag=True,
    help="Ask the table instead of reading PostgreSQL's log. MySQL, MariaDB and SQLite are polled anyway.",
)
@publication_option
@table_option
@click.option("--resync", is_flag=True, help="First publish every row still in the tables: after a slot was lost.")
@click.option(
    "--health",
    "health_port",
    type=int,
    metavar="PORT",
    help="Serve /live, /ready and, for Prometheus, /metrics on 127.0.0.1:PORT.",
)
@kafka_options
@click.pass_context
def relay(
    context: click.Context,
    dsns: tuple[str, ...],
    slot: str | None,
    publication: str,
    table: str,
    polling: bool,
    resync: bool,
    health_port: int | None,
    bootstrap: str,
    prefix: str,
    kafka: dict[str, str],
) -> None:
    """Carry committed outbox rows to Kafka until SIGTERM or Ctrl-C; then wait for what is under way and leave.

    One thread and one slot a database. A second relay of the same database stands by, and takes over when
    the first one goes.

    Example: kompensate relay --dsn inventory=postgresql://localhost/inventory --bootstrap localhost:9092
    """
    if context.invoked_subcommand is not None:
        return
    if not dsns:
        raise click.UsageError("which database? Give --dsn [SERVICE=]DSN, once for each (or set KOMPENSATE_DSN)")
    if slot is not None and len(dsns) > 1:
        raise click.UsageError("--slot: expected one --dsn with it, since every database needs a slot of its own")
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = [
            RelaySettings(
                dsn,
                bootstrap,
                service=service,
                prefix=prefix,
                slot=slot,
                publication=publication,
                table=table,
                polling=polling,
                kafka=kafka,
            )
            for service, dsn in map(outbox_of, dsns)
        ]
        run_relays(settings, resync=resync, health_port=health_port)
    except (Halted, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


@relay.command()
@dsn_option
@click.option("--slot", help="The replication slot's name. Default: kompensate_outbox_<database>.")
@publication_option
@table_option
@kafka_options
@output_option("table", "json")
def doctor(
    dsns: tuple[str, ...],
    slot: str | None,
    publication: str,
    table: str,
    bootstrap: str,
    prefix: str,
    kafka: dict[str, str],
    output: str,
) -> None:
    """Look at all that a relay rests on, and say what to mend. Nothing is changed.

    Server, role, outbox, publication, slot, other slots that keep the log, topics. Exit code 1 where something is
    wrong; an advice alone is none.

    Example: kompensate relay doctor --dsn inventory=postgresql://localhost/inventory --bootstrap localhost:9092
    """
    kinds = {"prefix": prefix, "slot": slot, "publication": publication, "table": table, "kafka": kafka}
    try:
        found = {
            one.database: diagnose(one)
            for service, dsn in map(outbox_of, dsns)
            for one in [RelaySettings(dsn, bootstrap, service=service, **kinds)]  # type: ignore[arg-type]  # by name
        }
    except (Halted, ValueError) as error:
        raise click.ClickException(str(error)) from error
    show_findings(found, output)


relay.add_command(debezium)
