"""`kompensate dev`: the local stack on the command line."""

from pathlib import Path

import click

from kompensate.compose.local.errors import StackError
from kompensate.compose.local.java import Jit
from kompensate.compose.local.processes import tail
from kompensate.compose.local.stack import DEFAULT_SERVICES, SERVICES, Stack
from kompensate.orchestrator.cli.light import light

LOG_LINES = 40
NAMES = [service.name for service in SERVICES]

directory_option = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="the current one",
    help="Directory whose .kompensate holds the stack.",
)


class StackGroup(click.Group):
    """Turns a StackError into a line on standard error and exit status 1; `--light` is `light`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["light", *args[1:]] if args[:1] == ["--light"] else args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except StackError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=StackGroup)
def dev() -> None:
    """Kafka, Kafka Connect and PostgreSQL on this machine, without Docker; or (light) none of them, in memory."""


dev.add_command(light)


@dev.command()
@directory_option
@click.option("--port", "ports", multiple=True, metavar="NAME=PORT", help="Choose a port, e.g. kafka=9092.")
@click.option("--connect", is_flag=True, help="Also Kafka Connect, with Debezium.")
@click.option("--mirror", metavar="URL", help="Maven repository to fetch jars from.")
@click.option(
    "--jit",
    type=click.Choice(["quick", "full"]),
    default="quick",
    show_default=True,
    help="What Java compiles for: a quick start, or load that lasts.",
)
def up(directory: Path, ports: tuple[str, ...], connect: bool, mirror: str | None, jit: Jit) -> None:
    """Start what does not run yet; return when everything answers."""
    stack = Stack(directory, ports=dict(map(_port, ports)), mirror=mirror, jit=jit, say=click.echo)
    stack.up((*DEFAULT_SERVICES, "connect") if connect else DEFAULT_SERVICES)
    click.echo(f"bootstrap  {stack.bootstrap}")
    click.echo(f"postgres   {stack.postgres_dsn()}")
    if connect:
        click.echo(f"connect    {stack.connect_url}")


def _port(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not number.isdecimal():
        raise click.UsageError(f"--port: expected NAME=PORT, got {text!r}")
    return name, int(number)


@dev.command()
@directory_option
def down(directory: Path) -> None:
    """Stop everything; the data stays."""
    Stack(directory, say=click.echo).down()


@dev.command()
@directory_option
def status(directory: Path) -> None:
    """Say what runs and answers; exit status 1 unless all that was ever started here does."""
    rows = Stack(directory).status()
    for row in rows:
        word = "answers" if row.answers else "starting or stuck" if row.pid else "down"
        click.echo(f"{row.name:10} {word:18} {row.address:22} {f'pid {row.pid}' if row.pid else ''}".rstrip())
    if not rows:
        click.echo(f"no stack was started in {directory.resolve()}")
    if not rows or not all(row.answers for row in rows):
        raise SystemExit(1)


@dev.command()
@directory_option
def env(directory: Path) -> None:
    """Print where Kafka is, for the shell: eval "$(kompensate dev env)"."""
    click.echo(f"export KOMPENSATE_BOOTSTRAP={Stack(directory).bootstrap}")


@dev.command()
@directory_option
@click.argument("name")
def database(directory: Path, name: str) -> None:
    """Make the database NAME where it is absent, and print its address."""
    click.echo(Stack(directory).make_database(name))


@dev.command()
@directory_option
@click.option("-n", "--lines", default=LOG_LINES, show_default=True, help="Lines of each log.")
@click.argument("services", nargs=-1, type=click.Choice(NAMES))
def logs(directory: Path, lines: int, services: tuple[str, ...]) -> None:
    """Show the end of the servers' logs."""
    stack = Stack(directory)
    for name in services or NAMES:
        log = stack.log(name)
        if log.exists():
            click.echo(f"{log}\n{tail(log, lines)}")


@dev.command()
@directory_option
@click.confirmation_option(prompt="Remove all topics and databases of this stack?")
def reset(directory: Path) -> None:
    """Stop everything and remove all data."""
    Stack(directory, say=click.echo).reset()
