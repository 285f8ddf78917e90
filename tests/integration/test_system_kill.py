"""kill -9 of every kind of process at every named point, with orders under way; the checker tells what came of it."""

import ast
from pathlib import Path

import pytest

from tests.fixtures.system import LOT, System

ROOT = Path(__file__).parents[2]
FOLDERS = ("orchestrator", "participants", "outbox")

VICTIMS = {"worker": "worker-1", "participant": "inventory", "relay": "relay"}
POINTS = {
    "worker.after_poll": 30,
    "worker.before_commit": 5,
    "worker.before_produce": 5,
    "worker.after_produce": 5,
    "worker.after_offsets": 5,
    "worker.after_commit": 5,
    "worker.after_takeover": 1,
    "worker.in_restore": 1,
    "participant.after_poll": 4,
    "participant.after_claim": 4,
    "participant.after_handler": 12,
    "participant.before_db_commit": 4,
    "participant.after_db_commit": 4,
    "participant.after_offset_commit": 4,
    "relay.after_read": 4,
    "relay.before_ack": 4,
    "relay.after_ack": 4,
    "relay.after_confirm": 2,
}
"""Each point, and the how manyth time that it is passed is the last."""


def points_in_code() -> set[str]:
    """Names given to fault() in the product."""
    found = set()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "fault":
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: expected a literal name"
                found.add(str(name.value))
    # The shop has no intake and no outside calls: test_intake and test_outside_kill try theirs.
    return {name for name in found if not name.startswith(("intake.", "outside."))}


def test_every_point_is_tried() -> None:
    """The points below are the points in the code, at least twelve, in all three kinds of processes."""
    assert points_in_code() == POINTS.keys()
    assert len(POINTS) >= 12
    assert {point.partition(".")[0] for point in POINTS} == VICTIMS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere(system: System, point: str) -> None:
    """A process dies at this point in mid-work and comes back: nothing is lost, doubled or left unfinished."""
    victim = VICTIMS[point.partition(".")[0]]
    system.restart_with(victim, f"{point}:kill:{POINTS[point]}")

    system.feed_until(f"{victim} dies at {point}", lambda: system.was_killed(victim))
    system.shop.children[victim].start()
    system.send(LOT)
    system.finish()

    system.prove()
