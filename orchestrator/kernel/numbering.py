"""What a program has asked for so far, numbered in the order of its lines: the kernel's side of the context.

The numbers are what replays go by, so everything that has one gets it here, draws of chance too. The kernel takes what
was asked for from `asked`, settles the operations that are `open` as their outcomes arrive, and finds beside them, by
number, what it needs and no history has: the functions of local steps, times said for past the pivot, ordering keys.
"""

from hashlib import blake2b
from typing import Any

from kompensate.orchestrator.kernel.contracts import Payloads, Recorded
from kompensate.orchestrator.kernel.operation import Asked, Decode, LocalAsked, Note, Operation
from kompensate.orchestrator.kernel.policy import Policy


class Numbering:
    """Numbers what one run of a saga asks for. Nothing in here is for authors."""

    def __init__(
        self,
        saga_id: str,
        run: str,
        payloads: Payloads,
        services: tuple[str, ...],
        sagas: tuple[str, ...] = (),
        limits: tuple[str, ...] = (),
    ) -> None:
        self._services, self._sagas = services, sagas
        self.limits = limits
        self.saga_id = saga_id
        self.run_id = run
        self.asked: list[Operation] = []
        self.open: dict[int, Operation] = {}
        self.local: dict[int, LocalAsked] = {}
        self.past: dict[int, Policy] = {}
        self.keys: dict[int, str] = {}
        self.recorded: Recorded | None = None
        self.attributes = b""
        self.payloads = self._payloads = payloads
        self._number = 0
        self._now = 0
        self._events = 0
        self._drawn = 0

    def tick(self, time: int, events: int) -> None:
        """The time of the input that the program is stepped for, and the run's events so far."""
        self._now, self._events = time, events

    def _ask(self, asked: Asked, decode: Decode | None = None, kind: Any = None) -> Operation:
        """The kernel settles it some time."""
        self._number = number = self._number + 1
        operation = self.open[number] = Operation(number, asked, decode, kind)
        self.asked.append(operation)
        return operation

    def _ask_local(self, asked: LocalAsked, decode: Decode | None = None, returns: Any = None) -> Operation:
        self.local[self._number + 1] = asked
        return self._ask(asked, decode, Any if returns is None else returns)

    def _note(self, asked: Note) -> None:
        """It has no outcome."""
        self._number += 1
        self.asked.append(Operation(self._number, asked))

    def _draw(self, kind: str) -> int:
        """128 bits that look random, from the run and how many were drawn in it before."""
        self._drawn += 1
        text = f"{kind}\0{self.saga_id}\0{self.run_id}\0{self._drawn}"
        return int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "big")
