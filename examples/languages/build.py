"""Builds the participants that are not Python.

    python -m examples.languages.build java|go DIRECTORY      # prints how to run it

Java needs no JDK: its compiler is a jar beside the others, fetched and checked as the local stack's are
(`compose/local/jars.py`), and the Java that runs the stack runs it. Go needs `go` on the path.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from kompensate.compose.local import jars
from kompensate.compose.local.errors import StackError
from kompensate.compose.local.java import find_java, java_command

HERE = Path(__file__).parent
JAVA_SOURCE = HERE / "java" / "Payments.java"
GO_MODULE = HERE / "go"
CLASS_PATH = "java-participant"
BUILD_SECONDS_MAX = 300

Start = Callable[[str], list[str]]
"""The words that start a participant on the database with this URI."""


class Unavailable(StackError):
    """The language's own tools, or the libraries it needs, cannot be had here."""


def java(directory: Path) -> Start:
    """Compile the payments service into `directory`. Raises StackError."""
    compile_java(directory, [JAVA_SOURCE])
    return java_program(directory, "Payments")


def compile_java(directory: Path, sources: Sequence[Path]) -> None:
    """Compile `sources` into `directory`, with the libraries of the payments service. Raises StackError."""
    jars.fetch(CLASS_PATH)
    libraries = jars.class_path(CLASS_PATH)
    compiler = ("-cp", libraries, "org.eclipse.jdt.internal.compiler.batch.Main", "-17", "-nowarn", "-proc:none")
    _build((find_java().path, *compiler, "-cp", libraries, "-d", str(directory), *map(str, sources)))


def java_program(directory: Path, name: str) -> Start:
    """The class `name` that was compiled into `directory`."""
    words = java_command(f"{directory}:{jars.class_path(CLASS_PATH)}", "128m", "quick", {}, train=False)
    return lambda dsn: [*words, name, _jdbc(dsn)]


def go(directory: Path, module: Path = GO_MODULE) -> Start:
    """Compile the inventory service into `directory`. Raises Unavailable, StackError."""
    if shutil.which("go") is None:
        raise Unavailable("expected `go` on the path, got none: see https://go.dev/dl")
    try:
        _build(("go", "mod", "download"), module)
    except StackError as error:
        raise Unavailable(str(error)) from error
    program = directory / "inventory"
    _build(("go", "build", "-o", str(program), "."), module)
    return lambda dsn: [str(program), dsn]


def _build(words: Sequence[str], directory: Path = HERE) -> None:
    ended = subprocess.run(words, cwd=directory, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS_MAX)
    if ended.returncode:
        raise StackError(
            f"{words[0]}: expected it to build, got status {ended.returncode}:\n{ended.stdout}{ended.stderr}"
        )


def _jdbc(dsn: str) -> str:
    """A URI of libpq's as the JDBC driver takes it: who asks is a parameter there."""
    url = urlsplit(dsn)
    user = f"user={url.username or ''}&password={url.password or ''}"
    return f"jdbc:postgresql://{url.hostname}:{url.port or 5432}{url.path}?{user}"


def main() -> None:
    """Build, and print how to run it."""
    directory = Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    start = {"java": java, "go": go}[sys.argv[1]](directory)
    print(" ".join(start("postgresql://USER:PASSWORD@HOST:5432/DATABASE")))


if __name__ == "__main__":
    main()
