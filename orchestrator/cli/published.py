"""`kompensate published`: what a saga shows the outside, now or as it changes."""

import click

from kompensate.orchestrator.cli.asking import lookup
from kompensate.orchestrator.cli.exits import EPILOG
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import compact, output_option, print_json, print_jsonl, print_table, table
from kompensate.orchestrator.cli.output import saga_id as saga_id_callback
from kompensate.orchestrator.reading import publishing


@click.command(epilog=EPILOG)
@click.argument("saga_id", callback=saga_id_callback)
@click.argument("name", required=False)
@click.option("--follow", is_flag=True, help="Then each value as it is published, until the saga has ended.")
@output_option("table", "json", "jsonl")
@cluster_options
def published(saga_id: str, name: str | None, follow: bool, output: str, cluster: Cluster) -> None:
    """Print what a saga has published with `ctx.publish`, the newest value of each name, or that of NAME alone.

    Read from the topics, of an ended saga from its history. With --follow each value is a line; a saga that has not
    started is waited for.

    \b
    Examples:
      kompensate published index-17 --app-name library
      kompensate published index-17 progress --follow --app-name library -o jsonl
    """
    if follow:
        _follow(saga_id, name, output, cluster)
        return
    with lookup(cluster) as looking:
        values = publishing.published(looking, saga_id)
    if name is not None:
        values = {name: publishing.one_of(values, saga_id, name)}
    if output == "table":
        found = table("NAME", "VALUE")
        for each, value in values.items():
            found.add_row(each, compact(value))
        print_table(found)
    elif output == "json":
        print_json(values)
    else:
        print_jsonl({"name": each, "value": value} for each, value in values.items())


def _follow(saga_id: str, name: str | None, output: str, cluster: Cluster) -> None:
    with lookup(cluster) as following, lookup(cluster) as looking:
        for each, value in publishing.followed(following, looking, saga_id):
            if name not in (None, each):
                continue
            if output == "table":
                click.echo(f"{each}  {compact(value)}")
            else:
                print_jsonl([{"name": each, "value": value}])
