"""Infrastructure: all resources or none, and none made twice; killed at every commit, and with -9."""

from pathlib import Path

import pytest

from examples.infrastructure import cloud
from examples.infrastructure.app import Wanted, app, environment
from examples.infrastructure.demo import parts
from kompensate.orchestrator.testing import MODES, SagaHandle, SagaTest
from kompensate.schemas.faults import VARIABLE
from tests.fixtures.fix_ground import DEADLINE_SECONDS, OpenGround, wait_for_death

KINDS = ["disk", "dns", "machine", "network"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The provider."""
    monkeypatch.setenv("CLOUD", str(tmp_path / "cloud.sqlite"))
    cloud.open_account()
    return tmp_path / "cloud.sqlite"


@pytest.fixture(params=MODES)
def test(request: pytest.FixtureRequest, file: Path) -> SagaTest:
    """The same provider in each mode: the worker killed at every commit, messages doubled, programs replayed."""
    return SagaTest(app, mode=request.param)


def calls() -> list[tuple[str, str]]:
    return cloud.rows("SELECT verb, kind FROM call")


def resources() -> list[str]:
    return sorted(kind for (kind,) in cloud.rows("SELECT kind FROM resource"))


def wanted(test: SagaTest, processors: int = 4) -> SagaHandle:
    found = test.start(environment, Wanted("test", processors))
    test.run()
    return found


def test_all_of_them(test: SagaTest) -> None:
    """Each was asked for once; the machine after its network and disk, the name after the machine."""
    found = wanted(test)

    found.assert_completed()
    assert sorted(found.result) == KINDS
    assert resources() == KINDS
    assert sorted(calls()[:2]) == [("create", "disk"), ("create", "network")]
    assert calls()[2:] == [("create", "machine"), ("create", "dns")]


def test_past_the_quota(test: SagaTest) -> None:
    """Asked once and not again; network and disk are gone."""
    found = wanted(test, processors=64)

    found.assert_compensated("past the quota")
    assert resources() == []
    assert sorted(calls()) == [("create", "disk"), ("create", "network"), ("delete", "disk"), ("delete", "network")]


def test_a_provider_that_is_busy(test: SagaTest) -> None:
    """Four times there is no machine; the fifth request gets the one there is."""
    cloud.busy("machine", 4)
    found = wanted(test)

    found.assert_completed()
    assert resources() == KINDS


def test_no_name_to_be_had(test: SagaTest) -> None:
    """After five requests everything is rolled back, the machine before what it stands on, each once."""
    cloud.busy("dns", 100)
    found = wanted(test)

    found.assert_compensated("no dns at the moment")
    assert resources() == []
    deleted = [kind for verb, kind in calls() if verb == "delete"]
    assert deleted[0] == "machine"
    assert sorted(deleted[1:]) == ["disk", "network"]


def test_cancelled_on_the_way(test: SagaTest) -> None:
    """What was made by then is deleted."""
    found = test.start(environment, Wanted("test", 4))
    found.cancel("not wanted any more", after="disk")
    test.run()

    assert found.status in ("cancelled", "completed")
    assert resources() == ([] if found.status == "cancelled" else KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3])
def test_killed_between_request_and_answer(open_ground: OpenGround, file: Path, number: int) -> None:
    """kill -9 before the commit that starts, before one with what the provider made, and before the one after it."""
    ground = open_ground(parts(file))
    worker = ground.children["worker-1"]
    worker.stop()
    worker.start(**{VARIABLE: f"worker.before_commit:kill:{number}"})
    with ground.client() as client:
        client.start("environment", Wanted("test", 4), saga_id="test")
        wait_for_death(worker)
        worker.start()
        ended = client.result("test", DEADLINE_SECONDS)

    assert ended.status == "completed"
    assert resources() == KINDS
    assert sorted(calls()) == [("create", kind) for kind in KINDS]
