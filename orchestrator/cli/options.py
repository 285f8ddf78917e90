"""Options that verbs share: which Kafka, which application. One place, so that all verbs name them alike.

`kafka_options` gives a command `bootstrap`, `prefix` and `kafka` (librdkafka's own options);
`application_option` gives it `application`, imported; `cluster_options` gives it one `Cluster`, for verbs that
need the application's name and no code.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from kompensate.orchestrator.definitions.application import Application
from kompensate.outbox.naming import check_dsn
from kompensate.schemas.formats import SagaPayloads, payloads_of
from kompensate.schemas.refusals import check_bootstrap
from kompensate.schemas.topics import Topics, check_name

Command = TypeVar("Command", bound=Callable[..., Any])
T = TypeVar("T", str, tuple[str, ...])

DEFAULT_BOOTSTRAP = "127.0.0.1:9092"


@dataclass(frozen=True, slots=True)
class Cluster:
    """An application's topics on a Kafka cluster; `kafka` are librdkafka's own options.

    `application` is there where its code named it, None where --app-name did.
    """

    app: str
    bootstrap: str = DEFAULT_BOOTSTRAP
    prefix: str = ""
    kafka: dict[str, str] = field(default_factory=dict)
    application: Application | None = None

    @property
    def payloads(self) -> SagaPayloads:
        """The application's payload format where its code is there, else JSON."""
        return payloads_of(None if self.application is None else self.application.payloads, self.app)

    @property
    def topics(self) -> Topics:
        return Topics(self.app, self.prefix)


def kafka_options(command: Command) -> Command:
    """Give the command `bootstrap: str`, `prefix: str` and `kafka: dict[str, str]`."""
    for option in (
        click.option(
            "-X",
            "kafka",
            multiple=True,
            metavar="NAME=VALUE",
            envvar="KOMPENSATE_KAFKA",
            callback=lambda _, __, texts: dict(option_of(text) for text in texts),
            help="An option of librdkafka, TLS and SASL among them; may be repeated. Env KOMPENSATE_KAFKA, by spaces.",
        ),
        click.option(
            "--prefix",
            default="",
            envvar="KOMPENSATE_PREFIX",
            help="Stands before every topic's name. Env KOMPENSATE_PREFIX.",
        ),
        click.option(
            "--bootstrap",
            default=DEFAULT_BOOTSTRAP,
            show_default=True,
            envvar="KOMPENSATE_BOOTSTRAP",
            callback=bootstrap_given,
            help="Kafka's bootstrap servers. Env KOMPENSATE_BOOTSTRAP.",
        ),
    ):
        command = option(command)
    return command


def dsn_given(_: click.Context, __: click.Parameter, value: T) -> T:
    """A callback for --dsn, given once or often. Raises click.BadParameter for what is no DSN at all."""
    try:
        for dsn in value if isinstance(value, tuple) else (value,):
            check_dsn(str(dsn))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


def bootstrap_given(_: click.Context, __: click.Parameter, value: str) -> str:
    """A callback for --bootstrap. Raises click.BadParameter for no address."""
    try:
        return check_bootstrap(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_app_dir = click.option("--app-dir", default=".", show_default=True, help="Where MODULE is looked for first.")


def application_option(command: Command) -> Command:
    """Give the command `application: Application`, imported from --app."""

    @functools.wraps(command)
    def with_application(*args: Any, app: str, app_dir: str, **others: Any) -> Any:
        return command(*args, application=load_application(app, app_dir), **others)

    option = click.option(
        "--app",
        required=True,
        metavar="MODULE:OBJECT",
        envvar="KOMPENSATE_APP",
        help="The Application, as in shop.sagas:app. Env KOMPENSATE_APP.",
    )
    return option(_app_dir(with_application))  # type: ignore[return-value]  # functools.wraps keeps its signature


def named_options(command: Command) -> Command:
    """Give the command `app_name`, `app` and `app_dir`, for `named`, and Kafka's options."""
    app = click.option(
        "--app",
        metavar="MODULE:OBJECT",
        envvar="KOMPENSATE_APP",
        help="The Application: its name, and its payload format. Env KOMPENSATE_APP.",
    )
    app_name = click.option(
        "--app-name",
        metavar="NAME",
        envvar="KOMPENSATE_APP_NAME",
        help="The application's name; then its code need not be there. Env KOMPENSATE_APP_NAME.",
    )
    return app_name(app(_app_dir(kafka_options(command))))


def cluster_options(command: Command) -> Command:
    """Give the command `cluster: Cluster`: the name from --app-name, else from the application of --app."""

    @functools.wraps(command)
    def with_cluster(
        *args: Any,
        app_name: str | None,
        app: str | None,
        app_dir: str,
        bootstrap: str,
        prefix: str,
        kafka: dict[str, str],
        **others: Any,
    ) -> Any:
        found = named(app_name, app, app_dir)
        name, application = (found, None) if isinstance(found, str) else (found.name, found)
        return command(*args, cluster=Cluster(name, bootstrap, prefix, kafka, application), **others)

    return named_options(with_cluster)  # type: ignore[return-value]  # as above


def named(app_name: str | None, app: str | None, app_dir: str) -> str | Application:
    """The application's name from --app-name, else the application of --app."""
    context = click.get_current_context()
    chosen = context.get_parameter_source("app") is ParameterSource.COMMANDLINE
    from_environment = context.get_parameter_source("app_name") is ParameterSource.ENVIRONMENT
    if app_name is not None and not (chosen and from_environment):
        try:
            return check_name("--app-name", app_name)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    if app is None:
        raise click.UsageError("which application? Give --app-name NAME or --app MODULE:OBJECT (or set KOMPENSATE_APP)")
    return load_application(app, app_dir)


def load_application(target: str, app_dir: str = ".") -> Application:
    """The Application that MODULE:OBJECT names. Raises click.UsageError naming expected and got."""
    found = load_object(target, app_dir, "shop.sagas:app")
    if not isinstance(found, Application):
        raise click.UsageError(f"{target}: expected an Application, got {type(found).__name__}")
    return found


def load_object(target: str, app_dir: str, example: str) -> object:
    """What MODULE:OBJECT names, looked for in `app_dir` first; None where the module has no such name.

    Raises click.UsageError.
    """
    module, _, attribute = target.partition(":")
    if not (module and attribute):
        raise click.UsageError(f"expected MODULE:OBJECT, as in {example}, got {target!r}")
    directory = str(Path(app_dir).resolve())
    if directory not in sys.path:
        sys.path.insert(0, directory)
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Only the module that was asked for: one that it fails to import is its author's to see in full.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise click.UsageError(f"expected module {module} in {directory} or on the path, got {error}") from error
    found: object = getattr(imported, attribute, None)
    if found is None:
        raise click.UsageError(f"expected {attribute!r} in {module} ({imported.__file__}), got nothing of that name")
    return found


def option_of(text: str) -> tuple[str, str]:
    """NAME=VALUE taken apart. Raises click.BadParameter."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.BadParameter(f"expected NAME=VALUE, got {text!r}")
    return name, value
