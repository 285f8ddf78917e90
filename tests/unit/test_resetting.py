"""The order of a reset's requests, which every client follows."""

import pytest

from kompensate.orchestrator.asking.requests import Requests
from kompensate.orchestrator.asking.resetting import Next, resetting
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.inputs import Origin
from kompensate.orchestrator.reading.forking import Point
from kompensate.orchestrator.reading.outcomes import Outcome, Sent
from kompensate.schemas.formats import PLAIN
from kompensate.schemas.messages import FORK_HELD, ORDERS, RESET

STARTED = (e.SagaStarted("trip", None, b"{}", None, None), Origin("shop.requests", 0, 1, 1_000))
POINT = Point("old", "0.1", [STARTED], 0, 1, "ann", "too small")
TAKEN, REFUSED = Outcome("handled"), Outcome("rejected", "it has ended")


def carried(*outcomes: Outcome) -> tuple[list[Next], Sent]:
    """What is asked for where these come of it, one after the other, and what it returns."""
    steps, asked, left = resetting(Requests("test", PLAIN), POINT, "new"), [], list(outcomes)
    ask = next(steps)
    try:
        while True:
            asked.append(ask)
            came = left.pop(0) if ask.decides else None
            ask = steps.send(Sent("1", ask.request.type, ask.request.saga_id, None, b"", "t", 0, 0, 0, outcome=came))
    except StopIteration as done:
        assert left == [], "each outcome was waited for"
        returned: Sent = done.value
        return asked, returned


@pytest.mark.parametrize(
    ("outcomes", "types"),
    [
        ([REFUSED], [(FORK_HELD, "new")]),
        ([TAKEN, TAKEN], [(FORK_HELD, "new"), (RESET, "old")]),
        ([TAKEN, REFUSED], [(FORK_HELD, "new"), (RESET, "old"), (ORDERS["close"], "new")]),
    ],
    ids=["no fork", "reset", "no reset"],
)
def test_nothing_is_taken_before_the_other_is_there(outcomes: list[Outcome], types: list[tuple[str, str]]) -> None:
    """And a fork that nobody would ever release is closed, which nobody waits for; what decided is returned."""
    asked, sent = carried(*outcomes)

    assert [(ask.request.type, ask.request.saga_id) for ask in asked] == types
    assert sent.outcome == outcomes[-1]
    if len(types) == 3:
        assert (asked[-1].request.who, asked[-1].request.subject) == ("ann", "old was not reset: it has ended")
        assert not asked[-1].decides
