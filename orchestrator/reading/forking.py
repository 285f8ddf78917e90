"""A saga's history up to a point, for another saga to go on from: what a fork and a reset ask for.

A request for a fork carries the history along, so it is made from the topics by whoever asks; what the kernel demands
of the point (`kompensate.orchestrator.kernel.forking`) is asked of it here, before anything is sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.forking import check_point, point_of
from kompensate.orchestrator.kernel.inputs import Origin
from kompensate.orchestrator.kernel.tables import CallStatus
from kompensate.orchestrator.reading.status import fold
from kompensate.orchestrator.sagas.forking import page_of
from kompensate.orchestrator.sagas.journal import ReadPage
from kompensate.schemas.envelope import content_type
from kompensate.schemas.messages import FORK, FORK_HELD, RESET, Request
from kompensate.schemas.payloads import PAYLOAD_BYTES_MAX
from kompensate.schemas.requests import check_stated
from kompensate.schemas.topics import check_saga_id

_LEFT = (CallStatus.DONE, CallStatus.IN_DOUBT, CallStatus.SENT, CallStatus.WAITING)


@dataclass(frozen=True, slots=True)
class Point:
    """The first events of a saga's newest run, and who wants another saga to go on from them, and why.

    `left` are its steps after the point that were done, may have been, or are out.
    """

    saga_id: str
    run: str
    kept: list[tuple[e.Event, Origin]]
    operations: int
    version: int
    who: str
    reason: str
    left: tuple[str, ...] = ()

    def fork(self, new_id: str, *, source: str, held: bool = False, time: int | None = None) -> Request:
        """The new saga; `held`: it waits until this one has ended. `time` is when it is asked for. Raises ValueError
        for an id that cannot be, or a history too long for one record."""
        if check_saga_id(new_id) == self.saga_id:
            raise ValueError(f"fork of saga {self.saga_id!r}: expected another id for the new saga, got the same")
        forked = e.SagaForked(
            self.saga_id, self.run, len(self.kept), self.operations, self.version, self.who, self.reason
        )
        page = page_of(self.run, [(forked, self.kept[0][1]), *self.kept])
        if len(page) > PAYLOAD_BYTES_MAX:
            raise ValueError(
                f"fork of saga {self.saga_id!r}: expected a history of at most {PAYLOAD_BYTES_MAX} bytes up to the "
                f"point, for it travels in one record, got {len(page)}: fork from an earlier one"
            )
        return self._request(FORK_HELD if held else FORK, new_id, page, source, time)

    def reset(self, new_id: str, *, source: str, time: int | None = None) -> Request:
        """That this saga undoes what came after the point, and ends."""
        reset = e.SagaReset(new_id, self.operations, self.who, self.reason)
        return self._request(RESET, self.saga_id, page_of(self.run, [(reset, self.kept[0][1])]), source, time)

    def _request(self, type_: str, saga_id: str, page: bytes, source: str, time: int | None) -> Request:
        return Request(
            id=uuid4().hex,
            type=type_,
            saga_id=saga_id,
            source=source,
            subject=self.reason,
            payload=page,
            content_type=content_type(page),
            time=time,
            who=self.who,
        )


def point(
    saga_id: str,
    pages: Sequence[ReadPage],
    *,
    who: str,
    reason: str,
    step: str | None = None,
    event: int | None = None,
    version: int | None = None,
    reset: bool = False,
) -> Point:
    """The point before `step` (a step's name or an operation's number) was asked for, or after event number `event`.

    `pages` are its newest run's, `version` is the definition's that the new saga follows (default: its own); `reset`:
    it is under way, and is to end. Raises ValueError where no other saga may go on from there.
    """
    check_stated(f"fork of saga {saga_id!r}", who, reason)
    if (step is None) == (event is None):
        got = "neither" if step is None else "both"
        raise ValueError(f"fork of saga {saga_id!r}: expected a step or an event to go on from, got {got}")
    recorded = [found for page in pages for found in page.events]
    events = [found.event for found in recorded]
    kept = event if event is not None else point_of(events, step or "")
    timed = [(found.event, found.origin.time) for found in recorded]
    operations = check_point(saga_id, pages[0].run, timed, kept, reset=reset)
    copied = [(found.event, found.origin) for found in recorded[:kept]]
    steps = fold("", saga_id, pages).steps.values()
    left = tuple(f"{s.step} ({s.status})" for s in steps if s.number > operations and s.status in _LEFT)
    return Point(saga_id, pages[0].run, copied, operations, version or _version(events), who, reason, left)


def _version(events: Sequence[e.Event]) -> int:
    """The definition's version that a run follows: what is said first counts."""
    return next((event.version for event in events if isinstance(event, e.SagaForked | e.SagaConfigured)), 1)
