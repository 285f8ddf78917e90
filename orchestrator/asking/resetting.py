"""A reset is three requests, in this order: the fork, held; the reset; and where that is refused, the fork is closed.

So nothing is taken from the one saga before the other is there, and none is left waiting for what will not come. The
order stands here once, as a generator: clients send what it yields, each in their own way.
"""

from collections.abc import Generator
from typing import NamedTuple

from kompensate.orchestrator.asking.requests import Requests
from kompensate.orchestrator.reading.forking import Point
from kompensate.orchestrator.reading.outcomes import Sent
from kompensate.schemas.messages import Request


class Next(NamedTuple):
    """A request to send now; `decides`: what became of it is waited for."""

    request: Request
    decides: bool


def resetting(requests: Requests, point: Point, new_id: str) -> Generator[Next, Sent, Sent]:
    """The steps of resetting a saga to `point`, to go on as `new_id`; each is answered with what was sent.

    Returns what the last that decides has led to.
    """
    sent = yield Next(requests.fork(point, new_id, held=True), decides=True)
    if sent.outcome is None or not sent.outcome.accepted:
        return sent
    sent = yield Next(requests.reset(point, new_id), decides=True)
    if sent.outcome is not None and not sent.outcome.accepted:
        why = f"{point.saga_id} was not reset: {sent.outcome.reason}"
        yield Next(requests.order("close", new_id, who=point.who, reason=why), decides=False)
    return sent
