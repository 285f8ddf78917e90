"""How long the plain and the durable application take for the same documents, in turn and each in an index of its own.

.venv/bin/python -m examples.indexing.compare
"""

import os
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from examples.common import demo
from examples.common.children import Child
from examples.common.ground import Ground
from examples.indexing import index
from examples.indexing.caller import Caller
from examples.indexing.demo import parts
from examples.indexing.documents import find

ROUNDS = int(os.environ.get("ROUNDS", "10"))
DOCUMENTS = 100
WARM = 8


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def seconds(port: int, locations: Sequence[str], name: str) -> float:
    """How long these documents take there."""
    began = time.monotonic()
    indexed, failed = Caller(port, locations, name=name).report()
    took = time.monotonic() - began
    assert indexed + len(failed) == len(locations), f"expected {len(locations)} reported, got {indexed} and {failed}"
    return took


def story(ground: Ground, folder: Path) -> None:
    """Rounds in which one goes first, then the other; the machine's other load falls on both."""
    port = free_port()
    environment = {"PORT": str(port), "INDEX": str(folder / "plain.sqlite")}
    plain = Child("plain", (), folder, environment, program=(sys.executable, "-m", "examples.indexing.plain"))
    plain.start()
    try:
        documents = find(WARM + ROUNDS * DOCUMENTS)
        ports = {"plain": port, "durable": ground.port}
        for each in ports.values():
            seconds(each, documents[:WARM], "warm")
        took: dict[str, list[float]] = {name: [] for name in ports}
        for number in range(ROUNDS):
            mine = documents[WARM + number * DOCUMENTS :][:DOCUMENTS]
            for name in sorted(ports, reverse=bool(number % 2)):
                took[name].append(seconds(ports[name], mine, f"round-{number}"))
            print(f"round {number + 1}: " + ", ".join(f"{name} {took[name][-1]:.2f} s" for name in ports))
    finally:
        plain.stop()
    ratios = sorted(durable / bare for bare, durable in zip(took["plain"], took["durable"], strict=True))
    totals = {name: sum(found) for name, found in took.items()}
    print(f"in all: plain {totals['plain']:.1f} s, durable {totals['durable']:.1f} s")
    print(f"durable / plain: {totals['durable'] / totals['plain']:.3f} in all, median round {median(ratios):.3f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "durable.sqlite"
        os.environ["INDEX"] = str(file)
        index.create()
        sys.exit(demo.main("indexing", lambda: parts(file), lambda ground: story(ground, Path(name))))
