"""The `kompensate` command: a table of verbs, each imported only when it is used.

A verb's module may import what it likes (clients, SQL, tables); `kompensate --help` imports none of it.
To add a verb: one line in `VERBS`, and a Click command or group in the module it names.
"""

from importlib import import_module

import click

from kompensate.orchestrator.errors import KompensateError

# Verb: module and attribute, one line of help (shown without importing the module).
VERBS = {
    "dev": ("kompensate.orchestrator.cli.dev:dev", "Kafka and PostgreSQL on this machine, without Docker."),
    "lint": ("kompensate.orchestrator.cli.lint:lint", "Find what a saga's code may not do."),
    "topics": ("kompensate.orchestrator.cli.topics:topics", "Make, check or print an application's topics."),
    "tables": ("kompensate.orchestrator.cli.tables:tables", "Roles and partitions of a service's tables."),
    "worker": ("kompensate.orchestrator.cli.worker:worker", "Run an application's sagas."),
    "participant": ("kompensate.orchestrator.cli.participant:participant", "Run a service's handlers."),
    "conform": ("kompensate.orchestrator.cli.conform:conform", "Try a participant with every case of the barrier."),
    "outside": ("kompensate.orchestrator.cli.outside:outside", "See and end a service's outside calls."),
    "relay": ("kompensate.orchestrator.cli.relay:relay", "Carry services' outboxes to Kafka."),
    "intake": ("kompensate.orchestrator.cli.intake:intake", "Start and signal sagas from existing topics."),
    "start": ("kompensate.orchestrator.cli.start:start", "Start a saga."),
    "signal": ("kompensate.orchestrator.cli.ask:signal", "Send a saga a message."),
    "cancel": ("kompensate.orchestrator.cli.ask:cancel", "Stop sagas and undo what they did."),
    "pause": ("kompensate.orchestrator.cli.ask:pause", "Hold sagas where they are."),
    "resume": ("kompensate.orchestrator.cli.ask:resume", "Release held sagas."),
    "retry": ("kompensate.orchestrator.cli.orders:retry", "Have a step tried again now."),
    "skip": ("kompensate.orchestrator.cli.orders:skip", "Take a step, or its undo, as done."),
    "complete": ("kompensate.orchestrator.cli.orders:complete", "Say what a step gave."),
    "compensate": ("kompensate.orchestrator.cli.orders:compensate", "Undo a saga, also past its pivot."),
    "close": ("kompensate.orchestrator.cli.orders:close", "End a saga as failed, undoing nothing."),
    "dlq": ("kompensate.orchestrator.cli.dlq:dlq", "Dead letters and quarantined records: look, retry, discard."),
    "locks": (
        "kompensate.orchestrator.cli.locks:locks",
        "Semantic locks in a database: who holds, who waits; break one.",
    ),
    "fork": ("kompensate.orchestrator.cli.forks:fork", "Go on from a saga's history as another saga."),
    "reset": ("kompensate.orchestrator.cli.forks:reset", "Have another saga go on from an earlier point."),
    "hook": ("kompensate.orchestrator.cli.hook:hook", "Tell a URL or topic of sagas that are held or have failed."),
    "schedule": ("kompensate.orchestrator.cli.schedule:schedule", "Start sagas again and again."),
    "list": ("kompensate.orchestrator.cli.listing:list_sagas", "List sagas, by status, type or hold."),
    "show": ("kompensate.orchestrator.cli.show:show", "Show where a saga stands and what it waits for."),
    "explain": ("kompensate.orchestrator.cli.explain:explain", "Say why a saga is not moving, and what would."),
    "published": ("kompensate.orchestrator.cli.published:published", "Print what a saga has published, or follow it."),
    "watch": ("kompensate.orchestrator.cli.watch:watch", "Follow sagas as they move."),
    "history": ("kompensate.orchestrator.cli.history:history", "List a saga's events and what caused each."),
    "rebuild": ("kompensate.orchestrator.cli.rebuild:rebuild", "Fold the topics into state and compare."),
    "replay": ("kompensate.orchestrator.cli.replay:replay", "Run today's code over recorded histories."),
    "simulate": ("kompensate.orchestrator.cli.simulate:simulate", "Run sagas in a simulated system that fails."),
}


class LazyGroup(click.Group):
    """A Click group whose commands are imported when they are called.

    Errors of ours become a line on standard error and the exit code that `exits` gives them.
    """

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KompensateError as error:
            from kompensate.orchestrator.cli.exits import fail  # noqa: PLC0415  # only when it is needed

            fail(error)
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # as the shell says it; Click would say 1

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (Click's signature)
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kompensate")
def main() -> None:
    """Durable sagas over Kafka and your own databases."""
