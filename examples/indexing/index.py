"""The index: chunks and their vectors in the SQLite file that $INDEX names, and a search that looks at all of them.

`begun` has a line for each time that the model was asked for a document, so that who wonders can count: nothing here
keeps a document from being embedded twice. It is kept from being stored twice: its chunks replace its earlier ones.
"""

import os
import sqlite3
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from operator import mul

from examples.indexing import model
from examples.indexing.documents import chunks_of

TABLES = """
CREATE TABLE IF NOT EXISTS chunk (location TEXT, number INT, text TEXT, vector BLOB, PRIMARY KEY (location, number));
CREATE TABLE IF NOT EXISTS begun (location TEXT);
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the documents that somebody asked to index: how many are, and why others are not."""

    indexed: int
    failed: dict[str, str]

    @classmethod
    def of(cls, locations: Sequence[str], ends: Sequence[int | BaseException]) -> "Report":
        """From how each of them ended."""
        failed = {where: str(end) for where, end in zip(locations, ends, strict=True) if isinstance(end, BaseException)}
        return cls(len(locations) - len(failed), failed)


_alone = threading.Lock()  # who finds a SQLite file locked sleeps before trying again; who waits for a lock does not


@contextmanager
def _index() -> Iterator[sqlite3.Connection]:
    """The index's file, in one transaction."""
    with _alone, closing(sqlite3.connect(os.environ["INDEX"], timeout=60)) as connection, connection:
        yield connection


def create() -> None:
    """Make the file, where it is not there."""
    with _index() as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(TABLES)


def index_document(location: str) -> int:
    """Read, embed and store a document; how many chunks it has. Raises NothingToIndex, OSError."""
    chunks = chunks_of(location)
    with _index() as connection:
        connection.execute("INSERT INTO begun VALUES (?)", (location,))
    vectors = [array("f", vector).tobytes() for vector in model.embed(chunks)]
    rows = [(location, number, *row) for number, row in enumerate(zip(chunks, vectors, strict=True))]
    with _index() as connection:
        connection.execute("DELETE FROM chunk WHERE location = ?", (location,))
        connection.executemany("INSERT INTO chunk VALUES (?, ?, ?, ?)", rows)
    return len(rows)


def search(question: str, count: int = 3) -> list[dict[str, object]]:
    """The chunks that are nearest to the question, the nearest first."""
    (wanted,) = model.embed([question])
    with _index() as connection:
        found = connection.execute("SELECT location, text, vector FROM chunk").fetchall()
    near = [(sum(map(mul, wanted, array("f", vector))), where, text) for where, text, vector in found]
    return [{"location": where, "text": text, "near": how} for how, where, text in sorted(near, reverse=True)[:count]]


def counted() -> dict[str, int]:
    """How many documents and chunks are stored, and how often a document was begun in all."""
    with _index() as connection:
        queries = {
            "documents": "SELECT count(DISTINCT location) FROM chunk",
            "chunks": "SELECT count(*) FROM chunk",
            "begun": "SELECT count(*) FROM begun",
            "begun_twice": "SELECT count(*) - count(DISTINCT location) FROM begun",
        }
        return {name: connection.execute(query).fetchone()[0] for name, query in queries.items()}
