"""`kompensate topics acl`: print, make or compare the least rights that an application's processes need."""

import click

from kompensate.orchestrator.acls import AclAdmin
from kompensate.orchestrator.cli.options import application_option, kafka_options, option_of
from kompensate.orchestrator.cli.participant import participants_option
from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.rights import BadRight, Grant, as_commands, as_json, rights
from kompensate.orchestrator.settings import Settings
from kompensate.participants import Participant


@click.command()
@application_option
@participants_option
@kafka_options
@click.option(
    "--principal",
    "principals",
    multiple=True,
    metavar="ROLE=User:NAME",
    callback=lambda _, __, texts: dict(option_of(text) for text in texts),
    help="Who has a role: orchestrator, client, operator, letters, intake, hook, admin, service:NAME, relay:NAME. "
    "May be repeated. Default: User:<app>-<role>, User:<service> and User:<service>-relay, after the prefix.",
)
@click.option(
    "--starts",
    "starting",
    multiple=True,
    metavar="SERVICE",
    help="A service whose outbox also starts, signals or cancels sagas: its relay may write requests. May be repeated.",
)
@click.option("--hook-topic", metavar="TOPIC", help="What `kompensate hook --topic` writes to.")
@click.option("-o", "output", type=click.Choice(["sh", "json"]), default="sh", show_default=True)
@click.option("--apply", "make", is_flag=True, help="Make what is missing instead of printing it. Takes nothing away.")
@click.option(
    "--check",
    "compare",
    is_flag=True,
    help="Print what is missing, and what is allowed further on the same resources; exit code 1 where anything is.",
)
def acl(
    application: Application,
    participants: list[Participant],
    bootstrap: str,
    prefix: str,
    kafka: dict[str, str],
    principals: dict[str, str],
    starting: tuple[str, ...],
    hook_topic: str | None,
    output: str,
    make: bool,
    compare: bool,
) -> None:
    """Print the ACLs that the application's processes need, for kafka-acls.sh; or make them, or compare.

    They hold where the brokers have an authorizer and allow.everyone.if.no.acl.found=false.

    \b
    Examples:
      kompensate topics acl --app shop.sagas:app --participant shop.orders:orders > acls.sh
      kompensate topics acl --app shop.sagas:app --principal "client=User:CN=web,O=Shop" --starts orders --apply
    """
    try:
        grants = rights(
            application,
            prefix,
            principals=principals,
            starting=starting,
            participants=participants,
            hook_topic=hook_topic,
        )
    except BadRight as error:
        raise click.UsageError(str(error)) from error
    if not (make or compare):
        click.echo(as_json(grants) if output == "json" else as_commands(grants))
        return
    admin = AclAdmin(Settings(bootstrap=bootstrap, prefix=prefix, kafka=kafka))
    for line in admin.apply(grants) if make else ():
        click.echo(line)
    if compare:
        _report(admin, grants)


def _report(admin: AclAdmin, grants: list[Grant]) -> None:
    found = admin.check(grants)
    for word, lines in (("missing", found.missing), ("further", found.further)):
        for line in lines:
            click.echo(f"{word}: {line}", err=True)
    if found.missing or found.further:
        raise SystemExit(1)
    click.echo("ACLs are as they should be")
