"""The gateway: its one command, and every way in which a provider goes wrong, over real HTTP."""

import subprocess
import sys
from pathlib import Path

import pytest

from examples.gateway import demo
from examples.gateway.demo import provider
from examples.gateway.gateway import entries
from examples.gateway.service import guarded
from kompensate.participants.database import connect
from tests.fixtures.at_work import at_work
from tests.fixtures.outside import Stage, charge
from tests.fixtures.waiting import wait_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_the_command_tells_its_story() -> None:
    """RM90.00 without the guards, RM45.00 with them, wherever the service is killed."""
    done = subprocess.run(
        [sys.executable, "-m", "examples.gateway.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    charged = {(line[0], line[-2]): line[-1] for line in lines if line and line[0] in ("first", "guarded")}
    assert {charged["first", point] for point in ("never", *demo.FIRST_POINTS)} == {"RM90.00"}
    assert {charged["guarded", point] for point in ("never", *demo.POINTS)} == {"RM45.00"}
    assert len(charged) == 3 + 1 + len(demo.POINTS)


@pytest.mark.parametrize(
    ("words", "outcome", "cents", "requests"),
    [
        (["ok"], "done", 4500, 1),
        (["slow"], "done", 4500, 2),  # longer than the time-out: its late answer, or the second's
        (["decline"], "refused", 0, 1),
        (["busy", "busy"], "done", 4500, 3),
        (["500-after"], "done", 4500, 2),
        (["500-cached"], "failed", 0, 2),
        (["drop-after"], "done", 4500, 2),
        (["timeout-after"], "done", 4500, 2),
        (["reset"], "done", 4500, 2),
        (["garbage"], "done", 4500, 2),
        (["endless"], "done", 4500, 2),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_a_provider_that_goes_wrong(tmp_path: Path, words: list[str], outcome: str, cents: int, requests: int) -> None:
    """One charge at most, the right answer, and no more requests than that took."""
    stage = Stage(connect(f"sqlite:///{tmp_path}/payments.db", "payments"))
    ledger = tmp_path / "ledger.jsonl"
    with provider(ledger, words) as gateway:
        with at_work(guarded(gateway.address, timeout=0.7), stage.engine) as (send, grave):
            send(charge())
            wait_until("an answer", stage.replies)
        asked = gateway.requests

    assert stage.replies() == {"c1": [outcome]}
    assert sum(paid for _, paid in entries(ledger)) == cents
    assert asked <= requests
    assert grave.letters == []
    stage.engine.dispose()


def test_a_provider_that_forgets_keys(tmp_path: Path) -> None:
    """It knows a key for three seconds (H83): the call that hung is not made again, its charge is found by its key."""
    stage = Stage(connect(f"sqlite:///{tmp_path}/payments.db", "payments"))
    ledger = tmp_path / "ledger.jsonl"
    with provider(ledger, ["timeout-after"], window=3.0) as gateway:
        with at_work(guarded(gateway.address, window=3.0, timeout=2.0), stage.engine) as (send, _):
            send(charge())
            wait_until("an answer", stage.replies)
        asked = gateway.requests

    assert stage.replies() == {"c1": ["done"]}
    assert stage.payload("c1") == {"charge": "ch_c1"}
    assert entries(ledger) == [("c1", 4500)]
    assert asked == 1
    stage.engine.dispose()
