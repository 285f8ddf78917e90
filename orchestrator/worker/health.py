"""How a worker or an intake stands, and the endpoint that says so."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kompensate.orchestrator.errors import Fatal
from kompensate.orchestrator.worker.loop import Loop
from kompensate.orchestrator.worker.places import Status
from kompensate.schemas.health import HealthEndpoint

STALL_SECONDS = 60.0
"""A loop that has made no step for so long hangs: longer than a transaction and its repetitions may take."""


@dataclass(frozen=True, slots=True)
class Health:
    """`live`: the loop turns. `ready`: it has joined, restores nothing and has no stopped partition."""

    live: bool
    ready: bool
    running: tuple[int, ...]
    restoring: tuple[int, ...]
    stopped: dict[str, str]
    commits: int
    last_commit_seconds: float | None
    """Since the last commit; None before the first."""
    limits: dict[str, dict[str, int]] = field(default_factory=dict)
    """By limit how many commands are `out` under it, and how many are `queued`; children in a line of their own."""

    @classmethod
    def of(
        cls,
        loop: Loop | None,
        now: float,
        *,
        alive: bool,
        stopping: bool,
        limits: Mapping[str, tuple[int, int]] | None = None,
    ) -> "Health":
        status = loop.status if loop is not None else Status()
        turning = loop is None or now - loop.stepped_at < STALL_SECONDS
        return cls(
            live=alive and turning,
            ready=alive and turning and not stopping and status.joined and not (status.restoring or status.stopped),
            running=status.running,
            restoring=status.restoring,
            stopped={str(number): reason for number, reason in status.stopped},
            commits=loop.commits if loop is not None else 0,
            last_commit_seconds=round(now - loop.committed_at, 3) if loop is not None and loop.commits else None,
            limits={name: {"out": out, "queued": queued} for name, (out, queued) in (limits or {}).items()},
        )


@dataclass(frozen=True, slots=True)
class IntakeHealth:
    """`live`: the loop turns. `ready`: it has joined its group."""

    live: bool
    ready: bool
    handled: int
    """Source records committed since it began."""


class HealthServer(HealthEndpoint):
    """Serves health on 127.0.0.1 until it is closed. Raises Fatal where the port is taken."""

    def __init__(self, port: int, health: Callable[[], Health | IntakeHealth]) -> None:
        try:
            super().__init__(port, health)
        except OSError as error:
            raise Fatal(str(error)) from error
