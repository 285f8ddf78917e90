"""For pytest: the fixture `saga_test`, modes that rerun tests, the story of a failed test, the coverage report.

pytest loads this by itself where Kompensate is installed: until it is used, nothing beyond the standard library comes
with it.
"""

from collections.abc import Callable, Generator
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kompensate.orchestrator.testing import SagaTest

_MADE = pytest.StashKey[list["SagaTest"]]()
_SEED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kompensate", "sagas under test")
    group.addoption(
        "--kompensate-modes",
        metavar="MODES",
        help="Run tests that use `saga_test` in these modes, with commas between, or in `all`. Default: cached.",
    )
    group.addoption("--kompensate-seed", type=int, metavar="N", help="For mode reorder. Default: a random one.")
    group.addoption(
        "--kompensate-coverage",
        action="store_true",
        help="Report which outcomes and compensations of each saga's steps the tests took, and which never.",
    )
    parser.addini("kompensate_modes", "As --kompensate-modes.", default="cached")


def pytest_configure(config: pytest.Config) -> None:
    seed: int | None = config.getoption("--kompensate-seed")
    config.stash[_SEED] = Random().randrange(10**6) if seed is None else seed  # noqa: S311  # not a secret


def pytest_report_header(config: pytest.Config) -> str | None:
    """What a run of other modes than the default one needs to be repeated."""
    found = modes(config)
    return None if found == ["cached"] else f"kompensate: modes {', '.join(found)}; seed {config.stash[_SEED]}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "saga_test" in metafunc.fixturenames:
        metafunc.parametrize("saga_test", modes(metafunc.config), indirect=True)


def modes(config: pytest.Config) -> list[str]:
    """The modes that were asked for. Raises UsageError."""
    from kompensate.orchestrator.testing.modes import MODES, mode_named  # noqa: PLC0415  # only where it is used

    asked = config.getoption("--kompensate-modes") or config.getini("kompensate_modes")
    if asked == "all":
        return list(MODES)
    try:
        return [mode_named(name.strip()).name for name in asked.split(",")]
    except ValueError as error:
        raise pytest.UsageError(f"--kompensate-modes: {error}") from error


@pytest.fixture
def saga_test(request: pytest.FixtureRequest) -> "Callable[..., SagaTest]":
    """Makes a SagaTest in the mode that this test runs in: `saga_test(app)`."""
    from kompensate.orchestrator.testing.environment import SagaTest  # noqa: PLC0415  # only where it is used

    made = request.node.stash.setdefault(_MADE, [])
    mode, seed = request.param, request.config.stash[_SEED]

    def make(*args: Any, **named: Any) -> SagaTest:
        test = SagaTest(*args, **{"mode": mode, "seed": seed, **named})
        made.append(test)
        return test

    return make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test tells the stories of its sagas."""
    report = yield
    if report.failed and item.stash.get(_MADE, []):
        report.sections.append(("sagas", "\n".join(test.story for test in item.stash[_MADE])))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--kompensate-coverage"):
        return
    from kompensate.orchestrator.testing.coverage import COVERAGE  # noqa: PLC0415  # only where it is used

    terminalreporter.section("sagas: what the tests took, and what never")
    for line in COVERAGE.report():
        terminalreporter.write_line(line)
