"""The command line on a real broker: what is printed, and with which exit code, is what the help says."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
from typing import Any

import pytest

from kompensate.orchestrator.client import Client
from kompensate.schemas.topics import partition_of
from tests.fixtures.fix_shell import Shell
from tests.fixtures.stage import Stage, silent_at
from tests.fixtures.waiting import wait_until


def test_a_saga_is_started_and_found(stage: Stage, shell: Shell) -> None:
    """start prints where Kafka has it; once a worker was there, show and list know the saga."""
    printed = shell.ok("start", "checkout", "--id", "o-1", "--input", '{"order_id": "1"}')
    stage.play()

    assert printed.splitlines()[1].split() == [
        "o-1",
        "start",
        "acknowledged",
        f"{stage.topics.requests}/{partition_of('o-1', 2)}@0",
    ]
    shown = shell.json("show", "o-1")
    assert (shown["status"], shown["input"], shown["result"]) == ("completed", {"order_id": "1"}, {"shipped": "1"})
    assert shell.ok("list", "-o", "ids").split() == ["o-1"]


def test_inputs_come_from_text_file_or_pipe(stage: Stage, shell: Shell, tmp_path: Any) -> None:
    """--input takes JSON as text, as @FILE and from standard input; all are the same request."""
    file = tmp_path / "order.json"
    file.write_text('{"order_id": "1"}\n')
    shell.ok("start", "checkout", "--id", "a", "--input", '{"order_id": "1"}')
    shell.ok("start", "checkout", "--id", "b", "--input", f"@{file}")
    shell.ok("start", "checkout", "--id", "c", "--input", "-", stdin='{"order_id": "1"}')
    random_id = shell.ok("start", "checkout", "--input", '{"order_id": "1"}', "-o", "ids").strip()
    stage.play()

    views = shell.json("show", "a", "b", "c", random_id)

    assert [view["input"] for view in views] == [{"order_id": "1"}] * 4


def test_nobody_at_work_is_a_time_out(shell: Shell) -> None:
    """--wait without a worker ends with exit code 6 and says that the request stands."""
    result = shell.run("start", "checkout", "--id", "o-1", "--wait", "--timeout", "0.2")

    assert result.exit_code == 6
    assert "is a worker running? The request stands" in result.stderr


def test_what_became_of_requests_is_told(peopled: Stage, shell: Shell) -> None:
    """Rejections and conflicts are exit code 4 with their reasons; a duplicate is as good as a start."""
    with Client(peopled.bootstrap, "shop", prefix=peopled.prefix) as client:
        duplicate = client.start("checkout", {"order_id": "done-1"}, saga_id="done-1")
        conflict = client.start("checkout", {"order_id": "x"}, saga_id="done-1")
        peopled.play()

        assert client.outcome(duplicate).accepted
        assert not client.outcome(conflict).accepted
    process = subprocess.Popen(
        [sys.executable, "-Im", "kompensate.orchestrator.cli", "cancel", "nobody", "wait-1", "--wait", "-o", "jsonl"],
        env={**os.environ, **shell.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until("the requests are there", lambda: peopled.play() > 0)
    wait_until("both are handled", lambda: peopled.play() or process.poll() is not None)
    out, err = process.communicate(timeout=20)

    found = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 4, err
    assert [(f["saga_id"], f["outcome"]["kind"]) for f in found] == [("nobody", "rejected"), ("wait-1", "handled")]
    assert "does not exist" in found[0]["outcome"]["reason"]


def test_a_rejected_start_is_told_to_who_asks_for_its_saga(stage: Stage, shell: Shell) -> None:
    """show of a saga whose start was rejected is exit code 3 with the start's reason, whatever came after it."""
    shell.ok("start", "chekout", "--id", "o-1")
    shell.ok("cancel", "o-1")
    stage.play()

    result = shell.run("show", "o-1")

    assert result.exit_code == 3
    place = f"{stage.topics.requests}/{partition_of('o-1', len(stage.partitions))}@0"
    assert f"its start at {place} was rejected: saga 'o-1':" in result.stderr
    assert "got 'chekout'" in result.stderr


def test_ids_flow_through_a_pipe(peopled: Stage, shell: Shell) -> None:
    """list -o ids | resume - releases just those that list chose."""
    ids = shell.ok("list", "--hold", "any", "-o", "ids")

    printed = shell.ok("resume", "-", "--reason", "back", "-o", "ids", stdin=f"\n{ids}\n{ids}")
    peopled.play()

    assert (ids, printed) == ("held-1\n", "held-1\n")
    assert shell.json("show", "held-1")["hold"] == ""


def test_a_signal_reaches_its_saga(peopled: Stage, shell: Shell) -> None:
    """signal NAME ID with a payload ends the saga that waits for it; sent twice with one id it counts once."""
    shell.ok("resume", "held-1")
    for _ in range(2):
        shell.ok("signal", "approved", "held-1", "--payload", '"by ann"', "--signal-id", "s-1")
    peopled.play()

    shown = shell.json("show", "held-1")

    assert (shown["status"], shown["result"]) == ("completed", "by ann")


def test_lists_are_filtered(peopled: Stage, shell: Shell) -> None:
    """By status, type and hold, each and together; the limit takes those that changed last."""

    def ids(*words: str) -> set[str]:
        return set(shell.ok("list", *words, "-o", "ids").split())

    assert ids() == {"done-1", "back-1", "wait-1", "held-1"}
    assert ids("--status", "completed", "--status", "compensated") == {"done-1", "back-1"}
    assert ids("--type", "approval") == {"held-1"}
    assert ids("--hold", "paused", "--status", "running") == {"held-1"}
    assert ids("--hold", "quarantined") == set()
    assert ids("--status", "damaged") == set()
    assert ids("--limit", "1") == {"held-1"}
    assert len(ids("--limit", "0")) == 4


def test_a_list_is_a_table_for_people_and_lines_for_programs(peopled: Stage, shell: Shell) -> None:
    """The table tells step and error with counts beside it; jsonl has a saga a line; neither has colour codes."""
    result = shell.run("list")
    lines = [json.loads(line) for line in shell.ok("list", "-o", "jsonl").splitlines()]

    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "running, paused" in rows["held-1"]
    assert "charge" in rows["wait-1"]
    assert "ship: card declined" in rows["back-1"]
    assert "4 of 4 sagas: 2 running, 1" in result.stderr
    assert "\x1b" not in result.output
    assert {line["saga_id"]: line["status"] for line in lines} == {
        "done-1": "completed",
        "back-1": "compensated",
        "wait-1": "running",
        "held-1": "running",
    }


def test_damage_is_shown_and_hides_nothing(peopled: Stage, shell: Shell) -> None:
    """A saga with a damaged page is listed as damaged with the reason; show says so with exit code 1."""
    p = partition_of("wait-1", 2)
    record = peopled.state(p)[b"wait-1"]
    value = bytearray(record.value or b"")
    value[-30] ^= 4
    peopled.overwrite(peopled.topics.state, p, "wait-1", bytes(value), record.headers)

    result = shell.run("show", "wait-1")

    assert result.exit_code == 1
    assert "damaged" in result.stdout
    assert shell.ok("list", "--status", "damaged", "-o", "ids").split() == ["wait-1"]
    assert len(shell.ok("list", "-o", "ids").split()) == 4
    assert shell.run("history", "wait-1").exit_code == 1
    assert shell.run("rebuild", "--all").exit_code == 1


def test_a_card_tells_what_is_waited_for(peopled: Stage, shell: Shell) -> None:
    """show names the service, command and step that a saga waits for, and its steps with their times."""
    printed = shell.ok("show", "wait-1")

    assert "for a reply from payments to payments.Charge (step charge), out since" in printed
    assert any(line.split()[:4] == ["1", "reserve", "inventory", "done"] for line in printed.splitlines())
    assert all(line == line.rstrip() for line in printed.splitlines())


def test_a_history_names_every_event_and_its_cause(peopled: Stage, shell: Shell) -> None:
    """Sequence, time since the event before, step, attempt and record, for an ended saga as for a live one."""
    table = shell.ok("history", "back-1").splitlines()
    events = shell.json("history", "back-1")

    assert len(table) == len(events) + 1
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    refused = next(event for event in events if event["event"] == "CallRefused")
    assert (refused["step"], refused["attempt"], refused["detail"]) == ("ship", 1, "card declined")
    assert refused["cause"]["topic"] == peopled.topics.replies("shipping")
    assert refused["fields"]["error"] == {"reason": "card declined"}
    assert f"{peopled.topics.replies('shipping')}/{refused['cause']['partition']}@" in table[refused["sequence"]]
    assert shell.ok("history", "wait-1").splitlines()[-1].split()[4:6] == ["CallMade", "charge"]


def test_sagas_are_rebuilt_as_of_any_event(peopled: Stage, shell: Shell) -> None:
    """All topics agree: no difference; --at and --as-of give the state as it was then."""
    everything = shell.run("rebuild", "--all", "-o", "json")
    events = shell.json("history", "back-1")

    assert everything.exit_code == 0
    assert [found["differences"] for found in json.loads(everything.stdout)] == [[]] * 4
    for event in events:
        at = shell.json("rebuild", "back-1", "--at", str(event["sequence"]))[0]["state"]
        assert at["events"] == event["sequence"]
    then = shell.json("rebuild", "back-1", "--as-of", events[0]["time"])[0]["state"]
    assert (then["status"], then["events"]) == ("running", 2)


def test_a_difference_is_an_exit_code(peopled: Stage, shell: Shell) -> None:
    """A header that says otherwise than the pages is printed by rebuild, which exits with 1."""
    p = partition_of("wait-1", 2)
    record = peopled.state(p)[b"wait-1"]
    header = [("kompensate", b"9.9 4 0 running - checkout")]
    peopled.overwrite(peopled.topics.state, p, "wait-1", record.value, header)

    result = shell.run("rebuild", "--all")

    assert result.exit_code == 1
    assert result.stdout.startswith("wait-1: header: expected '9.9 4 0 running - checkout' as stored, got '")
    assert shell.run("rebuild", "--all", "-o", "ids").stdout == "wait-1\n"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["show", "nobody"], 3, "saga 'nobody': expected it on partition"),
        (["history", "nobody"], 3, "saga 'nobody'"),
        (["rebuild", "nobody"], 3, "in state or history topic"),
        (["show", "no/body"], 2, "saga id: expected 1 to 200 of"),
        (["start", "no body"], 2, "expected 1 to 100 of"),
        (["start", "checkout", "--input", "{"], 2, "expected JSON, got b'{'"),
        (["start", "checkout", "--input", "@/nowhere"], 2, "expected a file to read, got /nowhere"),
        (["rebuild"], 2, "expected saga ids or --all, got neither"),
        (["rebuild", "--all", "--as-of", "noon"], 2, "expected a time like"),
        (["list", "-X", "nonsense"], 2, "expected NAME=VALUE"),
        (["list", "--app-name", "nothing"], 1, "nothing.state, got only"),
    ],
)
def test_errors_have_their_codes(shell: Shell, words: list[str], code: int, text: str) -> None:
    """Not found is 3, wrong usage 2, other errors 1; the message names expected and got, on standard error."""
    result = shell.run(*words)

    assert result.exit_code == code, result.output
    assert text in result.stderr
    assert result.stdout == ""


def test_watching_ends_with_the_saga(stage: Stage, shell: Shell) -> None:
    """watch ID prints every event, those before it began first, and ends with the saga: 4 unless it completed."""
    shell.ok("start", "checkout", "--id", "o-1", "--input", '{"order_id": "1"}')
    stage.play(silent_at("charge"))
    watching = subprocess.Popen(
        [sys.executable, "-Im", "kompensate.orchestrator.cli", "watch", "o-1"],
        env={**os.environ, **shell.environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    lines = [watching.stdout.readline() for _ in range(4)]
    shell.ok("cancel", "o-1", "--reason", "enough")
    stage.play()
    rest, _ = watching.communicate(timeout=20)

    events = [line.split()[5] for line in [*lines, *rest.splitlines()]]
    assert events[:4] == ["SagaStarted", "CallMade", "CallSucceeded", "CallMade"]
    assert "CompensationStarted" in events
    assert events[-1] == "SagaCancelled"
    assert watching.returncode == 4
    assert shell.run("watch", "o-1", "-o", "jsonl").exit_code == 4


def test_watching_all_is_interrupted(stage: Stage, shell: Shell) -> None:
    """watch prints each saga that changes; Ctrl-C ends it with 130."""
    watching = subprocess.Popen(
        [sys.executable, "-Im", "kompensate.orchestrator.cli", "watch"],
        env={**os.environ, **shell.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    assert watching.stderr is not None
    assert watching.stderr.readline() == "0 sagas; those that change from now on:\n"
    shell.ok("start", "checkout", "--id", "o-1", "--input", '{"order_id": "1"}')
    stage.play(silent_at("charge"))
    first = watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=20)

    assert "o-1  checkout  running" in first
    assert watching.returncode == 130


class Terminal:
    """A command with a terminal for its output, 120 columns wide."""

    def __init__(self, environment: dict[str, str], *words: str) -> None:
        self._end, inner = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-Im", "kompensate.orchestrator.cli", *words],
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40", **environment},
            stdin=inner,
            stdout=inner,
            stderr=inner,
        )
        os.close(inner)
        self.text = ""

    def shows(self, text: str) -> bool:
        """Read what there is; has `text` been printed by now?"""
        while select.select([self._end], [], [], 0)[0]:
            try:
                found = os.read(self._end, 65_536).decode()
            except OSError:  # the command has ended, and so has its terminal
                break
            if not found:
                break
            self.text += found
        return text in self.text

    def close(self) -> str:
        """Wait for the command's end; everything it printed."""
        wait_until("the command ends", lambda: self.shows("\0") or self.process.poll() is not None)
        self.shows("\0")
        os.close(self._end)
        return self.text


def test_a_terminal_is_given_colour_unless_it_wants_none(peopled: Stage, shell: Shell) -> None:
    """A completed saga is green on a terminal; NO_COLOR is honoured there."""
    with_colour = Terminal(shell.environment, "list").close()
    without = Terminal({**shell.environment, "NO_COLOR": "1"}, "list").close()

    assert "\x1b[32mcompleted" in with_colour
    assert "completed" in without
    assert "\x1b[32m" not in without


def test_a_terminal_is_given_a_live_picture(peopled: Stage, shell: Shell) -> None:
    """watch keeps one picture of a saga up to date, and ends with the saga; watch of all does until Ctrl-C."""
    one = Terminal(shell.environment, "watch", "wait-1")
    every = Terminal(shell.environment, "watch")
    wait_until("the saga's picture", lambda: one.shows("for a reply from payments"))
    wait_until("the picture of all", lambda: every.shows("4 sagas"))
    shell.ok("cancel", "wait-1")
    peopled.play()
    wait_until("the picture of all moves", lambda: every.shows("cancelled"))
    every.process.send_signal(signal.SIGINT)

    assert "cancelled" in one.close()
    assert one.process.returncode == 4
    every.close()
    assert every.process.returncode == 130
