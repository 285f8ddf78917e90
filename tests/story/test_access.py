"""The access request: nobody is asked twice, silence moves on, and accounts are all there or all gone."""

import ast
import inspect
from datetime import timedelta
from pathlib import Path

import pytest

from examples.access import app as module
from examples.access import directory
from examples.access.app import SYSTEMS, Verdict, access, app
from examples.access.demo import BOB, CHAIN, parts, wait_for_mail
from kompensate.orchestrator.testing import MODES, SagaHandle, SagaTest
from kompensate.schemas.faults import VARIABLE
from tests.fixtures.fix_ground import DEADLINE_SECONDS, OpenGround, wait_for_death

DAY = 24 * 3600
LINES_MAX = 12
NAMES = SYSTEMS["developer"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory, with its five approvers."""
    monkeypatch.setenv("DIRECTORY", str(tmp_path / "directory.sqlite"))
    directory.create()
    return tmp_path / "directory.sqlite"


@pytest.fixture(params=MODES)
def test(request: pytest.FixtureRequest, file: Path) -> SagaTest:
    """The same people in each mode: the worker killed at every commit, messages doubled, programs replayed."""
    return SagaTest(app, mode=request.param)


def approve(test: SagaTest, request: SagaHandle, *names: str) -> None:
    """These people say yes, each a day after being asked."""
    for name in names:
        test.run_until_idle()
        request.assert_waits_for(f"verdict-{name}")
        test.advance(DAY)
        request.signal(f"verdict-{name}", Verdict(True))


def asked() -> list[str]:
    return [name for (name,) in directory.rows("SELECT recipient FROM mail")]


def accounts() -> list[tuple[str, str]]:
    return directory.rows("SELECT system, what FROM account")


def test_twelve_lines() -> None:
    """What the approval takes, from its decorator to its end, without the docstring."""
    tree = ast.parse(inspect.getsource(module))
    (function,) = (node for node in tree.body if isinstance(node, ast.AsyncFunctionDef) and node.name == "access")
    del function.body[0]
    lines = (function.end_lineno or 0) - function.body[0].lineno + 1 + len(function.decorator_list) + 1

    assert lines <= LINES_MAX
    assert max(map(len, inspect.getsource(module).splitlines())) <= 120


def test_all_five_approve(test: SagaTest) -> None:
    """Each is asked once, in order, and each account is made once."""
    request = test.start(access, BOB)
    approve(test, request, *CHAIN)
    test.run()

    request.assert_completed([f"bob@{name}" for name in NAMES])
    assert asked() == list(CHAIN)
    assert accounts() == [(name, "made") for name in NAMES]


def test_who_is_silent_has_the_deputy_asked(test: SagaTest) -> None:
    """After seven days, and no sooner; the chain goes on from there."""
    request = test.start(access, BOB)
    approve(test, request, "ann")
    test.run_until_idle()
    test.advance(7 * DAY - 1)
    request.assert_waits_for("verdict-cora")
    test.advance(1)
    approve(test, request, "deputy-of-cora", "dan", "eve", "fay")
    test.run()

    request.assert_completed()
    assert asked() == ["ann", "cora", "deputy-of-cora", "dan", "eve", "fay"]


def test_nobody_answers(test: SagaTest) -> None:
    """Two weeks, then it is over: nobody above is bothered, and no account is made."""
    began = test.now
    request = test.start(access, BOB)
    test.run()

    request.assert_failed("deputy-of-ann: did not answer")
    assert test.now - began == timedelta(days=14)
    assert asked() == ["ann", "deputy-of-ann"]
    assert accounts() == []


def test_denied(test: SagaTest) -> None:
    """At once, with the reason, and nobody further up is asked."""
    request = test.start(access, BOB)
    approve(test, request, "ann")
    request.signal("verdict-cora", Verdict(False, "is on leave"))
    test.run()

    request.assert_failed("cora: is on leave")
    assert asked() == ["ann", "cora"]
    assert accounts() == []


def test_a_system_that_answers_at_the_fourth_time(test: SagaTest) -> None:
    """Three retries are enough."""
    directory.break_down("build", 3)
    request = test.start(access, BOB)
    approve(test, request, *CHAIN)
    test.run()

    request.assert_completed()
    assert accounts() == [(name, "made") for name in NAMES]


def test_a_system_that_does_not_answer(test: SagaTest) -> None:
    """What was made is revoked in reverse, each once, and the request says why; the approvals were for nothing."""
    directory.break_down("cloud", 100)
    request = test.start(access, BOB)
    approve(test, request, *CHAIN)
    test.run()

    request.assert_compensated("cloud does not answer")
    made = [(name, "made") for name in NAMES[:-1]]
    assert accounts() == made + [(name, "revoked") for name, _ in reversed(made)]


@pytest.mark.slow
def test_killed_among_the_approvers(open_ground: OpenGround, file: Path) -> None:
    """kill -9 while eve thinks, and when an account is made and not yet recorded: no letter and no account twice."""
    ground = open_ground(parts(file))
    worker = ground.children["worker-1"]
    with ground.client() as client:
        client.start("access", BOB, saga_id="r-1")
        for name in CHAIN[:3]:
            client.signal("r-1", f"verdict-{name}", Verdict(True))
        wait_for_mail(ground, "eve")
        worker.kill()
        worker.start(**{VARIABLE: "worker.before_commit:kill:6"})
        for name in CHAIN[3:]:
            client.signal("r-1", f"verdict-{name}", Verdict(True))
        wait_for_death(worker)
        worker.start()
        ended = client.result("r-1", DEADLINE_SECONDS)
    assert (ended.status, ended.result) == ("completed", [f"bob@{name}" for name in NAMES])
    assert asked() == list(CHAIN)
    assert accounts() == [(name, "made") for name in NAMES]
