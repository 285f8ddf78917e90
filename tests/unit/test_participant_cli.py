"""`kompensate participant`: what it is given, and what it says when that is not what it needs."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click import Command
from click.testing import CliRunner
from confluent_kafka import KafkaError
from sqlalchemy.exc import OperationalError

from kompensate.orchestrator.cli import participant as module
from kompensate.orchestrator.cli.participant import participant
from kompensate.orchestrator.cli.relay import relay
from kompensate.participants import Participant
from kompensate.participants.database import connect
from kompensate.participants.kafka import CannotStart, Complaints, Unreachable

PLACE = ["--dsn", "postgresql://db/stock", "--bootstrap", "b:9092"]


@pytest.fixture
def app_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "shop_of_test.py").write_text(
        "from kompensate.participants import Participant\nstock = Participant('stock')\nnumber = 7\n"
    )
    (tmp_path / "broken_of_test.py").write_text("import nothing_of_that_name\n")
    monkeypatch.setattr("sys.path", [*sys.path])
    return str(tmp_path)


def test_it_serves_what_is_named(app_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The participant is found and served with the options given; librdkafka's pass through."""
    served: list[Any] = []
    monkeypatch.setattr(module, "serve", lambda *given, **options: served.append((given, options)))
    arguments = ["shop_of_test:stock", *PLACE, "--app-dir", app_dir, "--prefix", "t.", "-X", "ssl.ca.location=/x=y"]
    result = CliRunner().invoke(participant, arguments, catch_exceptions=False)

    assert result.exit_code == 0, result.output
    [(given, options)] = served
    assert isinstance(given[0], Participant)
    assert given[1:] == ("postgresql://db/stock", "b:9092")
    assert options["kafka"] == {"ssl.ca.location": "/x=y"}
    assert (options["prefix"], options["create"], options["settings"].group_max) == ("t.", False, 64)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("shop_of_test", "expected MODULE:OBJECT"),
        ("nowhere_of_test:stock", "expected module nowhere_of_test"),
        ("shop_of_test:nothing", "expected 'nothing' in shop_of_test"),
        ("shop_of_test:number", "expected a Participant, got int"),
    ],
)
def test_a_wrong_target_is_explained(app_dir: str, target: str, message: str) -> None:
    """A target that is none ends with exit code 2 and names what was expected."""
    result = CliRunner().invoke(participant, [target, *PLACE, "--app-dir", app_dir])

    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("dsn", "got"), [("", "empty text"), ("postgres", "'postgres'"), ("--create-tables", "'--create-tables'")]
)
@pytest.mark.parametrize("verb", [participant, relay])
def test_what_is_no_dsn_is_refused(verb: Command, dsn: str, got: str) -> None:
    """Empty text, a bare name, or the option that follows an empty variable: exit code 2, and what a DSN looks like."""
    target = ["shop_of_test:stock"] if verb is participant else []
    result = CliRunner().invoke(verb, [*target, "--dsn", dsn, "--bootstrap", "b:9092"])

    assert result.exit_code == 2
    assert "expected a PostgreSQL URL (postgresql://user@host/db) or libpq text" in result.output
    assert f"got {got}" in result.output


def test_a_dsn_with_a_password_is_not_repeated() -> None:
    """A URL without its scheme is refused without showing it."""
    result = CliRunner().invoke(participant, ["shop_of_test:stock", "--dsn", "ann:secret@db/shop"])

    assert result.exit_code == 2
    assert "secret" not in result.output


def test_libpqs_text_reaches_the_driver() -> None:
    """host=… dbname=… is connected to as it stands: nobody listens there, and the driver says so."""
    engine = connect("host=127.0.0.1 port=1 dbname=stock", "stock")

    with pytest.raises(OperationalError, match="port 1 failed"):
        engine.connect()


def test_a_mistake_in_the_authors_module_is_shown(app_dir: str) -> None:
    """An import error inside the module is the author's: its traceback is not hidden."""
    arguments = ["broken_of_test:stock", *PLACE, "--app-dir", app_dir]
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        CliRunner().invoke(participant, arguments, catch_exceptions=False)


@pytest.mark.parametrize(("kind", "code"), [(CannotStart, 1), (Unreachable, 5)])
def test_what_stands_in_the_way_is_one_line(
    app_dir: str, monkeypatch: pytest.MonkeyPatch, kind: type[CannotStart], code: int
) -> None:
    """A missing topic or table is one line on stderr and exit code 1; a broker that does not answer has code 5."""

    def refuse(*_given: object, **_options: object) -> None:
        raise kind("Kafka at b:9092: expected this, got that")

    monkeypatch.setattr(module, "serve", refuse)
    result = CliRunner().invoke(participant, ["shop_of_test:stock", *PLACE, "--app-dir", app_dir])

    assert result.exit_code == code
    assert result.output == "Error: Kafka at b:9092: expected this, got that\n"


def test_a_database_that_is_away_is_one_line(app_dir: str) -> None:
    """The driver's words, without SQLAlchemy's around them."""
    arguments = ["shop_of_test:stock", "--app-dir", app_dir, "--dsn", "postgresql://127.0.0.1:1/stock"]
    result = CliRunner().invoke(participant, arguments)

    assert result.exit_code == 1
    assert re.fullmatch(r"Error: database of stock: expected it to answer and serve, got: .*refused.*\n", result.output)
    assert "sqlalche.me" not in result.output


def test_missing_tables_can_be_made(app_dir: str, tmp_path: Path) -> None:
    """Where the tables are missing, the option that makes them is named."""
    arguments = ["shop_of_test:stock", "--app-dir", app_dir, "--dsn", f"sqlite:///{tmp_path}/empty.db"]
    result = CliRunner().invoke(participant, arguments)

    assert result.exit_code == 1
    assert "got no outbox and no inbox" in result.output
    assert "--create-tables" in result.output


@pytest.mark.parametrize("verb", [participant, relay])
def test_help_names_the_environment(verb: Command) -> None:
    """What may come from the environment is said in the help."""
    shown = CliRunner().invoke(verb, ["--help"]).output

    assert {"KOMPENSATE_DSN", "KOMPENSATE_BOOTSTRAP", "KOMPENSATE_PREFIX", "KOMPENSATE_KAFKA"} <= set(
        re.findall(r"KOMPENSATE_\w+", shown)
    )


def test_a_broker_that_is_away_is_not_said_with_each_try(caplog: pytest.LogCaptureFixture) -> None:
    """Each kind of error is one line, and one more a minute later."""
    now = 0.0
    complain = Complaints(lambda: now)
    for now in (0.0, 0.1, 30.0, 61.0):
        complain(KafkaError(KafkaError._TRANSPORT, f"refused at {now}"))
        complain(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))

    assert len(caplog.messages) == 4
    assert caplog.messages[0] == "Kafka: refused at 0.0"


def test_an_option_without_value_is_refused(app_dir: str) -> None:
    """-X takes NAME=VALUE."""
    result = CliRunner().invoke(participant, ["shop_of_test:stock", *PLACE, "--app-dir", app_dir, "-X", "debug"])

    assert result.exit_code == 2
    assert "expected NAME=VALUE, got 'debug'" in result.output
