"""`kompensate locks`: the semantic locks that sagas hold in a service's database, who waits, and how to break one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from sqlalchemy.exc import SQLAlchemyError

from kompensate.orchestrator.cli.exits import EPILOG, NOT_FOUND, leave
from kompensate.orchestrator.cli.orders import said_options
from kompensate.orchestrator.cli.output import duration, output_option, print_json, print_jsonl, print_table, say, table
from kompensate.outbox.locks import Held, Locks, NoLocks, Waiting, locks_of
from kompensate.participants.database import connect
from kompensate.schemas.messages import timestamp

_DSN = click.option("--dsn", metavar="DSN", envvar="KOMPENSATE_DSN", help="The service's database. Env KOMPENSATE_DSN.")


@contextmanager
def _locks(dsn: str | None) -> Iterator[Locks]:
    """The tables, in one transaction. What the database says becomes the command's error."""
    if not dsn:
        raise click.UsageError("which database? Give --dsn DSN (or set KOMPENSATE_DSN)")
    try:
        engine = connect(dsn, "locks")
    except (SQLAlchemyError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    try:
        with engine.begin() as connection:
            yield locks_of(connection)
    except (SQLAlchemyError, NoLocks) as error:
        raise click.ClickException(str(error)) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("psycopg", "sqlite3"):
            raise
        raise click.ClickException(
            f"{error} (are the tables there? `kompensate/outbox/schema.sql` makes them, and may be run again)"
        ) from error
    finally:
        engine.dispose()


@click.group(invoke_without_command=True, epilog=EPILOG)
@_DSN
@output_option("table", "json", "jsonl", "ids")
@click.pass_context
def locks(context: click.Context, dsn: str | None, output: str) -> None:
    """List the locks that sagas hold in a service's database, the oldest first, and the sagas that wait for them.

    \b
    Examples:
      kompensate locks --dsn postgresql://localhost/wallet
      kompensate locks break account:17 --dsn postgresql://localhost/wallet --reason 'order-17 was closed'
    """
    if context.invoked_subcommand is not None:
        return
    with _locks(dsn) as found:
        held, waiting = found.holders(), found.waiters()
    if output == "ids":
        for each in held:
            click.echo(each.name)
    elif output == "json":
        print_json([_json(each, waiting) for each in held])
    elif output == "jsonl":
        print_jsonl(_json(each, waiting) for each in held)
    else:
        _print(held, waiting)


def _print(held: list[Held], waiting: list[Waiting]) -> None:
    shown = table("LOCK", "SAGA", "APP", "TOKEN", "AGE", "EXPIRES", "WAITING", right=("TOKEN",))
    for each in held:
        line = [
            f"{one.owner.saga_id} ({duration(_ms(one.now - one.since))})" for one in waiting if one.name == each.name
        ]
        app = each.owner.app.removeprefix("kompensate:")
        age = duration(_ms(each.now - each.taken_at))
        shown.add_row(each.name, each.owner.saga_id, app, str(each.token), age, _expiry(each), ", ".join(line))
    print_table(shown)
    say(f"{len(held)} locks, {len({one.owner for one in waiting})} sagas wait")


def _expiry(held: Held) -> str:
    if held.broken is not None:
        return f"broken by {held.broken}"
    if held.expires_at is None:
        return "never"
    left = held.expires_at - held.now
    return f"in {duration(_ms(left))}" if left > 0 else f"expired {duration(_ms(-left))} ago"


def _json(held: Held, waiting: list[Waiting]) -> dict[str, Any]:
    return {
        "lock": held.name,
        "saga_id": held.owner.saga_id,
        "app": held.owner.app.removeprefix("kompensate:"),
        "command_id": held.command_id,
        "token": held.token,
        "taken_at": timestamp(_ms(held.taken_at)),
        "expires_at": None if held.expires_at is None else timestamp(_ms(held.expires_at)),
        "free": held.free,
        "broken": held.broken,
        "waiting": [
            {"saga_id": one.owner.saga_id, "since": timestamp(_ms(one.since))}
            for one in waiting
            if one.name == held.name
        ],
    }


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


@locks.command("break", epilog=EPILOG)
@click.argument("name", metavar="LOCK")
@_DSN
@said_options("the lock's row until it is taken again")
def break_lock(name: str, dsn: str | None, reason: str, who: str) -> None:
    """Free a lock by hand, whoever holds it: the next saga in line takes it.

    Its saga is not stopped: it is refused where it confirms the lock, and where it does not it works on beside the
    next one. So hold or close it first.

    \b
    Example:
      kompensate locks break account:17 --dsn postgresql://localhost/wallet --reason 'order-17 was closed'
    """
    with _locks(dsn) as found:
        owner = found.break_(name, who, reason)
    if owner is None:
        leave(NOT_FOUND, f"Error: lock {name}: expected a saga to hold it, got none")
    click.echo(f"{name} was held by {owner}")
