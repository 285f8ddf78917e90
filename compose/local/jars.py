"""The stack's jars: fetched once per user by jgo, checked against the committed lock at every start.

A jar is downloaded beside the cache, hashed, and only then renamed into it, so an interrupted download
leaves nothing that looks whole. Where the cache lies: `KOMPENSATE_CACHE`, else the user's cache folder.
`KOMPENSATE_MAVEN_MIRROR` names a Maven repository to use instead of jgo's default.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from kompensate.compose.local.errors import StackError

LOCK = Path(__file__).with_name("jars.lock.json")
DOWNLOADS_AT_ONCE = 4
DOWNLOAD_ATTEMPTS_MAX = 3
RESPONSE_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock."""

    coordinate: str  # group:artifact:version
    size: int  # bytes
    sha256: str

    @property
    def filename(self) -> str:
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def cache_directory() -> Path:
    """Where this user keeps what the stack downloads and derives."""
    if chosen := os.environ.get("KOMPENSATE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "kompensate"


def locked(name: str, lock: Path = LOCK) -> list[Jar]:
    """The jars of the class path `name` ("kafka", "connect"), in class path order."""
    content = json.loads(lock.read_text(encoding="utf-8"))
    jars = content["jars"]
    return [Jar(key, jars[key]["bytes"], jars[key]["sha256"]) for key in content["sets"][name]]


def class_path(name: str, lock: Path = LOCK) -> str:
    """The class path `name`; its jars are there after `fetch`."""
    return os.pathsep.join(str(_folder() / jar.filename) for jar in locked(name, lock))


def fetch(name: str, *, lock: Path = LOCK, mirror: str | None = None) -> None:
    """Have every jar of the class path `name`, equal to the lock: downloads what is missing or differs.

    Raises StackError where a jar cannot be fetched, or what arrives is not what was locked.
    """
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    jars = locked(name, lock)
    with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
        differences = pool.map(lambda jar: difference(folder / jar.filename, jar), jars)
        wrong = [jar for jar, differs in zip(jars, differences, strict=True) if differs]
        if wrong:
            _fetch_all(wrong, folder, mirror or os.environ.get("KOMPENSATE_MAVEN_MIRROR"), pool)


def _folder() -> Path:
    return cache_directory() / "jars"


def difference(path: Path, jar: Jar) -> str | None:
    """How the file differs from the lock, or None. A size says enough for an interrupted download."""
    try:
        size = path.stat().st_size
        if size != jar.size:
            return f"expected {jar.size} bytes, got {size}"
        with path.open("rb") as file:
            got = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return "expected a file, got none"
    return None if got == jar.sha256 else f"expected SHA-256 {jar.sha256}, got {got}"


def _fetch_all(jars: list[Jar], folder: Path, mirror: str | None, pool: ThreadPoolExecutor) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    console = Console(stderr=True)
    with (
        # Beside the cache, on the same file system, so that the last step is a rename.
        tempfile.TemporaryDirectory(dir=folder.parent, prefix="download-") as staging,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task(f"Downloading {len(jars)} jars", total=sum(jar.size for jar in jars))
        stopped = threading.Event()

        def arrived(count: int) -> None:
            if stopped.is_set():
                raise _Stopped
            progress.advance(task, count)

        done = [pool.submit(_fetch, jar, folder, Path(staging), mirror, arrived) for jar in jars]
        try:
            for future in done:
                future.result()
        except BaseException:  # a failure or Ctrl-C ends it now, not after all the others
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class _Stopped(BaseException):
    """Ends a download in mid-flight; not an Exception, for those are tried again."""


def _fetch(jar: Jar, folder: Path, staging: Path, mirror: str | None, arrived: Callable[[int], None]) -> None:
    """Fetch one jar, again where the line breaks or the bytes are wrong, and put it in its place."""
    failure = ""
    for attempt in range(DOWNLOAD_ATTEMPTS_MAX):
        counted = _Counted(arrived)
        try:
            path = _download(jar, staging / f"{jar.filename}.{attempt}", mirror, counted)
        except StackError:
            raise
        except Exception as error:  # requests' and jgo's own kinds, all of which mean: not fetched
            failure = f"{type(error).__name__}: {error}"
        else:
            failure = difference(path, jar) or ""
            if not failure:
                path.replace(folder / jar.filename)
                return
        counted.take_back()
    raise StackError(
        f"{jar.coordinate}: download failed {DOWNLOAD_ATTEMPTS_MAX} times; {failure}. Check the network, or "
        f"name a repository that has it with KOMPENSATE_MAVEN_MIRROR (now: {mirror or 'not set'})."
    )


class _Counted:
    """Progress of one attempt, which a failed attempt takes back."""

    def __init__(self, arrived: Callable[[int], None]) -> None:
        self.arrived = arrived
        self.total = 0

    @contextlib.contextmanager
    def __call__(self, filename: str, size: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG002 (jgo's shape)
        yield self._count

    def _count(self, count: int) -> None:
        self.total += count
        self.arrived(count)

    def take_back(self) -> None:
        self.arrived(-self.total)


def _download(jar: Jar, repository: Path, mirror: str | None, progress: _Counted) -> Path:
    try:
        from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415 (optional: only to download)
    except ImportError as error:
        raise StackError(
            "expected the package jgo, which downloads the jars; install it: pip install 'kompensate[dev]'"
        ) from error
    resolver = PythonResolver(progress_callback=progress)
    context = MavenContext(
        resolver=resolver,
        repo_cache=repository,
        remote_repos={"mirror": mirror.rstrip("/")} if mirror else None,
        timeout=RESPONSE_TIMEOUT_SECONDS,
    )
    group, artifact, version = jar.coordinate.split(":")
    path = resolver.download(context.project(group, artifact).at_version(version).artifact())
    assert path is not None
    return Path(path)
