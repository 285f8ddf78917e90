"""`kompensate participant`: runs a service's handlers until it is told to stop."""

import functools
import logging
from typing import Any

import click
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from kompensate.orchestrator.cli.exits import UNREACHABLE, leave
from kompensate.orchestrator.cli.options import Command, dsn_given, kafka_options, load_object
from kompensate.outbox.tables import MissingTables
from kompensate.participants import Participant
from kompensate.participants.kafka import CannotStart, KafkaStopped, Unreachable
from kompensate.participants.main import serve
from kompensate.participants.settings import Settings


@click.command()
@click.argument("target", metavar="MODULE:OBJECT")
@click.option(
    "--dsn",
    required=True,
    envvar="KOMPENSATE_DSN",
    callback=dsn_given,
    help="The service's database: postgresql://… Env KOMPENSATE_DSN.",
)
@kafka_options
@click.option("--group-max", default=Settings().group_max, show_default=True, help="Commands in one transaction.")
@click.option("--outbox-days", default=Settings().outbox_days, show_default=True, help="Days that sent rows are kept.")
@click.option("--inbox-days", default=Settings().inbox_days, show_default=True, help="Days that commands are known.")
@click.option("--create-tables", is_flag=True, help="Make outbox and inbox where they are absent (development).")
@click.option("--app-dir", default=".", show_default=True, help="Where MODULE is looked for first.")
def participant(
    target: str,
    dsn: str,
    bootstrap: str,
    prefix: str,
    group_max: int,
    outbox_days: int,
    inbox_days: int,
    create_tables: bool,
    kafka: dict[str, str],
    app_dir: str,
) -> None:
    """Run the participant OBJECT of MODULE until SIGTERM or Ctrl-C; then finish what is in hand and leave.

    Example: kompensate participant shop.inventory:inventory --dsn postgresql://localhost/inventory
    --bootstrap localhost:9092
    """
    found = load(target, app_dir)
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = Settings(group_max=group_max, outbox_days=outbox_days, inbox_days=inbox_days)
        serve(found, dsn, bootstrap, prefix=prefix, kafka=kafka, settings=settings, create=create_tables)
    except Unreachable as error:
        leave(UNREACHABLE, f"Error: {error}")
    except DBAPIError as error:
        # The driver's words alone: SQLAlchemy adds the statement and an address for people who write it.
        words = " ".join(str(error.orig).split())
        raise click.ClickException(
            f"database of {found.name}: expected it to answer and serve, got: {words}"
        ) from error
    except MissingTables as error:
        raise click.ClickException(f"{error}; or start this once with --create-tables") from error
    except (CannotStart, KafkaStopped, SQLAlchemyError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def load(target: str, app_dir: str) -> Participant:
    """The participant that MODULE:OBJECT names. Raises click.UsageError."""
    found = load_object(target, app_dir, "shop.inventory:inventory")
    if not isinstance(found, Participant):
        raise click.UsageError(f"{target}: expected a Participant, got {type(found).__name__}")
    return found


def participants_option(command: Command) -> Command:
    """Give the command `participants: list[Participant]`; it needs `application_option` before it, for --app-dir."""

    @functools.wraps(command)
    def with_participants(*args: Any, participants: tuple[str, ...], **others: Any) -> Any:
        return command(*args, participants=[load(target, ".") for target in participants], **others)

    option = click.option(
        "--participant",
        "participants",
        multiple=True,
        metavar="MODULE:OBJECT",
        help="A service, for the events that it publishes and subscribes to; if it is none of the application's, for "
        "its commands and dead letters too. May be repeated.",
    )
    return option(with_participants)  # type: ignore[return-value]  # functools.wraps keeps its signature
