"""`kompensate outside`: a service's outside calls that have no answer yet, and what an operator may say of one."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from kompensate.orchestrator.cli.exits import NOT_FOUND, REFUSED, UNREACHABLE, leave
from kompensate.orchestrator.cli.options import dsn_given
from kompensate.orchestrator.cli.output import output_option, print_json, print_table, say, table
from kompensate.outbox.tables import MissingTables, check_tables
from kompensate.participants.database import connect
from kompensate.participants.outside import operating
from kompensate.participants.outside.breakers import not_closed
from kompensate.participants.outside.operating import NotThere, NotYours, Standing
from kompensate.schemas.messages import timestamp

Command = TypeVar("Command", bound=Callable[..., Any])

EPILOG = (
    "Exit codes: 0 done, 1 error, 2 wrong usage, 3 no such command, 4 its outcome is not unknown, "
    "5 the database does not answer, 130 interrupted."
)

dsn_option = click.option(
    "--dsn",
    required=True,
    envvar="KOMPENSATE_DSN",
    callback=dsn_given,
    help="The service's database: postgresql://… Env KOMPENSATE_DSN.",
)


@click.group(epilog=EPILOG)
def outside() -> None:
    """See a service's outside calls that have no answer yet, and end those of which nobody knows the outcome."""


@outside.command("list", epilog=EPILOG)
@click.option("--unknown", is_flag=True, help="Only those that wait for you.")
@output_option("table", "json")
@dsn_option
def list_calls(unknown: bool, output: str, dsn: str) -> None:
    """List commands that were called, or wait to be, the oldest call first; on standard error breakers that are open.

    Example: kompensate outside list --unknown --dsn postgresql://localhost/payments
    """
    with _transaction(dsn) as connection:
        found = [one for one in operating.standing(connection) if one.kept.status == "unknown" or not unknown]
        for contract, state, since in not_closed(connection):
            say(f"breaker of {contract}: {state}, opened at {timestamp(round(since * 1000))}")
    if output == "json":
        print_json([_json(one) for one in found])
        return
    rows = table(
        "COMMAND", "SERVICE", "TYPE", "SAGA", "STATUS", "CALLS", "QUERIES", "REASON", right=("CALLS", "QUERIES")
    )
    for one in found:
        kept = one.kept
        texts = (kept.command_id, one.service, kept.contract, one.saga_id, kept.status)
        rows.add_row(*texts, str(kept.tries), str(kept.asks), one.reason or "")
    print_table(rows)
    say(f"{len(found)} without an answer, {sum(one.kept.status == 'unknown' for one in found)} of them unknown")


@outside.command(epilog=EPILOG)
@click.argument("command_id")
@dsn_option
def ask(command_id: str, dsn: str) -> None:
    """Have the service ask its reconcile= once more what became of COMMAND_ID.

    Example: kompensate outside ask 6f1c… --dsn postgresql://localhost/payments
    """
    with _transaction(dsn) as connection:
        operating.ask_again(connection, command_id)
    say("the service asks again within a second")


@outside.command(epilog=EPILOG)
@click.argument("command_id")
@click.option("--outcome", type=click.Choice(["done", "refused", "failed"]), required=True, help="What became of it.")
@click.option(
    "--result", metavar="JSON|@FILE", callback=lambda _, __, text: _value(text), help="With done: the result."
)
@click.option("--reason", default="", help="With refused or failed: why.")
@dsn_option
def answer(
    command_id: str, outcome: Literal["done", "refused", "failed"], result: object, reason: str, dsn: str
) -> None:
    """Answer COMMAND_ID, whose outcome is unknown, as you have found it at the provider. The saga goes on with that.

    Example: kompensate outside answer 6f1c… --outcome done --result '{"charge": "ch_7"}' --dsn …
    """
    if outcome != "done" and not reason:
        raise click.UsageError(f"--outcome {outcome}: expected a --reason, got none")
    with _transaction(dsn) as connection:
        operating.answer(connection, command_id, outcome, result if outcome == "done" else reason)
    say(f"answered {outcome}")


def _json(one: Standing) -> dict[str, object]:
    kept = one.kept
    return {
        "command": kept.command_id,
        "service": one.service,
        "type": kept.contract,
        "saga": one.saga_id,
        "state": kept.state,
        "status": kept.status,
        "calls": kept.tries,
        "queries": kept.asks,
        "in_doubt": kept.doubt,
        "called_at": None if kept.called_at is None else timestamp(round(kept.called_at * 1000)),
        "owner": kept.owner,
        "lease": None if one.lease is None else timestamp(round(one.lease * 1000)),
        "progress": None if kept.progress is None else json.loads(kept.progress),
        "reason": one.reason,
    }


def _value(text: str | None) -> object:
    if text is None:
        return None
    try:
        source = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        return json.loads(source)
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"expected JSON or @FILE, got {text!r}: {error}") from error


@contextmanager
def _transaction(dsn: str) -> Iterator[Connection]:
    """One transaction in the service's database; what goes wrong becomes an exit code."""
    engine = connect(dsn, "kompensate outside")
    try:
        with engine.begin() as connection:
            check_tables(connection, outside=True)
            yield connection
    except NotThere as error:
        leave(NOT_FOUND, f"Error: {error}")
    except NotYours as error:
        leave(REFUSED, f"Error: {error}")
    except OperationalError as error:
        leave(UNREACHABLE, f"Error: {error.orig}")
    except (MissingTables, SQLAlchemyError) as error:
        raise click.ClickException(str(error)) from error
    finally:
        engine.dispose()
