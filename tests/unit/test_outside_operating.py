"""`kompensate outside`: what an operator sees of outside calls, and how he ends one that nobody else can."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kompensate.orchestrator.cli import main
from kompensate.participants.database import connect
from tests.fixtures.outside import Refund, Stage, charge, undo


@pytest.fixture
def dsn(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/payments.db"


@pytest.fixture
def stage(dsn: str) -> Iterator[Stage]:
    found = Stage(connect(dsn, "payments"))
    yield found
    found.engine.dispose()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["outside", *arguments])


def test_what_is_unknown_is_listed_and_answered(stage: Stage, dsn: str) -> None:
    """The operator has found the charge: the saga gets it, and the compensation that waited runs."""
    stage.provider.script = ["timeout-after"]
    process = stage.process(timeout=2, window=0)
    process.send(charge(), undo(kind=Refund))
    process.until(lambda: process.grave.letters)

    table = run("list", "--dsn", dsn, "--unknown")
    assert "c1" in table.stdout
    assert "1 without an answer, 1 of them unknown" in table.stderr
    both = json.loads(run("list", "--dsn", dsn, "-o", "json").stdout)
    assert {(one["command"], one["saga"], one["status"]) for one in both} == {
        ("c1", "saga-1", "unknown"),
        ("undo-c1", "saga-1", "kept"),
    }

    done = run("answer", "c1", "--dsn", dsn, "--outcome", "done", "--result", '{"charge": "ch_7"}')
    assert done.exit_code == 0, done.output
    process.until(lambda: len(stage.replies()) == 2)
    assert stage.payload("c1") == {"charge": "ch_7"}
    assert stage.replies() == {"c1": ["done"], "undo-c1": ["done"]}
    assert stage.charged() == 0
    assert json.loads(run("list", "--dsn", dsn, "-o", "json").stdout) == []


def test_an_open_breaker_is_listed(stage: Stage, dsn: str) -> None:
    """The list says why nothing is called, and no more when it is closed; a program's JSON stays as it is."""
    stage.provider.down = True
    process = stage.process(timeout=2, breaker_failures=1, breaker_seconds=5)
    process.send(charge())
    process.until(lambda: stage.rows("SELECT 1 FROM breaker WHERE state = 'open'"))

    told = run("list", "--dsn", dsn, "-o", "json")
    assert "breaker of payments.Charge: open, opened at 20" in told.stderr
    assert [one["command"] for one in json.loads(told.stdout)] == ["c1"]

    stage.provider.down = False
    process.until(stage.replies)
    assert "breaker" not in run("list", "--dsn", dsn).stderr


def test_an_operator_may_say_that_nothing_was_done(stage: Stage, dsn: str) -> None:
    """Failed, with his reason: the compensation has nothing to undo."""
    stage.provider.script = ["never"]
    process = stage.process(timeout=2, window=0)
    process.send(charge(), undo(kind=Refund))
    process.until(lambda: process.grave.letters)

    done = run("answer", "c1", "--dsn", dsn, "--outcome", "failed", "--reason", "ann: not in their books")
    assert done.exit_code == 0, done.output
    process.until(lambda: len(stage.replies()) == 2)
    assert stage.payload("c1")["reason"] == "ann: not in their books"
    assert stage.replies() == {"c1": ["failed"], "undo-c1": ["done"]}


def test_a_mended_query_is_asked_again(stage: Stage, dsn: str) -> None:
    """It could not tell before; now it can."""
    stage.provider.script = ["timeout-after"]
    stage.provider.answers_queries = False
    process = stage.process(
        timeout=2,
        window=0,
        tries=2,
        breaker_failures=100,
        reconcile=lambda command, call: stage.provider.find(call.id),
    )
    process.send(charge())
    process.until(lambda: process.grave.letters)

    stage.provider.answers_queries = True
    # The database's clock is real here, and the test's far ahead of it: asking is due at once.
    assert run("ask", "c1", "--dsn", dsn).exit_code == 0
    process.until(stage.replies)
    assert stage.replies() == {"c1": ["done"]}


@pytest.mark.parametrize("queried", [True, False], ids=["reconcile", "none"])
def test_asked_again_in_vain_it_is_no_second_letter(
    stage: Stage, dsn: str, caplog: pytest.LogCaptureFixture, *, queried: bool
) -> None:
    """However often: the first letter stands, log and list say that the newest round could not tell either."""
    stage.provider.script = ["timeout-after"]
    stage.provider.answers_queries = False
    query = {"reconcile": lambda command, call: stage.provider.find(call.id)} if queried else {}
    process = stage.process(timeout=2, window=0, tries=2, breaker_failures=100, **query)
    process.send(charge())
    process.until(lambda: process.grave.letters)

    for rounds in (1, 2):
        assert run("ask", "c1", "--dsn", dsn).exit_code == 0
        process.until(lambda: caplog.text.count("its dead letter stands") == rounds)  # noqa: B023

    assert len(stage.provider.queries) == (6 if queried else 0)
    assert len(process.grave.letters) == 1
    [listed] = json.loads(run("list", "--dsn", dsn, "-o", "json").stdout)
    assert (listed["status"], listed["reason"][:28]) == ("unknown", "asked again, outcome unknown")
    assert stage.replies() == {}


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("answer", "nope", "--outcome", "done"), 3, "got 'nope'"),
        (("ask", "c1"), 4, "expected one whose outcome is unknown, got called"),
        (("answer", "c1", "--outcome", "refused"), 2, "expected a --reason"),
        (("answer", "c1", "--outcome", "done", "--result", "{"), 2, "expected JSON or @FILE"),
    ],
)
def test_what_is_not_his_to_say(stage: Stage, dsn: str, arguments: tuple[str, ...], code: int, text: str) -> None:
    """A command that is not there, one that the service is at, and half an answer."""
    process = stage.process(timeout=2)
    process.hands.paused = True
    process.send(charge())
    process.until(lambda: process.hands.lying)

    done = run(*arguments, "--dsn", dsn)
    assert (done.exit_code, text in done.output) == (code, True), done.output
    assert stage.states() == {"c1": ("claimed", "called")}


def test_a_database_of_another_kind(tmp_path: Path) -> None:
    """Without the tables the remedy is named."""
    done = run("list", "--dsn", f"sqlite:///{tmp_path}/empty.db")

    assert done.exit_code == 1
    assert "idempotency and breaker" in done.output
