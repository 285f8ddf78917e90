"""Rows of a query that takes its time before the first: who waits for them says meanwhile that it lives."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final, TypeVar

T = TypeVar("T")

BEAT_SECONDS: Final = 0.5
"""Far below the three seconds after which a silent relay is given up."""


def begun(rows: Iterator[T], beat: Callable[[], object]) -> Iterator[T]:
    """`rows` as they are. Until the first is there, `beat` is called again and again: a big table is sorted first.

    The first row is fetched in a thread of its own; nothing else may use its connection until then.
    """
    with ThreadPoolExecutor(1, "kompensate-first-row") as pool:
        first = pool.submit(_some, rows)
        while not wait((first,), BEAT_SECONDS).done:
            beat()
    yield from first.result()
    yield from rows


def _some(rows: Iterator[T]) -> list[T]:
    for row in rows:
        return [row]
    return []
