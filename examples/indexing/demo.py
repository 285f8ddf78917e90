"""A thousand of this machine's documents are indexed, and the worker is killed in between.

.venv/bin/python -m examples.indexing.demo
DOCUMENTS=10000 INDEX_CHUNKS=1 .venv/bin/python -m examples.indexing.demo
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from examples.common import demo
from examples.common.ground import Ground, Parts
from examples.indexing import index
from examples.indexing.caller import Caller
from examples.indexing.documents import find
from examples.indexing.durable import application

DOCUMENTS = int(os.environ.get("DOCUMENTS", "1000"))
MISSING = "/nowhere/to/be/found.1"
QUESTION = "how do I list the files of a directory"


def parts(file: Path) -> Parts:
    """A worker and the front; the index is `file`."""
    place = "examples.indexing.durable"
    return Parts(application, f"{place}:application", front=place, environment={"INDEX": str(file)})


def wait_for(ground: Ground, documents: int) -> None:
    """Wait until so many are stored. Raises ChildEnded."""
    while index.counted()["documents"] < documents:
        ground.check()
        time.sleep(0.05)


def story(ground: Ground) -> None:
    """All of them, with a kill after two fifths; then one question."""
    locations = [*find(DOCUMENTS - 1), MISSING]
    began = time.monotonic()
    caller = Caller(ground.port, locations)
    wait_for(ground, DOCUMENTS * 2 // 5)
    ground.children["worker-1"].kill()
    print(f"the worker is killed after {time.monotonic() - began:.0f} s: {index.counted()}")
    ground.children["worker-1"].start()
    indexed, failed = caller.report()
    counted = index.counted()
    print(f"{indexed} indexed, {len(failed)} failed in {time.monotonic() - began:.0f} s: {counted}")
    print(f"one that failed: {failed[MISSING]}")
    for found in caller.search(QUESTION):
        print(f"{QUESTION}? {found['near']:.2f} {found['location']}: {found['text'][:60]}")
    assert indexed + len(failed) == len(locations), f"expected {len(locations)} documents, got {indexed}, {failed}"
    assert counted["documents"] == indexed, f"expected {indexed} documents, each once, got {counted}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["INDEX"] = str(Path(folder) / "index.sqlite")
        index.create()
        sys.exit(demo.main("indexing", lambda: parts(Path(os.environ["INDEX"])), story))
