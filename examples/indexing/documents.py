"""Documents of this machine: manual pages, documentation of packages, docstrings of Python modules.

`find` lists them, `chunks_of` reads one and cuts it into pieces that the model can take in.
"""

import ast
import gzip
import os
import re
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

CHUNK_WORDS = 25
CHUNKS_MAX = int(os.environ.get("INDEX_CHUNKS", "2"))
"""Only a document's beginning is embedded: a chunk takes a processor 30 ms, and there are many documents."""
BYTES_MAX = 1_000_000
ROOTS = ("/usr/share/man", "/usr/share/doc", sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
MANUAL = re.compile(r"\.[1-9][a-z]*(\.gz)?$")
PROSE = re.compile(r"(\.(md|rst|txt)|README|METADATA|copyright|changelog[\w.]*\.gz)$")
MACRO = re.compile(r"^[.'].*$|\\f[\w(]|\\[&|^]", re.M)


class NothingToIndex(ValueError):
    """A document that says nothing, or nothing that can be read."""


def find(count: int) -> list[str]:
    """The first `count` documents of this machine; the same ones each time."""
    return list(islice(_found(), count))


def _found() -> Iterator[str]:
    for root in dict.fromkeys(ROOTS):
        for folder, folders, names in os.walk(root):
            folders.sort(key=lambda name: (not name.startswith("man"), name))  # English before the translations
            for name in sorted(names):
                if name.endswith(".py") or MANUAL.search(name) or PROSE.search(name):
                    yield str(Path(folder) / name)


def chunks_of(location: str) -> list[str]:
    """A document's first chunks. Raises NothingToIndex, OSError."""
    words = _text(Path(location)).split()
    starts = range(0, min(len(words), CHUNK_WORDS * CHUNKS_MAX), CHUNK_WORDS)
    if not words:
        raise NothingToIndex(f"{location} says nothing")
    return [" ".join(words[start : start + CHUNK_WORDS]) for start in starts]


def _text(path: Path) -> str:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        raw = file.read(BYTES_MAX)
    try:
        text = raw.decode()
        if path.suffix == ".py":
            return _docstrings(text)
    except (SyntaxError, ValueError) as error:
        raise NothingToIndex(f"{path}: {error}") from error
    return MACRO.sub(" ", text) if MANUAL.search(path.name) else text


def _docstrings(source: str) -> str:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    return "\n".join(filter(None, map(ast.get_docstring, nodes)))
