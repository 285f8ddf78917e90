"""An operator's orders as requests: what a person says of a saga, with their name and why.

    client.send([order_request("skip", "o-1", who="ann", reason="refunded by hand", source="desk", step="charge")])

What each of them does to a saga is the kernel's: `kompensate.orchestrator.kernel.orders`.
"""

import time
from uuid import uuid4

from kompensate.schemas.envelope import content_type
from kompensate.schemas.formats import PLAIN, SagaPayloads
from kompensate.schemas.messages import ORDERS, Request
from kompensate.schemas.requests import check_stated, sealed
from kompensate.schemas.topics import check_saga_id

STEP_VERBS = ("retry", "skip", "complete")
"""Orders about one step; the others are about the whole saga."""


def order_request(
    verb: str,
    saga_id: str,
    *,
    who: str,
    reason: str,
    source: str,
    step: str | None = None,
    result: object = None,
    payloads: SagaPayloads = PLAIN,
    command_id: str | None = None,
) -> Request:
    """An order, to send with others. Raises ValueError for one that no saga could take, BadPayload.

    `step` is a step's name or number, needed where several are open; `result` what a completed step gives,
    written by `payloads`, the application's format.
    With `command_id` it is only taken while that command is the step's newest: given twice, it counts once.
    """
    if verb not in ORDERS:
        raise ValueError(f"order: expected one of {', '.join(ORDERS)}, got {verb!r}")
    check_stated(f"{verb} of saga {saga_id!r}", who, reason)
    if step is not None and verb not in STEP_VERBS:
        raise ValueError(f"{verb} of saga {saga_id!r}: expected no step, for it is about the whole, got {step!r}")
    if result is not None and verb != "complete":
        raise ValueError(f"{verb} of saga {saga_id!r}: expected no result, only complete has one, got {result!r:.60}")
    check_saga_id(saga_id)
    given = None if result is None else sealed(result, saga_id, payloads)
    return Request(
        id=uuid4().hex,
        type=ORDERS[verb],
        saga_id=saga_id,
        source=source,
        subject=reason,
        payload=given,
        content_type=content_type(given),
        time=time.time_ns() // 1_000_000,
        command_id=command_id,
        who=who,
        step=step,
    )
