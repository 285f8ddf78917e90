"""The stack's jars: only what the lock says is ever put on a class path."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from kompensate.compose.local import jars
from kompensate.compose.local.errors import StackError
from tests.fixtures.servers import Repository, maven_repository

pytestmark = pytest.mark.slow  # the first test imports the downloader

CONTENT = {"one": b"1" * 50_000, "two": b"2" * 70_000}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    monkeypatch.setenv("KOMPENSATE_CACHE", str(tmp_path / "cache"))
    with maven_repository(tmp_path, CONTENT) as served:
        yield served


def _cached(tmp_path: Path) -> dict[str, bytes]:
    """Everything in the cache; a download that was given up leaves nothing there."""
    files = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    return {path.relative_to(tmp_path / "cache").as_posix(): path.read_bytes() for path in files}


WHOLE = {"jars/one-1.0.jar": CONTENT["one"], "jars/two-1.0.jar": CONTENT["two"]}


def test_jars_are_fetched_once(repository: Repository, tmp_path: Path) -> None:
    """What is there and equal to the lock is not asked for again."""
    jars.fetch("sample", lock=repository.lock, mirror=repository.url)
    asked = len(repository.asked)
    jars.fetch("sample", lock=repository.lock, mirror=repository.url)

    assert _cached(tmp_path) == WHOLE
    assert asked == len(repository.asked)
    assert jars.class_path("sample", repository.lock).split(":") == [str(tmp_path / "cache" / name) for name in WHOLE]


def test_the_mirror_can_be_set_by_the_environment(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KOMPENSATE_MAVEN_MIRROR names the repository where the call does not."""
    monkeypatch.setenv("KOMPENSATE_MAVEN_MIRROR", repository.url + "/")
    jars.fetch("sample", lock=repository.lock)

    assert _cached(tmp_path) == WHOLE


@pytest.mark.parametrize("damage", [b"", CONTENT["one"][:-1], b"x" * len(CONTENT["one"])])
def test_a_damaged_jar_is_fetched_again(repository: Repository, tmp_path: Path, damage: bytes) -> None:
    """A cut or changed file in the cache is found at the next start and replaced."""
    jars.fetch("sample", lock=repository.lock, mirror=repository.url)
    (tmp_path / "cache/jars/one-1.0.jar").write_bytes(damage)
    repository.asked.clear()
    jars.fetch("sample", lock=repository.lock, mirror=repository.url)

    assert _cached(tmp_path) == WHOLE
    assert repository.path("two") not in repository.asked


def test_an_interrupted_download_is_tried_again(repository: Repository, tmp_path: Path) -> None:
    """A line that breaks off half way costs one more try."""
    repository.cut.add(repository.path("one"))
    jars.fetch("sample", lock=repository.lock, mirror=repository.url)

    assert _cached(tmp_path) == WHOLE
    assert repository.asked.count(repository.path("one")) == 2


def test_wrong_bytes_never_reach_the_cache(repository: Repository, tmp_path: Path) -> None:
    """A repository that serves other bytes than were locked ends in an error that names both checksums."""
    repository.files[repository.path("one")] = b"3" * len(CONTENT["one"])
    with pytest.raises(StackError) as raised:
        jars.fetch("sample", lock=repository.lock, mirror=repository.url)

    text = str(raised.value)
    assert text.startswith("org.example:one:1.0: download failed 3 times; expected SHA-256 ")
    assert ", got " in text
    assert "KOMPENSATE_MAVEN_MIRROR" in text
    assert "jars/one-1.0.jar" not in _cached(tmp_path)


def test_a_missing_jar_is_named(repository: Repository, tmp_path: Path) -> None:
    """A repository without the jar, or none at all, ends in an error that says which and what to do."""
    del repository.files[repository.path("two")]
    with pytest.raises(StackError, match=r"org\.example:two:1\.0: download failed 3 times; .*Check the network"):
        jars.fetch("sample", lock=repository.lock, mirror=repository.url)

    assert set(_cached(tmp_path)) <= {"jars/one-1.0.jar"}


def test_the_lock_is_whole() -> None:
    """Every jar of every set has a size and a SHA-256, file names are unique, and no address stands in it."""
    text = jars.LOCK.read_text(encoding="utf-8")
    every = {jar.coordinate: jar for name in json.loads(text)["sets"] for jar in jars.locked(name)}

    assert len({jar.filename for jar in every.values()}) == len(every) == len(json.loads(text)["jars"])
    assert all(jar.size > 0 and len(jar.sha256) == 64 for jar in every.values())
    assert "//" not in text


def test_families_of_jars_have_one_version() -> None:
    """Jetty's, Kafka's and Debezium's jars of one class path are of one release: a mixture fails at run time."""
    for name in ("kafka", "connect"):
        versions: dict[str, set[str]] = defaultdict(set)
        for jar in jars.locked(name):
            group, _, version = jar.coordinate.split(":")
            versions[group.removesuffix(".ee10")].add(version)

        mixed = {
            group for group in ("org.eclipse.jetty", "org.apache.kafka", "io.debezium") if len(versions[group]) > 1
        }
        assert not mixed
