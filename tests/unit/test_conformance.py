"""The conformance kit: passes a participant that keeps to the rules, and names the rule that another does not keep."""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kompensate.orchestrator.cli import conform as module
from kompensate.orchestrator.cli import main
from kompensate.orchestrator.cli.conform import conform
from kompensate.orchestrator.conformance.cases import CASES
from kompensate.orchestrator.conformance.subject import BadSubject, CannotCount, Sample, Subject, read
from kompensate.participants.database import connect
from tests.fixtures.conforming import BROKEN, SAMPLES, Broken, MemoryWire, Stuttering, failed, in_memory
from tests.fixtures.conforming_outside import OUTSIDE_TOO, OutsideWire, OutsideWorld
from tests.fixtures.participants import World

DONE = '{"done": {"type": "stock.Take", "payload": {"how": "done"}}}'


@pytest.mark.slow
def test_a_participant_that_keeps_to_all_rules_passes(tmp_path: Path) -> None:
    """Every case passes, none is skipped."""
    results = in_memory(tmp_path)

    assert failed(results) == set(), results
    assert list(results) == [*(case.name for case in CASES), "replies"]


@pytest.mark.slow
def test_more_answers_than_deliveries_are_no_fault(tmp_path: Path) -> None:
    """At least once, from Kafka to the handler and from the outbox to Kafka, is what everybody may rely on."""
    assert failed(in_memory(tmp_path, wire=Stuttering)) == set()


@pytest.mark.slow
def test_a_participant_that_calls_outside_passes(tmp_path: Path) -> None:
    """Deliveries of a command whose call is out may share its answer."""
    results = in_memory(tmp_path, wire=OutsideWire, made=OutsideWorld)

    assert failed(results) == set(), results


@pytest.mark.slow
@pytest.mark.parametrize("broken", OUTSIDE_TOO, ids=lambda broken: str(broken.rule))
def test_outside_calls_are_not_let_off(tmp_path: Path, broken: Broken) -> None:
    """Those that may share an answer owe one all the same, have one effect, and are answered again afterwards."""
    with broken.leave_out():
        results = in_memory(tmp_path, wire=OutsideWire, made=OutsideWorld)

    assert broken.seen <= failed(results)


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: str(broken.rule))
def test_a_rule_that_is_not_kept_is_found(tmp_path: Path, broken: Broken) -> None:
    """The case that is named for it fails, and says what was expected and what came."""
    with broken.leave_out():
        results = in_memory(tmp_path)

    assert broken.seen <= failed(results)
    assert all(finding.expected != finding.got for name in broken.seen for finding in results[name].findings)
    assert all(results[name].findings for name in broken.seen)


@pytest.mark.slow
def test_uncommitted_commands_are_found(tmp_path: Path) -> None:
    """A consumer that reads what was aborted fails one case, and passes the others."""
    assert failed(in_memory(tmp_path, aborted_too=True)) == {"aborted-command"}


def test_nothing_is_said_of_what_was_not_tried(tmp_path: Path) -> None:
    """A service that never answers fails the first case; the others are not reported."""

    class Mute(MemoryWire):
        def receive(self, seconds: float) -> list[Any]:
            return []

    from kompensate.orchestrator.conformance.kit import run

    world = World(connect(f"sqlite:///{tmp_path}/stock.db", "stock"))
    results = list(run(Mute(world), Subject("stock", SAMPLES), patience=0))
    world.engine.dispose()

    [only] = results
    assert (only.case, only.result) == ("done", "fail")
    assert only.findings[0].got == "0 in 0 s"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", "expected a JSON object, got what is none"),
        ("[1]", "expected a JSON object, got list"),
        ("{}", "done: expected a command that the service answers with done, got none"),
        ('{"done": {"type": "a.B"}}', 'done: expected {"type": text, "payload": any}, got {"type": "a.B"}'),
        (DONE[:-1] + ', "undone": 1}', "expected done, refused, compensation and effects, got undone"),
        (DONE[:-1] + ', "effects": "count"}', "effects: expected a program and its arguments as a list of texts"),
    ],
)
def test_a_file_that_says_something_else(text: str, message: str) -> None:
    """It is refused with what was expected and what is there."""
    with pytest.raises(BadSubject, match=message.replace("{", r"\{").replace("[", r"\[")):
        read("stock", text)


def test_the_saga_stands_in_payloads_and_programs() -> None:
    """Wherever a text has $saga, the saga's id is sent; the program that counts is told it, too."""
    subject = read("stock", '{"done": {"type": "stock.Take", "payload": {"order": "o-$saga", "also": ["$saga"]}}}')
    assert json.loads(subject.samples["done"].value("s1")) == {"order": "o-s1", "also": ["s1"]}

    counter = (sys.executable, "-c", "import sys; print(len(sys.argv[1]))", "$saga")
    assert Subject("stock", {}, counter).effects("four") == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("/no/such/program",), "expected /no/such/program to print a number, got"),
        ((sys.executable, "-c", "print('many')"), "to print a whole number, got status 0: 'many'"),
        ((sys.executable, "-c", "import sys; sys.exit('no database')"), "got status 1: no database"),
    ],
)
def test_a_program_that_cannot_count(words: tuple[str, ...], message: str) -> None:
    """It is named, with what it said."""
    with pytest.raises(CannotCount, match=message):
        Subject("stock", {}, words).effects("s")


@pytest.fixture
def in_place_of_kafka(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryWire:
    """The command talks to a participant in memory."""
    world = World(connect(f"sqlite:///{tmp_path}/stock.db", "stock"), now=time.time())
    wire = MemoryWire(world)

    class Opened:
        def __init__(self, *given: object) -> None:
            assert given == ("b:9092", "stock", "t.", {})

        def __enter__(self) -> MemoryWire:
            return wire

        def __exit__(self, *_: object) -> None:
            world.engine.dispose()

    monkeypatch.setattr(module, "KafkaWire", Opened)
    return wire


PLACE = ["--service", "stock", "--bootstrap", "b:9092", "--prefix", "t.", "--timeout", "0.001"]


@pytest.mark.usefixtures("in_place_of_kafka")
def test_the_command_tells_each_case(tmp_path: Path) -> None:
    """A line a case; what cannot be tried without a sample is skipped and said so. Exit code 0."""
    file = tmp_path / "stock.json"
    file.write_text(DONE)

    result = CliRunner().invoke(conform, [str(file), *PLACE], catch_exceptions=False)

    assert result.exit_code == 0, result.output
    lines = {words[1]: words[0] for line in result.output.splitlines() if len(words := line.split(maxsplit=2)) == 3}
    assert (lines["duplicate"], lines["late-command"], lines["refused"]) == ("pass", "skipped", "skipped")
    assert "not tried, for want of samples: compensation, refused" in result.output
    assert "effects were not counted" in result.output


def test_the_command_fails_with_the_participant(tmp_path: Path, in_place_of_kafka: MemoryWire) -> None:
    """Exit code 1, and JSON with expected and got."""
    in_place_of_kafka.aborted_too = True
    file = tmp_path / "stock.json"
    file.write_text(DONE)

    result = CliRunner().invoke(conform, [str(file), *PLACE, "-o", "json"], catch_exceptions=False)

    assert result.exit_code == 1
    found = {case["case"]: case for case in json.loads(result.stdout)}
    assert found["aborted-command"]["result"] == "fail"
    assert found["aborted-command"]["findings"] == [
        {"what": "answers to a command of an aborted transaction", "expected": "0", "got": "1"}
    ]


@pytest.mark.parametrize(
    ("text", "service", "message"),
    [("{}", "stock", "done: expected a command"), (DONE, "no/name", "service: expected 1 to 100 of")],
)
def test_wrong_usage(tmp_path: Path, text: str, service: str, message: str) -> None:
    """Exit code 2 with the reason, before anything is sent."""
    file = tmp_path / "stock.json"
    file.write_text(text)

    result = CliRunner().invoke(conform, [str(file), "--service", service])

    assert result.exit_code == 2
    assert message in result.output


def test_without_kafka(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit code 5 and one line that names the address; librdkafka's own lines are not shown."""
    monkeypatch.setattr("kompensate.orchestrator.conformance.kafka.CALL_SECONDS", 0.5)
    file = tmp_path / "stock.json"
    file.write_text(DONE)

    result = CliRunner().invoke(main, ["conform", str(file), "--service", "stock", "--bootstrap", "127.0.0.1:1"])

    assert result.exit_code == 5
    assert re.fullmatch(r"Error: Kafka at 127\.0\.0\.1:1: expected an answer about .*\n", result.output)
    assert capfd.readouterr().err == ""


def test_a_sample_is_sent_as_it_is_written() -> None:
    """Text outside of ASCII stays."""
    subject = read("stock", '{"done": {"type": "stock.Take", "payload": "Grüße"}}')

    assert subject.samples["done"] == Sample("stock.Take", '"Grüße"')
