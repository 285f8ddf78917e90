"""`kompensate tables`: who may do what to a service's tables, and their partitions looked after."""

import logging
import threading

import click
from sqlalchemy.exc import SQLAlchemyError

from kompensate.orchestrator.cli.options import dsn_given
from kompensate.outbox.keeping import Housekeeping
from kompensate.outbox.retention import Retention
from kompensate.outbox.roles import roles_sql
from kompensate.participants.database import connect
from kompensate.participants.settings import Settings
from kompensate.schemas.signals import when_told

log = logging.getLogger("kompensate.tables")


@click.group()
def tables() -> None:
    """A service's tables: roles with the least rights, and partitions made and dropped."""


@tables.command()
@click.option("--owner", required=True, help="Who makes tables: migrations, and `kompensate tables keep`.")
@click.option("--app", required=True, help="The service itself.")
@click.option("--relay", required=True, help="What carries its outbox to Kafka.")
@click.option("--operator", help="Who uses `kompensate locks` and `kompensate outside`; without it there is none.")
@click.option("--schema", default="public", show_default=True, help="Where the tables are.")
def roles(owner: str, app: str, relay: str, operator: str | None, schema: str) -> None:
    """Print SQL that makes a service's roles and gives each what it needs, and no more.

    Run it after kompensate/outbox/schema.sql, and again after a migration that makes tables.

    Example: kompensate tables roles --owner shop_owner --app shop --relay shop_relay | psql "$DSN"
    """
    try:
        click.echo(roles_sql(owner, app, relay, schema, operator=operator), nl=False)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@tables.command()
@click.option(
    "--dsn", required=True, envvar="KOMPENSATE_DSN", callback=dsn_given, help="As the owner. Env KOMPENSATE_DSN."
)
@click.option("--outbox-days", default=Settings().outbox_days, show_default=True, help="Days that sent rows are kept.")
@click.option("--inbox-days", default=Settings().inbox_days, show_default=True, help="Days that commands are known.")
def keep(dsn: str, outbox_days: int, inbox_days: int) -> None:
    """Make the outbox's partitions of the days to come and drop those that are sent and old, until SIGTERM or Ctrl-C.

    Where participants own their tables they do it themselves; where they do not, run this once a database.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    limits, stop = Settings(), threading.Event()
    try:
        engine = connect(dsn, "tables keep")
        house = Housekeeping(engine, Retention(outbox_days, inbox_days))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    with when_told(stop.set):
        while not stop.is_set():
            pause = limits.chore_seconds
            try:
                if house.keep():
                    pause = limits.chore_again_seconds
            except SQLAlchemyError as error:
                log.error("housekeeping failed, the next try is in %g s: %s", pause, error)
            stop.wait(pause)
    engine.dispose()
