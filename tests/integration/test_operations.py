"""Workers, one of them killed, and an operator at the command line: sagas that cannot go on are helped on by hand."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from kompensate.orchestrator.cli import main
from kompensate.orchestrator.client import Client
from kompensate.orchestrator.client_errors import NotFound
from kompensate.orchestrator.settings import Settings
from kompensate.orchestrator.topics import TopicAdmin
from tests.fixtures.fix_workers import ROOT, SESSION_SECONDS, WorkerProcess
from tests.fixtures.operated_app import app
from tests.fixtures.waiting import wait_until

DEADLINE_SECONDS = 90.0


class Operated:
    """The application's topics, its processes, and an operator's shell."""

    def __init__(self, bootstrap: str, prefix: str, directory: Path) -> None:
        self.bootstrap, self.prefix, self._directory = bootstrap, prefix, directory
        TopicAdmin(app, Settings(bootstrap=bootstrap, prefix=prefix)).apply()
        self.client = Client(bootstrap, app.name, prefix=prefix)
        self.workers: list[WorkerProcess] = []

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self.client.close()

    def worker(self) -> WorkerProcess:
        argv = ["--app", "tests.fixtures.operated_app:app", "--app-dir", str(ROOT), "--bootstrap", self.bootstrap]
        argv += ["--prefix", self.prefix, "--slot", "a", "--slot-directory", str(self._directory)]
        argv += ["--session-timeout", str(SESSION_SECONDS)]
        made = WorkerProcess(self._directory / f"worker-{len(self.workers)}.log", argv, "", "")
        self.workers.append(made)
        return made

    def wait(self, saga_id: str, hold: str, step: str) -> None:
        def stands() -> bool:
            try:
                found = self.client.lookup.view(saga_id)
            except NotFound:
                return False
            return (found.hold, found.step) == (hold, step)

        wait_until(f"{saga_id}: {hold or 'no hold'}, {step}", stands, DEADLINE_SECONDS)

    def order(self, *words: str) -> None:
        """An operator's order, which waits until a worker has taken it."""
        environment = {
            "KOMPENSATE_BOOTSTRAP": self.bootstrap,
            "KOMPENSATE_PREFIX": self.prefix,
            "KOMPENSATE_APP_NAME": app.name,
        }
        said = [*words, "--reason", "ticket 4711", "--by", "ann", "--wait", "--timeout", str(DEADLINE_SECONDS)]
        result = CliRunner().invoke(main, said, env=environment)
        assert result.exit_code == 0, result.output


@pytest.fixture
def operated(kafka: str, topic_prefix: str, tmp_path: Path) -> Iterator[Operated]:
    made = Operated(kafka, topic_prefix, tmp_path)
    yield made
    made.close()


@pytest.mark.slow
def test_an_operator_helps_on_what_cannot_go_on_by_itself(operated: Operated) -> None:
    """A compensation that fails for ever is skipped, a step in doubt completed, one past its pivot compensated."""
    client = operated.client
    first = operated.worker()
    client.start("stuck", "1", saga_id="stuck-1")
    client.start("past", "1", saga_id="past-1")
    operated.wait("stuck-1", "quarantined", "undo reserve")
    operated.wait("past-1", "", "(signal never)")
    client.start("doubtful", "1", saga_id="doubtful-1")
    first.wait(DEADLINE_SECONDS)
    operated.worker()
    operated.wait("doubtful-1", "quarantined", "charge")

    operated.order("skip", "stuck-1", "--step", "reserve")
    operated.order("complete", "--where", "hold=quarantined,step=charge", "--result", '"r-9"')
    operated.order("compensate", "past-1")

    ends = {id_: client.result(id_, DEADLINE_SECONDS) for id_ in ("stuck-1", "doubtful-1", "past-1")}
    assert {id_: (view.status, view.result) for id_, view in ends.items()} == {
        "stuck-1": ("failed", None),
        "doubtful-1": ("completed", "r-9"),
        "past-1": ("compensated", None),
    }
    assert ends["past-1"].reason == "compensate by ann: ticket 4711"
    orders = [client.lookup.view(id_).orders for id_ in ends]
    assert [len(found) for found in orders] == [1, 1, 1], json.dumps(orders)
    assert all(found[0].endswith("by ann: ticket 4711") for found in orders)
