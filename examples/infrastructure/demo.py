"""An environment that comes up with the worker killed on the way, one past the quota, one without a name.

.venv/bin/python -m examples.infrastructure.demo
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from examples.common import demo
from examples.common.ground import Ground, Parts
from examples.infrastructure import cloud
from examples.infrastructure.app import Wanted, app
from kompensate.schemas.faults import VARIABLE

RESULT_SECONDS = 60.0


def parts(file: Path) -> Parts:
    """A worker; the provider is `file`."""
    return Parts(app, "examples.infrastructure.app:app", environment={"CLOUD": str(file)})


def story(ground: Ground) -> None:
    """Three environments."""
    worker = ground.children["worker-1"]
    worker.stop()
    # Killed when the provider has made something and its id is not recorded yet.
    worker.start(**{VARIABLE: "worker.before_commit:kill:2"})
    with ground.client() as client:
        client.start("environment", Wanted("test", 4), saga_id="test")
        deadline = time.monotonic() + RESULT_SECONDS
        while worker.ended() is None:
            assert time.monotonic() < deadline, "expected the worker to be killed"
            time.sleep(0.05)
        made = cloud.rows("SELECT kind FROM resource")
        print(f"test: the worker is killed when the provider has made {made}")
        worker.start()
        print(f"test: {client.result('test', RESULT_SECONDS).result}")

        client.start("environment", Wanted("large", 64), saga_id="large")
        print(f"large: {client.result('large', RESULT_SECONDS).reason}")

        cloud.busy("dns", 100)
        client.start("environment", Wanted("nameless", 1), saga_id="nameless")
        print(f"nameless: {client.result('nameless', RESULT_SECONDS).reason}")
    found = cloud.rows("SELECT kind, environment FROM resource ORDER BY id")
    print(f"resources: {found}")
    assert sorted(found) == [(kind, "test") for kind in ("disk", "dns", "machine", "network")]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CLOUD"] = str(Path(folder) / "cloud.sqlite")
        cloud.open_account()
        sys.exit(demo.main("infrastructure", lambda: parts(Path(os.environ["CLOUD"])), story))
