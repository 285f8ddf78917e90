"""One run as data: with the same plan the same things happen, so a plan is what a failure is kept as."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

FAULTS: dict[str, float] = {
    "kill": 0.0008,
    "raise": 0.0005,
    "pause": 0.0004,
    "expire": 0.0008,
    "scale": 0.0005,
    "abort": 0.004,
    "unknown": 0.003,
    "answer": 0.004,
    "disturbed": 0.006,
    "timeout": 0.3,
    "markers": 0.05,
    "compaction": 0.0025,
    "sink": 0.003,
    "slot": 0.0005,
    "offsets": 0.1,
    "grow": 0.00025,
}
"""Every kind of fault, with how likely it is at each of its occasions (docs/guides/simulator.md)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run: `sagas` are started, at most `width` at once, and after `steps` steps everything heals.

    `faults` are the kinds that happen, `intensity` times as often as usual; `without` leaves single ones out, by
    their number in the run. `resets`: operators have sagas go on from earlier points, as other sagas.
    """

    seed: int
    sagas: int = 300
    width: int = 60
    steps: int = 40_000
    workers: int = 2
    participants: int = 2
    faults: tuple[str, ...] = tuple(FAULTS)
    intensity: float = 1.0
    without: tuple[int, ...] = ()
    resets: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Raises ValueError for what is no plan."""
        try:
            found = json.loads(text)
            known = {field.name for field in fields(cls)}
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items() if k in known}
            return cls(**values)
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"expected a plan as JSON, got {text[:200]!r}: {error}") from error
