"""Many sagas asked at once from the command line, on real topics."""

import signal
from collections.abc import Iterator

import pytest

from kompensate.orchestrator.client import Client, Start
from tests.fixtures.fix_shell import Background, Shell
from tests.fixtures.stage import Stage, silent_at
from tests.fixtures.waiting import wait_until

CHARGED = ["--where", "definition=checkout,step=charge"]


@pytest.fixture
def client(stage: Stage) -> Iterator[Client]:
    with Client(stage.bootstrap, "shop", prefix=stage.prefix) as made:
        yield made


@pytest.fixture
def crowd(stage: Stage, client: Client) -> Stage:
    """c-0 … c-9 wait for payments, c-9 paused; a-0 waits for a signal."""
    client.start_many([Start("checkout", f"c-{n}", {"order_id": str(n)}) for n in range(10)])
    client.start("approval", {"order_id": "0"}, saga_id="a-0")
    stage.play(silent_at("charge"))
    client.pause("c-9")
    stage.play(silent_at("charge"))
    return stage


def statuses(shell: Shell) -> dict[str, str]:
    return {view["saga_id"]: view["status"] for view in shell.json("list")}


def test_a_dry_run_says_who_would_be_asked(crowd: Stage, shell: Shell) -> None:
    """What list shows for the same filter, without those that cannot take it; nothing is sent."""
    listed = shell.run("list", *CHARGED, "-o", "ids")
    told = shell.run("pause", *CHARGED, "--dry-run", "-o", "ids")

    assert (told.exit_code, len(listed.stdout.split())) == (0, 10)
    assert sorted(told.stdout.split()) == [f"c-{n}" for n in range(9)]
    assert told.stderr == "pause: 10 sagas match, 9 would be asked, 1 left alone (1 held already)\n"
    assert crowd.play() == 0


def test_many_are_asked_and_the_same_again_asks_nobody(crowd: Stage, shell: Shell) -> None:
    """Each is undone; the second run finds none that matches, and that is no error."""
    first = shell.run("cancel", *CHARGED, "--rate", "1000", "--reason", "recall", "-o", "ids")
    crowd.play()
    second = shell.run("cancel", *CHARGED, "--reason", "recall", "-o", "ids")

    assert sorted(first.stdout.split()) == [f"c-{n}" for n in range(10)]
    assert first.stderr == "cancel: 10 sagas match, 10 asked, 0 left alone\n"
    assert (second.exit_code, second.stdout) == (0, "")
    assert "cancel: 0 sagas match" in second.stderr
    assert statuses(shell) == {"a-0": "running", **{f"c-{n}": "cancelled" for n in range(10)}}


def test_an_order_given_twice_counts_once(crowd: Stage, shell: Shell, client: Client) -> None:
    """Before a worker has handled the first run the second looks the same: its orders are rejected, one by one."""
    words = ["skip", *CHARGED, "--step", "charge", "--rate", "1000", "--reason", "paid in cash", "--by", "ann"]
    shell.ok(*words)
    shell.ok(*words)
    crowd.play(silent_at("ship"))

    assert {view["step"] for view in shell.json("list", "--type", "checkout")} == {"ship"}
    acted = [e for e in shell.json("history", "c-0") if e["event"] == "OperatorActed"]
    assert len(acted) == 1
    rejected = [dict(r.headers or ())["q_reason"] for r in crowd.scan(crowd.topics.quarantine, {0: 0, 1: 0})]
    assert len(rejected) == 10
    assert all(b"expected the name or number of one open step" in (reason or b"") for reason in rejected)


def test_it_waits_for_all_and_tells_who_was_rejected(crowd: Stage, shell: Shell, background: Background) -> None:
    """--wait: 0 where all have taken it, 4 where one has not."""
    taken = background(shell, "compensate", *CHARGED, "--reason", "r", "--wait", "--rate", "1000")
    wait_until("it is answered", lambda: crowd.play() or taken.poll() is not None)
    out, err = taken.communicate(timeout=20)
    assert (taken.returncode, out.count("handled")) == (0, 10), err

    words = ["close", "c-0", "a-0", "--reason", "r", "--wait", "-o", "jsonl"]
    rejected = background(shell, *words)
    wait_until("it is answered", lambda: crowd.play() or rejected.poll() is not None)
    out, _ = rejected.communicate(timeout=20)
    assert rejected.returncode == 4
    assert ['"handled"' in line for line in out.splitlines()] == [False, True]
    assert "has ended" in out


def test_an_interrupted_run_is_gone_on_with(crowd: Stage, shell: Shell, background: Background) -> None:
    """Ctrl-C: 130, with how many are left; the same again asks those alone."""
    slow = background(shell, "cancel", *CHARGED, "--rate", "0.5", "-o", "ids")
    wait_until("the first are asked", lambda: crowd.play() > 0)
    slow.send_signal(signal.SIGINT)
    _, err = slow.communicate(timeout=20)
    crowd.play()

    assert slow.returncode == 130
    assert "to go; the same again goes on from there" in err
    before = {saga_id for saga_id, status in statuses(shell).items() if status == "cancelled"}
    assert 0 < len(before) < 9
    again = set(shell.ok("cancel", *CHARGED, "--rate", "1000", "-o", "ids").split())
    assert again == {f"c-{n}" for n in range(10)} - before


def test_a_signal_to_many_is_taken_once(crowd: Stage, shell: Shell) -> None:
    """Its id names the batch, and must be given."""
    words = ["signal", "approved", "--where", "definition=approval", "--payload", '"yes"']
    assert "expected --signal-id with --where" in shell.run(*words).stderr
    for _ in range(2):
        shell.ok(*words, "--signal-id", "friday")
    crowd.play(silent_at("charge"))

    assert [e["event"] for e in shell.json("history", "a-0")].count("SignalKept") == 1
    assert shell.json("show", "a-0")["result"] == "yes"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["cancel"], "expected saga ids or --where, got neither"),
        (["cancel", "o-1", "--where", "status=running"], "expected saga ids or --where, got both"),
        (["cancel", "o-1", "--dry-run"], "expected --dry-run and --rate with --where only"),
        (["cancel", "--where", "status=walking"], "status: expected one of pending, running"),
        (["list", "--where", "colour=red"], "expected NAME=VALUE with NAME one of status"),
        (["cancel", "--where", "status=running", "--rate", "0"], "is not in the range x>0"),
    ],
)
def test_whom_is_not_clear_is_wrong_usage(shell: Shell, words: list[str], text: str) -> None:
    result = shell.run(*words)

    assert result.exit_code == 2
    assert text in result.stderr
