"""`kompensate hook`: tell a URL or a topic of every saga that is held or has failed, and every rejected record."""

from pathlib import Path

import click

from kompensate.orchestrator.cli.exits import EPILOG
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import name as name_callback
from kompensate.orchestrator.hook.main import NAME, HookProcess
from kompensate.orchestrator.hook.webhook import Webhook
from kompensate.orchestrator.kafka.sources import Begin
from kompensate.orchestrator.logs import set_up_logs
from kompensate.orchestrator.settings import Settings


@click.command(epilog=EPILOG)
@click.option(
    "--url",
    envvar="KOMPENSATE_HOOK_URL",
    help="POST each as JSON there, until it is answered by 2xx. Env KOMPENSATE_HOOK_URL, where it holds a secret.",
)
@click.option("--topic", help="Or write each as JSON to this topic, by its whole name, keyed by saga id.")
@click.option(
    "--begin",
    type=click.Choice(["earliest", "latest"]),
    help="Where to begin the first time: with all that the topics have, or with what comes from now on. Needed once.",
)
@click.option(
    "--name",
    default=NAME,
    show_default=True,
    callback=name_callback,
    help="Tells hooks of one application apart; several processes of one name share the work.",
)
@click.option("--slot", envvar="KOMPENSATE_SLOT", help="As a worker's: its place among the processes of this hook.")
@click.option(
    "--slot-directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where lock files of slots are kept. Default: a directory for temporary files.",
)
@click.option("--log-format", type=click.Choice(["plain", "json"]), default="plain", show_default=True)
@cluster_options
def hook(
    url: str | None,
    topic: str | None,
    begin: Begin | None,
    name: str,
    slot: str | None,
    slot_directory: Path | None,
    log_format: str,
    cluster: Cluster,
) -> None:
    """Tell somebody of every saga that is held or has failed, and of every record that no saga took.

    At least once, each with an id that stays the same; sagas never wait for it. Runs until SIGTERM or Ctrl-C.

    \b
    Examples:
      kompensate hook --app-name shop --url https://ops.example/kompensate --begin latest
      kompensate hook --app-name shop --topic ops.troubles --begin latest
    """
    if (url is None) == (topic is None):
        raise click.UsageError("expected --url or --topic, got " + ("neither" if url is None else "both"))
    try:
        receiver = None if url is None else Webhook(url)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    set_up_logs(log_format, "info")
    settings = Settings(
        bootstrap=cluster.bootstrap,
        prefix=cluster.prefix,
        kafka=cluster.kafka,
        slot=slot,
        slot_directory=slot_directory,
    )
    HookProcess(cluster.app, settings, receiver=receiver, topic=topic, begin=begin, name=name).run()
