"""Requests as one asker makes them. All of a request is checked here, before anything is sent.

made = client.requests
client.send([made.start("checkout", order, saga_id="o-1"), made.signal("o-1", "paid")])
"""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from kompensate.orchestrator.asking.orders import order_request
from kompensate.orchestrator.reading.forking import Point
from kompensate.schemas.formats import SagaPayloads
from kompensate.schemas.messages import CANCEL, PAUSE, RESUME, SIGNAL, START, Request
from kompensate.schemas.requests import make_request


class Start(NamedTuple):
    """One saga to start; `input` and `attributes` as for `Client.start`."""

    saga: str
    saga_id: str
    input: Any = None
    start_at: datetime | None = None
    deadline: datetime | None = None
    attributes: Mapping[str, object] | None = None


class Requests:
    """Makes requests that come from `source`, with payloads in the application's format. Raises ValueError, BadPayload.

    The arguments of each verb are `Client`'s.
    """

    def __init__(self, source: str, payloads: SagaPayloads) -> None:
        self._source = source
        self._payloads = payloads

    def start(
        self,
        saga: str,
        input: object = None,  # noqa: A002  # as in Saga
        *,
        saga_id: str,
        start_at: datetime | None = None,
        deadline: datetime | None = None,
        attributes: Mapping[str, object] | None = None,
    ) -> Request:
        """A start."""
        about: dict[str, Any] = {"start_at": start_at, "deadline": deadline, "attributes": attributes}
        return self._make(START, saga_id, saga_type=saga, payload=input, **about)

    def of(self, start: Start) -> Request:
        """The same of a Start."""
        saga, saga_id, input_, start_at, deadline, attributes = start
        return self.start(saga, input_, saga_id=saga_id, start_at=start_at, deadline=deadline, attributes=attributes)

    def signal(self, saga_id: str, name: str, payload: object = None, *, signal_id: str | None = None) -> Request:
        """A message to a saga."""
        return self._make(SIGNAL, saga_id, subject=name, payload=payload, id_=signal_id)

    def cancel(self, saga_id: str, reason: str = "") -> Request:
        """To stop and undo."""
        return self._make(CANCEL, saga_id, subject=reason or None)

    def pause(self, saga_id: str, reason: str = "") -> Request:
        """To hold."""
        return self._make(PAUSE, saga_id, subject=reason or None)

    def resume(self, saga_id: str, reason: str = "") -> Request:
        """To release."""
        return self._make(RESUME, saga_id, subject=reason or None)

    def order(
        self,
        verb: str,
        saga_id: str,
        *,
        who: str,
        reason: str,
        step: str | None = None,
        result: object = None,
        command_id: str | None = None,
    ) -> Request:
        """An operator's order."""
        about: dict[str, Any] = {"who": who, "reason": reason, "step": step, "result": result, "command_id": command_id}
        return order_request(verb, saga_id, source=self._source, payloads=self._payloads, **about)

    def fork(self, point: Point, new_id: str, *, held: bool = False) -> Request:
        """Saga `new_id` goes on from that point, at once or when the saga whose history it is has ended."""
        return point.fork(new_id, source=self._source, held=held, time=time.time_ns() // 1_000_000)

    def reset(self, point: Point, new_id: str) -> Request:
        """The saga of that point undoes what came after it, and ends."""
        return point.reset(new_id, source=self._source, time=time.time_ns() // 1_000_000)

    def _make(self, type_: str, saga_id: str, **about: Any) -> Request:
        now = time.time_ns() // 1_000_000
        return make_request(type_, saga_id, source=self._source, time=now, payloads=self._payloads, **about)
