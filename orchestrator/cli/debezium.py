"""`kompensate relay debezium`: has Debezium carry outboxes as the built-in relay does: printed, registered, checked."""

import json
from collections.abc import Callable
from functools import wraps
from typing import TypeAlias

import click

from kompensate.orchestrator.cli.options import dsn_given
from kompensate.orchestrator.cli.outboxes import (
    DSN_HELP,
    dsn_option,
    outbox_of,
    publication_option,
    show_findings,
    table_option,
)
from kompensate.orchestrator.cli.output import output_option
from kompensate.outbox import registering
from kompensate.outbox.debezium import connector
from kompensate.outbox.errors import Halted
from kompensate.outbox.registering import DebeziumSettings
from kompensate.outbox.setup import Finding

_slot = click.option("--slot", help="The replication slot's name. Default: kompensate_debezium_<database>.")
_connect = click.option(
    "--connect",
    required=True,
    metavar="URL",
    envvar="KOMPENSATE_CONNECT",
    help="Kafka Connect's REST interface, as in http://connect:8083. Env KOMPENSATE_CONNECT.",
)


@click.group(invoke_without_command=True)
@click.option(
    "--dsn", "dsns", multiple=True, metavar="[SERVICE=]DSN", envvar="KOMPENSATE_DSN", callback=dsn_given, help=DSN_HELP
)
@_slot
@publication_option
@table_option
@click.pass_context
def debezium(context: click.Context, dsns: tuple[str, ...], slot: str | None, publication: str, table: str) -> None:
    """Print Debezium's connector configuration for an outbox, as Kafka Connect's REST interface takes it.

    It has the database's password in it. `register` gives it to Kafka Connect, `check` looks how it does.

    Example: kompensate relay debezium --dsn inventory=postgresql://localhost/inventory
    """
    if context.invoked_subcommand is not None:
        return
    if not dsns:
        raise click.UsageError("which database? Give --dsn [SERVICE=]DSN (or set KOMPENSATE_DSN)")
    for service, dsn in map(outbox_of, dsns):
        try:
            found = connector(dsn, name=service, slot=slot, publication=publication, table=table)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        click.echo(json.dumps(found, indent=2))


Found: TypeAlias = dict[str, list[Finding]]
"""What was found, by the connector's name."""


def _of_outboxes(look: Callable[[list[DebeziumSettings]], Found]) -> Callable[..., None]:
    """Options for the outboxes that `look` is given; what it finds is shown."""

    @wraps(look)
    def command(
        dsns: tuple[str, ...], connect: str, slot: str | None, publication: str, table: str, output: str
    ) -> None:
        if slot is not None and len(dsns) > 1:
            raise click.UsageError("--slot: expected one --dsn with it, since every database needs a slot of its own")
        try:
            outboxes = [
                DebeziumSettings(dsn, connect, service=service, slot=slot, publication=publication, table=table)
                for service, dsn in map(outbox_of, dsns)
            ]
            found = look(outboxes)
        except (Halted, ValueError) as error:
            raise click.ClickException(str(error)) from error
        show_findings(found, output)

    shown = output_option("table", "json")
    return dsn_option(_connect(_slot(publication_option(table_option(shown(command))))))


@debezium.command()
@_of_outboxes
def register(outboxes: list[DebeziumSettings]) -> Found:
    """Give Kafka Connect a connector for each outbox, or its configuration again, and wait until it reads.

    The connector is called like the service. First the database and the connector's own validation are asked: where
    something is wrong, nothing is registered. Exit code 1 then, or if it does not come to work.

    Example: kompensate relay debezium register --dsn inventory=postgresql://db/inventory --connect http://connect:8083
    """
    return {one.name: registering.register(one) for one in outboxes}


@debezium.command()
@_of_outboxes
def check(outboxes: list[DebeziumSettings]) -> Found:
    """Look at Kafka Connect, the connector, its tasks, its position and its slot. Nothing is changed.

    Exit code 1 where something is wrong; an advice alone is none.

    Example: kompensate relay debezium check --dsn inventory=postgresql://db/inventory --connect http://connect:8083
    """
    return {one.name: registering.check(one) for one in outboxes}
