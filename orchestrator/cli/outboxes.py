"""What the verbs about outboxes share: which database, publication and table, and how findings are shown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import click

from kompensate.orchestrator.cli.exits import ERROR
from kompensate.orchestrator.cli.options import dsn_given
from kompensate.orchestrator.cli.output import print_json, print_table
from kompensate.orchestrator.cli.output import table as table_of
from kompensate.outbox.setup import Finding
from kompensate.outbox.tables import OUTBOX, PUBLICATION

_NAMED = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]*)=((?:postgres(?:ql)?|mysql|mariadb|sqlite)(?:\+\w+)?://.*)", re.DOTALL
)


def outbox_of(text: str) -> tuple[str | None, str]:
    """[SERVICE=]DSN taken apart; libpq's own host=… dbname=… is a DSN without a service."""
    found = _NAMED.fullmatch(text)
    return (found[1], found[2]) if found else (None, text)


DSN_HELP = (
    "A service's database, as in inventory=postgresql://host/db; may be repeated. Without SERVICE= the database's name "
    "stands for the service. Env KOMPENSATE_DSN, by spaces."
)
dsn_option = click.option(
    "--dsn",
    "dsns",
    required=True,
    multiple=True,
    metavar="[SERVICE=]DSN",
    envvar="KOMPENSATE_DSN",
    callback=dsn_given,
    help=DSN_HELP,
)
publication_option = click.option(
    "--publication", default=PUBLICATION, show_default=True, help="What the slot publishes."
)
table_option = click.option("--table", default=OUTBOX, show_default=True, help="The outbox table's name.")


def show_findings(found: Mapping[str, Sequence[Finding]], output: str) -> None:
    """Show what was found of each database, as a table or JSON; exit code 1 where something is wrong."""
    if output == "json":
        print_json([{"database": name, **asdict(one)} for name, findings in found.items() for one in findings])
    else:
        for name, findings in found.items():
            _print_findings(name, findings)
    if any(one.level == "wrong" for findings in found.values() for one in findings):
        raise SystemExit(ERROR)


def _print_findings(database: str, findings: Sequence[Finding]) -> None:
    shown = table_of("", "CHECK", "WHAT", "FOUND")
    for one in findings:
        shown.add_row(one.level, one.check, one.subject, one.got)
        if one.level != "ok":
            shown.add_row("", "", "", f"expected {one.expected}")
            shown.add_row("", "", "", f"mend: {one.remedy}")
    click.echo(f"{database}:")
    print_table(shown)
