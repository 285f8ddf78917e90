"""Five people approve, with the worker killed among them; one denies; a system that does not answer.

.venv/bin/python -m examples.access.demo
"""

import os
import sys
import tempfile
from pathlib import Path

from examples.access import directory
from examples.access.app import Access, Verdict, app
from examples.common import demo
from examples.common.ground import Ground, Parts

RESULT_SECONDS = 60.0
CHAIN = ("ann", "cora", "dan", "eve", "fay")
BOB = Access("bob", "developer")


def parts(file: Path) -> Parts:
    """A worker; the directory is `file`."""
    return Parts(app, "examples.access.app:app", environment={"DIRECTORY": str(file)})


def wait_for_mail(ground: Ground, recipient: str) -> None:
    """Wait until that one was asked. Raises TimeoutError, ChildEnded."""
    ground.wait_until(
        f"a mail to {recipient}",
        lambda: (recipient,) in directory.rows("SELECT recipient FROM mail"),
        RESULT_SECONDS,
    )


def story(ground: Ground) -> None:
    """Three requests."""
    with ground.client() as client:
        client.start("access", BOB, saga_id="r-1")
        for name in CHAIN[:3]:
            client.signal("r-1", f"verdict-{name}", Verdict(True))
        wait_for_mail(ground, CHAIN[3])
        print(f"r-1: {', '.join(CHAIN[:3])} approve, {CHAIN[3]} is asked; the worker is killed and started again")
        ground.children["worker-1"].kill()
        ground.children["worker-1"].start()
        for name in CHAIN[3:]:
            client.signal("r-1", f"verdict-{name}", Verdict(True))
        print(f"r-1: {client.result('r-1', RESULT_SECONDS).result}")

        client.start("access", BOB, saga_id="r-2")
        client.signal("r-2", "verdict-ann", Verdict(False, "is on leave"))
        print(f"r-2: {client.result('r-2', RESULT_SECONDS).reason}")

        directory.break_down("cloud", 100)
        client.start("access", BOB, saga_id="r-3")
        for name in CHAIN:
            client.signal("r-3", f"verdict-{name}", Verdict(True))
        print(f"r-3: {client.result('r-3', RESULT_SECONDS).reason}")
    accounts = directory.rows("SELECT system, what FROM account")
    print(f"accounts: {accounts}")
    mails = directory.rows("SELECT recipient FROM mail")
    assert len(mails) == len(CHAIN) + 1 + len(CHAIN), f"expected everybody to be asked once, got {mails}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIRECTORY"] = str(Path(folder) / "directory.sqlite")
        directory.create()
        sys.exit(demo.main("access", lambda: parts(Path(os.environ["DIRECTORY"])), story))
