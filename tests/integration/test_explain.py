"""explain on a real broker: without a worker, with one, and with today's code beside it."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kompensate.orchestrator.cli import main
from kompensate.schemas.topics import partition_of
from tests.fixtures.echo_app import PARTITIONS
from tests.fixtures.fix_shell import Shell
from tests.fixtures.fix_workers import Echoes
from tests.fixtures.stage import Stage
from tests.fixtures.waiting import wait_until


def test_without_a_worker(peopled: Stage, shell: Shell) -> None:
    """Each saga with what it waits for and what moves it; that no worker runs is told of those that need one."""
    waits, held = shell.json("explain", "wait-1", "held-1")
    ended = shell.json("explain", "done-1")
    text = shell.ok("explain", "wait-1")

    assert [reason["kind"] for reason in waits["reasons"]] == ["reply", "unowned"]
    assert (waits["reasons"][0]["service"], waits["reasons"][0]["step"]) == ("payments", "charge")
    assert waits["reasons"][0]["next_at"] > waits["reasons"][0]["since_at"]
    assert (waits["partition"], waits["owner"], waits["workers"]) == (partition_of("wait-1", 2), None, 0)
    assert [reason["kind"] for reason in held["reasons"]] == ["paused", "signal", "unowned"]
    assert [reason["kind"] for reason in ended["reasons"]] == ["ended"]
    assert text.splitlines()[0] == "saga wait-1 (checkout): running"
    assert "- no worker runs: group " in text
    assert "  what moves it: start `kompensate worker`\n" in text
    assert text.splitlines()[-1].endswith(": owned by nobody, 0 inputs not handled yet")


def test_what_nobody_has_handled_is_told(peopled: Stage, shell: Shell) -> None:
    """Inputs after the watermark, those of the saga by type and place: also of one that is not begun."""
    shell.ok("signal", "approved", "held-1")
    shell.ok("start", "checkout", "--id", "new-1", "--input", '{"order_id": "1"}')

    found = shell.json("explain", "held-1")
    new = shell.run("explain", "new-1")

    (unhandled,) = [reason for reason in found["reasons"] if reason["kind"] == "unhandled"]
    place = f"{peopled.topics.requests}/{partition_of('held-1', 2)}@"
    assert unhandled["why"].startswith(f"not handled yet: signal at {place}")
    assert found["inputs_behind"] >= 1
    assert new.exit_code == 0
    assert f"not begun: start at {peopled.topics.requests}/{partition_of('new-1', 2)}@" in new.stdout


def test_what_is_not_there_has_its_exit_code(peopled: Stage, shell: Shell) -> None:
    """Never heard of and rejected are 3, damaged is 1; each says what to do, on standard output."""
    shell.ok("start", "chekout", "--id", "o-1")
    peopled.play()
    p = partition_of("wait-1", 2)
    record = peopled.state(p)[b"wait-1"]
    peopled.overwrite(peopled.topics.state, p, "wait-1", (record.value or b"")[:-9], record.headers)

    nobody, rejected, damaged = (shell.run("explain", name) for name in ("nobody", "o-1", "wait-1"))

    assert (nobody.exit_code, rejected.exit_code, damaged.exit_code) == (3, 3, 1)
    assert "no saga 'nobody': none in state, history or quarantine topic" in nobody.stdout
    assert "got 'chekout'" in rejected.stdout
    assert "its pages are damaged" in damaged.stdout


CHANGED = """
from kompensate.orchestrator import Application, Context, saga

@saga("approval")
async def approval(ctx: Context, order: dict) -> None:
    await ctx.sleep(1)

app = Application("shop", [approval])
"""


def test_todays_code_is_asked(peopled: Stage, shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --app it is told whether a worker that has this code could go on, and where it could not."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "explained_code.py").write_text(CHANGED)
    words = ("--app", "explained_code:app", "--app-dir", str(tmp_path))

    held, gone = shell.json("explain", "held-1", "wait-1", *words)

    (differs,) = [reason for reason in held["reasons"] if reason["kind"] == "code"]
    assert "event 2: replay: expected operation 1: receive of 'approved', got operation 1: sleep" in differs["why"]
    assert f"(at {tmp_path / 'explained_code.py'}:6)" in differs["why"]
    (missing,) = [reason for reason in gone["reasons"] if reason["kind"] == "code"]
    assert "expected a saga definition 'checkout' in this application, got none" in missing["why"]


def _explain(echoes: Echoes, saga_id: str) -> Result:
    place = ("--bootstrap", echoes.settings.bootstrap, "--prefix", echoes.settings.prefix)
    return CliRunner().invoke(main, ("explain", saga_id, "--app-name", "echoes", "-o", "json", *place))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_with_a_worker_its_owner_is_named(echoes: Echoes, protocol: str) -> None:
    """The worker that has the saga's partition, by its client and host, in both of Kafka's group protocols."""
    worker = echoes.worker("a", protocol=protocol)
    (saga_id,) = echoes.start(1)
    echoes.finish()

    found = json.loads(_explain(echoes, saga_id).stdout)

    assert found["owner"].endswith(" at 127.0.0.1"), found
    assert found["workers"] == 1
    assert (found["partition"], found["inputs_behind"]) == (partition_of(saga_id, PARTITIONS), 0)
    worker.end()
    wait_until("the group is empty", lambda: json.loads(_explain(echoes, saga_id).stdout)["workers"] == 0, 60)
