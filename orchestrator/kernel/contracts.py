"""What a saga's context needs of those around it, as Protocols: the definition's side and the replay's."""

from collections.abc import Mapping
from typing import Any, Protocol

from kompensate.orchestrator.kernel.policy import Policy


class Payloads(Protocol):
    """How values become bytes; the catalogue brings one (JSON by `kompensate.schemas.payloads`)."""

    def encode(self, value: object, /) -> bytes:
        """`value` as bytes. Raises ValueError or TypeError where it cannot be."""

    def decode(self, data: bytes, kind: Any, /) -> Any:
        """The value of that type. Raises ValueError naming expected and got."""

    def for_saga(self, saga_id: str, /) -> "Payloads":
        """The same for one saga: what it writes may be bound to that saga, and read for no other."""

    def attributes(self, given: Mapping[str, object], before: bytes, /) -> bytes:
        """The attributes `before` with those `given` set, those that are None removed. Raises ValueError."""


class Recorded(Protocol):
    """What a replay knows of the operations that are still to come."""

    def marks(self, number: int, patch: str) -> bool:
        """Is the operation of that number this patch's mark? False also where nothing is recorded."""

    def knows(self, number: int) -> bool:
        """Was the road that the program takes here recorded?"""


class Planned(Protocol):
    """A declared step as its plan has it: see CallMade."""

    @property
    def name(self) -> str:
        """The step's name."""

    @property
    def service(self) -> str:
        """Who does it."""

    @property
    def type(self) -> str:
        """The command's type."""

    @property
    def kind(self) -> str:
        """One of tables.KINDS."""

    @property
    def undo_type(self) -> str | None:
        """The compensating command's type."""

    @property
    def policy(self) -> Policy:
        """Its times."""
