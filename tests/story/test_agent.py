"""The agent: each tool is used once, whatever is killed, and what cannot be taken back only on a person's word."""

from collections.abc import Sequence
from datetime import timedelta
from functools import wraps
from pathlib import Path

import pytest

from examples.agent import app as agent
from examples.agent import tools
from examples.agent.app import APPROVAL_SECONDS, Task, Verdict, app, assistant
from examples.agent.model import Note, Thought, think
from kompensate.orchestrator import NotDone
from kompensate.orchestrator.testing import MODES, SagaHandle, SagaTest

BROKEN = Task("t-1", "o-1 arrived broken")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the tools' world."""
    monkeypatch.setenv("AGENT_DESK", str(tmp_path / "desk.sqlite"))
    return tmp_path / "desk.sqlite"


@pytest.fixture(params=MODES)
def test(request: pytest.FixtureRequest, desk: Path) -> SagaTest:
    """The agent in each mode: the worker killed at every commit, messages doubled, programs replayed."""
    return SagaTest(app, mode=request.param)


@pytest.fixture
def thoughts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model was asked, each time."""
    asked: list[str] = []

    @wraps(think)
    def counted(request: str, notes: Sequence[Note]) -> Thought:
        asked.append(f"{request}, {len(notes)} notes")
        return think(request, notes)

    monkeypatch.setattr(agent, "think", counted)
    return asked


def at_the_question(test: SagaTest) -> SagaHandle:
    """A task whose agent asks whether it may refund."""
    found = test.start(assistant, BROKEN)
    test.run_until_idle()
    found.assert_waits_for("approval-2")
    assert tools.calls() == [("look_up", "o-1")]
    return found


def test_approved(test: SagaTest, thoughts: list[str]) -> None:
    """Looked up once, refunded once, after the word of a person; no replay pays for a thought again."""
    found = at_the_question(test)
    found.signal("approval-2", Verdict(True, "ann"))
    test.run()

    each = 2 if test.mode.crashes else 1  # there the worker dies after every thought, before its commit
    assert thoughts == [f"o-1 arrived broken, {n} notes" for n in (0, 1, 2) for _ in range(each)]

    found.assert_completed("o-1 was sold for 25.00; 25.00 were refunded.")
    assert tools.calls() == [("look_up", "o-1"), ("refund", "o-1")]


def test_denied(test: SagaTest) -> None:
    """The agent learns of it and answers; nothing was refunded."""
    found = at_the_question(test)
    found.signal("approval-2", Verdict(False, "ann"))
    test.run()

    found.assert_completed("I am sorry, o-1 cannot be refunded.")
    assert tools.calls() == [("look_up", "o-1")]


def test_nobody_answers(test: SagaTest) -> None:
    """After an hour it is over, and nothing was refunded."""
    began = test.now
    found = at_the_question(test)
    test.run()

    found.assert_failed("nobody approved it within an hour")
    assert test.now - began == timedelta(seconds=APPROVAL_SECONDS)
    assert tools.calls() == [("look_up", "o-1")]


def test_a_verdict_is_for_one_question(test: SagaTest) -> None:
    """Verdicts on other turns do not count, and of two on one the first does."""
    found = at_the_question(test)
    found.signal("approval-1", Verdict(True, "eve"))
    found.signal("approval-3", Verdict(True, "eve"))
    found.signal("approval-2", Verdict(False, "ann"), delay=1)
    found.signal("approval-2", Verdict(True, "eve"), delay=2)
    test.run()

    found.assert_completed("I am sorry, o-1 cannot be refunded.")
    assert tools.calls() == [("look_up", "o-1")]


def test_an_order_that_is_not_there(test: SagaTest) -> None:
    """The tool says no; it is not tried again."""
    found = test.start(assistant, Task("t-1", "o-7 arrived broken"))
    test.run()

    found.assert_compensated("no such order")
    assert tools.calls() == []


def test_a_call_in_doubt_is_looked_up(desk: Path) -> None:
    """What was made is found by its key and not made again; what was not is said to be so."""
    tools.use("refund", "o-1", "k-1")

    assert tools.find_call("refund", "o-1", "k-1") == "25.00 were refunded"
    with pytest.raises(NotDone):
        tools.find_call("refund", "o-1", "k-2")
