"""The command line without a broker: options, help, exit codes, and what is loaded for them."""

import json
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from kompensate.orchestrator.cli import VERBS, main
from kompensate.orchestrator.cli.options import Cluster, cluster_options
from kompensate.orchestrator.cli.output import duration

ASKING = (
    "start",
    "signal",
    "cancel",
    "pause",
    "resume",
    "list",
    "show",
    "watch",
    "history",
    "rebuild",
    "published",
    "replay",
    "explain",
)
ORDERS = ("retry", "skip", "complete", "compensate", "close", "hook")


def run(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, words, env=env)


@click.command()
@cluster_options
def probe(cluster: Cluster) -> None:
    """Prints what a verb is given."""
    click.echo(json.dumps([cluster.app, cluster.bootstrap, cluster.prefix, cluster.kafka]))


def probed(*words: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(probe, words, env=env or {})


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_help(verb: str) -> None:
    """--help works for each verb in the table, and says the same first line as the table, or more."""
    result = run(verb, "--help")

    assert result.exit_code == 0, result.output
    assert f"Usage: main {verb}" in result.output


@pytest.mark.parametrize("verb", [*ASKING, *ORDERS])
def test_help_has_an_example_and_the_exit_codes(verb: str) -> None:
    """Whoever asks for help sees a command to paste, the environment variables, and what exit codes mean."""
    text = run(verb, "--help").output

    assert f"kompensate {verb}" in text
    assert "KOMPENSATE_BOOTSTRAP" in text
    assert "130 interrupted" in text


LOADED = """
import sys
from click.testing import CliRunner
from kompensate.orchestrator.cli import main
result = CliRunner().invoke(main, sys.argv[1:])
assert result.exit_code == 0, result.output
print(sorted({name.partition(".")[0] for name in sys.modules} & {"confluent_kafka", "sqlalchemy", "psycopg", "rich"}))
"""


@pytest.mark.slow
def test_help_loads_no_client() -> None:
    """The list of verbs is there at once: no Kafka client, database or table library is loaded for it."""
    shown = subprocess.run([sys.executable, "-I", "-c", LOADED, "--help"], capture_output=True, text=True, check=True)

    assert shown.stdout == "[]\n"


def test_options_come_from_the_command_line_before_the_environment() -> None:
    """Each option has its variable; what stands on the command line wins."""
    env = {
        "KOMPENSATE_BOOTSTRAP": "kafka:9092",
        "KOMPENSATE_PREFIX": "test.",
        "KOMPENSATE_APP_NAME": "shop",
        "KOMPENSATE_KAFKA": "security.protocol=SSL client.id=me",
    }

    from_environment = json.loads(probed(env=env).output)
    from_words = json.loads(probed("--prefix", "x.", "--app-name", "other", "-X", "a=b=c", env=env).output)

    assert from_environment == ["shop", "kafka:9092", "test.", {"security.protocol": "SSL", "client.id": "me"}]
    assert from_words == ["other", "kafka:9092", "x.", {"a": "b=c"}]


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user's, with an application named `corner`; the directory to find it in."""
    source = """
        from dataclasses import dataclass
        from kompensate.orchestrator import Application, Context, saga
        @dataclass
        class Order:
            cents: int
        @saga("buy")
        async def buy(ctx: Context, order: Order) -> None: ...
        app = Application("corner", [buy])
        other = 7
    """
    (tmp_path / "cornershop.py").write_text(textwrap.dedent(source))
    (tmp_path / "needy.py").write_text("import no_such_module\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return str(tmp_path)


def test_the_name_is_read_from_the_application(shop: str) -> None:
    """--app MODULE:OBJECT names the application; on the command line it wins over a name in the environment."""
    words = ("--app", "cornershop:app", "--app-dir", shop)

    assert json.loads(probed(*words).output)[0] == "corner"
    assert json.loads(probed(*words, env={"KOMPENSATE_APP_NAME": "shop"}).output)[0] == "corner"
    assert json.loads(probed(*words, "--app-name", "shop").output)[0] == "shop"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "which application? Give --app-name NAME or --app MODULE:OBJECT"),
        (["--app-name", "a b"], "--app-name: expected 1 to 100 of"),
        (["--app", "cornershop"], "expected MODULE:OBJECT, as in shop.sagas:app, got 'cornershop'"),
        (["--app", "cornershop:nothing"], "expected 'nothing' in cornershop"),
        (["--app", "cornershop:other"], "cornershop:other: expected an Application, got int"),
        (["--app", "nowhere:app"], "expected module nowhere in"),
    ],
)
def test_a_wrong_application_is_wrong_usage(shop: str, words: Sequence[str], text: str) -> None:
    """Exit code 2, and the message says what was expected and what was got."""
    result = probed(*words, "--app-dir", shop)

    assert result.exit_code == 2
    assert text in result.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["by"], "expected a saga of application 'corner' (buy), got 'by'"),
        (["buy"], "got no value: give --input"),
        (
            ["buy", "--input", '{"cents": "much"}'],
            "saga 'buy': payload Order: Expected `int`, got `str` - at `$.cents`",
        ),
    ],
)
def test_a_start_is_checked_where_the_code_is(shop: str, words: Sequence[str], text: str) -> None:
    """With --app, a wrong name or input is wrong usage, and no broker is asked."""
    result = run("start", *words, "--app", "cornershop:app", "--app-dir", shop, "--bootstrap", "127.0.0.1:1")

    assert result.exit_code == 2
    assert text in result.stderr


def test_an_import_that_fails_inside_is_the_users_to_see(shop: str) -> None:
    """A module that is there and fails to import is shown with its own error, not as missing."""
    result = probed("--app", "needy:app", "--app-dir", shop)

    assert isinstance(result.exception, ModuleNotFoundError)
    assert result.exception.name == "no_such_module"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["skip", "o-1"], "Missing option '--reason'"),
        (["close", "o-1", "--reason", " "], "expected text, for it is kept, got ' '"),
        (["compensate", "o-1", "--reason", "r", "--by", ""], "expected text, for it is kept, got ''"),
        (["complete", "o-1", "--reason", "r", "--result", "{"], "expected JSON, got b'{'"),
        (["start", "buy", "--attribute", "customer"], "expected NAME=VALUE, each NAME once, got 'customer'"),
        (["start", "buy", "--attribute", "a=1", "--attribute", "a=2"], "each NAME once, got 'a=2'"),
        (["start", "buy", "--attribute", "order-id=1"], "attribute: expected a name of 1 to 64 of A-Z a-z 0-9 _"),
        (
            ["list", "--where", "attr.a-b=1"],
            "expected an attribute's name of A-Z a-z 0-9 _ after attr., got 'attr.a-b'",
        ),
        (["fork", "o-1", "o-2", "--reason", "r"], "expected --from or --from-event, got neither"),
        (["reset", "o-1", "o-2", "--reason", "r", "--from", "a", "--from-event", "1"], "got both"),
        (["reset", "o-1", "__x", "--reason", "r", "--from", "a"], "saga id: expected 1 to 200 of the characters"),
        (["start", "buy", "--after", "soon"], "expected a time like 2026-03-01T12:00:00Z or seconds from now"),
        (["start", "buy", "--deadline", "1e300"], "expected seconds within the years a date can have"),
    ],
)
def test_what_nobody_could_take_is_not_sent(words: Sequence[str], text: str) -> None:
    """An order without a reason, a time or attribute that is none: wrong usage, and no broker is asked."""
    result = run(*words, "--app-name", "shop", "--bootstrap", "127.0.0.1:1")

    assert result.exit_code == 2
    assert text in result.stderr


@pytest.mark.slow
def test_a_dead_broker_is_exit_code_5(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names the address; no log lines of the client beside it."""
    words = ("list", "--app-name", "shop", "--bootstrap", "127.0.0.1:1")
    monkeypatch.setattr("kompensate.orchestrator.reading.reader.Reader.__init__.__kwdefaults__", {"timeout": 0.3})

    result = run(*words)

    assert result.exit_code == 5
    assert result.stderr.startswith("Error: Kafka at 127.0.0.1:1: expected an answer about its topics within 0.3 s")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (999, "999ms"),
        (1_000, "1.0s"),
        (59_949, "59.9s"),
        (60_000, "1m00s"),
        (3_599_999, "59m59s"),
        (3_600_000, "1h00m"),
        (90_000_000, "1d01h"),
    ],
)
def test_durations_are_short(ms: int, text: str) -> None:
    """Two units at most, whatever the length."""
    assert duration(ms) == text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cron", "0 0 31 2 *"), "schedule 'daily': expected a cron expression"),
        (("--interval", "60", "--input", "{"), "expected JSON"),
        (("--interval", "60", "--overlap", "sometimes"), "'sometimes' is not one of"),
        (
            ("--interval", "60", "--app", "tests.fixtures.schedule_app:app"),
            "a saga of this application (tick), got",
        ),
    ],
    ids=str,
)
def test_a_schedule_that_cannot_be_is_not_sent(words: tuple[str, ...], said: str) -> None:
    """What the code or the calendar refuses is wrong usage, before Kafka is asked."""
    app = () if "--app" in words else ("--app-name", "ticks")
    result = run("schedule", "create", "daily", "nobody", *app, *words, env={"KOMPENSATE_BOOTSTRAP": "127.0.0.1:1"})

    assert result.exit_code == 2, result.output
    assert said in result.output


def test_a_backfills_times_have_zones() -> None:
    result = run(
        "schedule", "backfill", "daily", "--app-name", "ticks", "--from", "2026-11-01", "--until", "2026-11-02"
    )

    assert (result.exit_code, "expected a time with a zone" in result.output) == (2, True)
