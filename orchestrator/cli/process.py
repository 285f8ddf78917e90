"""Options of commands that run until they are told to stop: workers and intakes."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from kompensate.orchestrator.cli.options import application_option, kafka_options
from kompensate.orchestrator.logs import set_up_logs
from kompensate.orchestrator.settings import Settings

DEFAULTS = Settings()

_OPTIONS = (
    application_option,
    kafka_options,
    click.option(
        "--slot",
        envvar="KOMPENSATE_SLOT",
        help="The process's place among the application's: a restart in the same slot ends what its former life left "
        "open. Default: the host's name and the first free number.",
    ),
    click.option(
        "--slot-directory",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where lock files of slots are kept. Default: a directory for temporary files.",
    ),
    click.option(
        "--group-protocol",
        type=click.Choice(["classic", "consumer"]),
        default=DEFAULTS.group_protocol,
        show_default=True,
        help="Kafka's rebalance protocol; consumer is KIP-848. All processes of a group need the same.",
    ),
    click.option(
        "--session-timeout",
        type=click.FloatRange(min=1),
        default=DEFAULTS.session_timeout_seconds,
        show_default=True,
        metavar="SECONDS",
        help="A dead process's partitions are given away after that (classic; KIP-848: the broker's setting).",
    ),
    click.option(
        "--transaction-timeout",
        type=click.FloatRange(min=1),
        default=DEFAULTS.transaction_timeout_seconds,
        show_default=True,
        metavar="SECONDS",
        help="The broker ends a transaction that nobody ends after that.",
    ),
    click.option(
        "--batch-max",
        type=click.IntRange(min=1),
        default=DEFAULTS.batch_records_max,
        show_default=True,
        help="Records read in one transaction.",
    ),
    click.option("--health", "health_port", type=int, metavar="PORT", help="Serve /live and /ready on 127.0.0.1:PORT."),
    click.option("--log-format", type=click.Choice(["plain", "json"]), default="plain", show_default=True),
    click.option(
        "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
    ),
)


def process_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `application`, `settings` and `health_port`, and set its logs up."""

    @wraps(command)
    def run(
        bootstrap: str,
        prefix: str,
        kafka: dict[str, str],
        slot: str | None,
        slot_directory: Path | None,
        group_protocol: str,
        session_timeout: float,
        transaction_timeout: float,
        batch_max: int,
        log_format: str,
        log_level: str,
        **others: Any,
    ) -> None:
        set_up_logs(log_format, log_level)
        settings = Settings(
            bootstrap=bootstrap,
            prefix=prefix,
            kafka=kafka,
            slot=slot,
            slot_directory=slot_directory,
            group_protocol=group_protocol,
            session_timeout_seconds=session_timeout,
            heartbeat_seconds=min(DEFAULTS.heartbeat_seconds, session_timeout / 3),
            transaction_timeout_seconds=transaction_timeout,
            batch_records_max=batch_max,
        )
        command(settings=settings, **others)

    found: Callable[..., None] = run
    for option in reversed(_OPTIONS):
        found = option(found)
    return found
