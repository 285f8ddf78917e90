"""Plans: declared sagas as data, stored with the sagas that follow them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import blake2b
from json import dumps, loads
from typing import Any

from kompensate.orchestrator.definitions.steps import Parallel, Part, Step, SubSaga
from kompensate.orchestrator.kernel.policy import CHILD_POLICY, Policy
from kompensate.orchestrator.kernel.tables import CHILD, ON_CLOSE


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step as data: what a saga in flight follows. Steps of one `group` (not 0) are begun together; `limit` is what
    its command is sent under."""

    name: str
    service: str
    type: str
    undo_type: str | None
    kind: str
    policy: Policy
    group: int = 0
    limit: str = ""

    def data(self) -> dict[str, Any]:
        """As JSON has it: what is not there is the default, so that older plans keep their bytes."""
        found = asdict(self)
        if not self.group:
            del found["group"]
        if not self.limit:
            del found["limit"]
        return found


@dataclass(frozen=True)
class Plan:
    """A declared saga's steps as data, with the hash that names it."""

    name: str
    steps: tuple[PlannedStep, ...]

    def encode(self) -> bytes:
        """Canonical JSON: the same plan is the same bytes everywhere."""
        data = {"name": self.name, "steps": [step.data() for step in self.steps]}
        return dumps(data, sort_keys=True, separators=(",", ":")).encode()

    @cached_property
    def groups(self) -> list[list[PlannedStep]]:
        """The steps in order, those that are begun together together."""
        found: list[list[PlannedStep]] = []
        for step in self.steps:
            if step.group and found and found[-1][0].group == step.group:
                found[-1].append(step)
            else:
                found.append([step])
        return found

    @cached_property
    def hash(self) -> str:
        return self.hash_of(self.encode())

    @staticmethod
    def hash_of(data: bytes) -> str:
        """The hash of a plan that is stored as these bytes."""
        return blake2b(data, digest_size=8).hexdigest()

    @classmethod
    def decode(cls, data: bytes, hash_: str) -> "Plan":
        """Read a stored plan that has this hash. Raises ValueError.

        The hash is of the bytes: read by later code, which may know more of a policy, a plan keeps its name.
        """
        if cls.hash_of(data) != hash_:
            raise ValueError(f"stored plan: expected bytes with the hash {hash_}, got {cls.hash_of(data)}")
        try:
            found = loads(data)
            steps = (PlannedStep(**{**step, "policy": Policy(**step["policy"])}) for step in found["steps"])
            return cls(found["name"], tuple(steps))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"stored plan: expected a plan's JSON, got {data[:80]!r} ({error})") from error


def planned(parts: Sequence[Part]) -> tuple[PlannedStep, ...]:
    """The steps of a saga as data, in order."""
    found: list[PlannedStep] = []
    for number, part in enumerate(parts, 1):
        if isinstance(part, Parallel):
            found += [_planned(step, number) for step in part.steps]
        else:
            found.append(_planned(part, 0))
    return tuple(found)


def _planned(step: Step | SubSaga, group: int) -> PlannedStep:
    if isinstance(step, SubSaga):
        on_close = step.on_close or ("abandon" if step.detached else "cancel")
        undo = ON_CLOSE[on_close][step.detached]
        return PlannedStep(step.name, CHILD, step.saga.name, undo, "compensatable", CHILD_POLICY, group, step.limit)
    service, message = str(step.service), step.undo_message
    undo = None if message is None else f"{service}.{message.__name__}"
    type_ = f"{service}.{step.command.__name__}"
    return PlannedStep(step.name, service, type_, undo, step.kind, step.policy(), group, step.limit)
