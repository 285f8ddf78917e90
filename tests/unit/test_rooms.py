"""Lines under limits, by themselves: whose turn it is, and what is kept of those that have left."""

from kompensate.orchestrator import Limit
from kompensate.orchestrator.sagas.rooms import Queued, Rooms

LIMITS = {"narrow": Limit(concurrent=2), "paced": Limit(per_second=4)}


def test_a_promise_holds_while_there_is_room() -> None:
    """One partition finds that another one's call is next, and before that goes out a partition with others is read."""
    rooms = Rooms(LIMITS)
    first, second, third = (0, "a", 1), (1, "b", 1), (1, "c", 1)
    rooms.put((0, "x", 1), "narrow")
    rooms.put(first, Queued("narrow", (0, 1, 0, 1)))
    rooms.put(second, Queued("narrow", (0, 2, 0, 1)))
    assert rooms.take(1, 0) is None
    assert rooms.due(0) == 0
    rooms.put(third, "narrow")

    assert rooms.take(0, 0) is None
    assert rooms.counts()["narrow"] == (2, 2)
    rooms.put(third, None)
    assert rooms.take(0, 0) == first


def test_who_leaves_a_line_leaves_nothing_behind() -> None:
    """Ten thousand that were queued and cancelled are not kept until the line has moved past them."""
    rooms = Rooms(LIMITS)
    rooms.put((0, "x", 1), "paced")
    for number in range(10_000):
        rooms.put((0, "a", number), Queued("paced", (0, number, 0, number)))
    for number in range(9_990):
        rooms.put((0, "a", number), None)
    assert rooms.take(0, 1) == (0, "a", 9_990)

    assert rooms.counts() == {"paced": (2, 9)}
    assert len(rooms._lines["paced"].heap) < 100
    rooms.leave(0)
    assert rooms.counts() == {"paced": (0, 0)}
