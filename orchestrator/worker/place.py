"""A partition that a worker has: from being given it, over reading it, to running its sagas."""

from dataclasses import dataclass, field
from enum import Enum

from kompensate.orchestrator.ports import Sagas, Takeover


class Phase(Enum):
    WAITING = "to be taken over"
    RESTORING = "restoring"
    RUNNING = "running"
    STOPPED = "stopped"


@dataclass(slots=True)
class Place:
    """A partition that is ours."""

    number: int
    phase: Phase = Phase.WAITING
    sagas: Sagas | None = None
    takeover: Takeover | None = None
    positions: dict[str, int] = field(default_factory=dict)
    """Committed: where its inputs are read from after an abort."""
    committed_at: float = 0.0
    rewound: bool = False
    """Its inputs were rewound since the last poll: what that brought of it comes again."""
    failures: int = 0
    contradictions: int = 0
    again_at: float = 0.0
    error: str | None = None

    def due(self, settled: bool) -> int | None:
        """When its sagas are to be looked at; ms since the epoch."""
        assert self.sagas is not None  # it runs
        due = self.sagas.next_due
        room = self.sagas.room_at if settled else None
        return room if due is None or (room is not None and room < due) else due
