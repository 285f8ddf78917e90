"""Shipped for tests, yours and ours.

For sagas: `SagaTest` runs them in memory, on a clock that jumps, with scripted participants (`done`, `refused`,
`failed`, `expired`, `never`, `late`, `twice`, `in_turn`), in any of the `MODES`; `assert_replays` runs today's code
over a recorded history.

For loops: `MemoryBroker` holds topics, transactions and groups; `MemoryLog` is a worker's view of it and passes the
same contract suite as the real one; `VirtualClock` moves when it is told to; `InlineSteps` runs local steps at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kompensate.orchestrator.testing.broker import MemoryBroker
from kompensate.orchestrator.testing.clock import VirtualClock
from kompensate.orchestrator.testing.log import MemoryLog
from kompensate.orchestrator.testing.steps import InlineSteps

if TYPE_CHECKING:
    from kompensate.orchestrator.testing.answers import (
        Answer,
        done,
        expired,
        failed,
        in_turn,
        late,
        never,
        refused,
        twice,
    )
    from kompensate.orchestrator.testing.environment import SagaTest
    from kompensate.orchestrator.testing.handle import SagaHandle
    from kompensate.orchestrator.testing.histories import assert_replays
    from kompensate.orchestrator.testing.modes import MODES

__all__ = [
    "MODES",
    "Answer",
    "InlineSteps",
    "MemoryBroker",
    "MemoryLog",
    "SagaHandle",
    "SagaTest",
    "VirtualClock",
    "assert_replays",
    "done",
    "expired",
    "failed",
    "in_turn",
    "late",
    "never",
    "refused",
    "twice",
]

# Loaded when they are asked for: they need the codecs, which importing a package does not load.
_PLACES = {
    **dict.fromkeys(("Answer", "done", "expired", "failed", "in_turn", "late", "never", "refused", "twice"), "answers"),
    "assert_replays": "histories",
    "MODES": "modes",
    "SagaHandle": "handle",
    "SagaTest": "environment",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
