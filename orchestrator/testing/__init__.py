"""Shipped for tests, yours and ours: a log in memory that behaves like Kafka, and a clock that jumps.

`MemoryBroker` holds topics, transactions and groups; `MemoryLog` is a worker's view of it and passes the same
contract suite as the real one; `VirtualClock` moves when it is told to; `InlineSteps` runs local steps at once.
"""

from kompensate.orchestrator.testing.broker import MemoryBroker
from kompensate.orchestrator.testing.clock import VirtualClock
from kompensate.orchestrator.testing.log import MemoryLog
from kompensate.orchestrator.testing.steps import InlineSteps

__all__ = ["InlineSteps", "MemoryBroker", "MemoryLog", "VirtualClock"]
