"""What a saga's author awaits: calls, sleeps, signals.

Each verb makes an `Operation` at once, in the order of the program's lines, and the operation may be
awaited then or later. The context knows nothing of Kafka or time: the kernel reads what was asked for
from `asked`, and settles the operations as their outcomes arrive.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, Protocol

from kompensate.orchestrator.kernel import combining
from kompensate.orchestrator.kernel.operation import Asked, CallAsked, Operation, ReceiveAsked, SleepAsked
from kompensate.orchestrator.kernel.policy import MS_MAX, Policy
from kompensate.orchestrator.kernel.tables import KINDS

SECONDS_MAX = MS_MAX // 1000


class Payloads(Protocol):
    """How values become bytes; the catalogue brings one (JSON by `kompensate.schemas.payloads`)."""

    def encode(self, value: object, /) -> bytes:
        """`value` as bytes. Raises ValueError or TypeError where it cannot be."""

    def decode(self, data: bytes, kind: Any, /) -> Any:
        """The value of that type. Raises ValueError naming expected and got."""


@dataclass(frozen=True, slots=True)
class Service:
    """A participant service, by the name its topics carry."""

    name: str

    def __str__(self) -> str:
        return self.name


class Context:
    """One saga's view of the world. Everything in it is the same when the saga is replayed."""

    def __init__(self, saga_id: str, run: str, payloads: Payloads, services: tuple[str, ...]) -> None:
        self._services = services
        self.saga_id = saga_id
        self.run = run
        self.asked: list[Operation] = []
        self._payloads = payloads
        self._number = 0
        self._now = 0
        self._drawn = 0

    def now(self) -> int:
        """Milliseconds since the epoch at the saga's last input: the same in every replay."""
        return self._now

    def tick(self, time: int) -> None:
        """The kernel's: the time of the input that the program is stepped for."""
        self._now = time

    def call(
        self,
        service: Service | str,
        command: object,
        *,
        undo: object | None = None,
        step: str | None = None,
        kind: str = "compensatable",
        returns: Any = None,
        policy: Policy | None = None,
    ) -> Operation:
        """Send `command` to `service`; await it for the participant's result.

        `undo` is the compensating command, registered before the action is sent. `kind` is
        compensatable, pivot or retriable; past the pivot every call is retriable. `returns` is the
        result's type (default: plain JSON values); `step` names the call (default: the command's type).
        The await raises StepRefused, StepFailed or StepInDoubt.
        """
        if kind not in KINDS:
            raise ValueError(f"kind: expected one of {KINDS}, got {kind!r}")
        if undo is not None and kind != "compensatable":
            raise ValueError(f"a {kind} step is never undone, got undo {type(undo).__name__}")
        name = str(service)
        if name not in self._services:
            raise ValueError(
                f"call: expected a service of this application ({', '.join(self._services)}), got {name!r}"
            )
        type_ = type(command).__name__
        asked = CallAsked(
            step=step or type_,
            service=name,
            type=f"{name}.{type_}",
            kind=kind,
            payload=self._payloads.encode(command),
            undo_type=None if undo is None else f"{name}.{type(undo).__name__}",
            undo_payload=None if undo is None else self._payloads.encode(undo),
            policy=policy or DEFAULT_POLICIES[kind],
        )
        return self._ask(
            asked, lambda value: self._payloads.decode(value or b"null", Any if returns is None else returns)
        )

    def sleep(self, seconds: float) -> Operation:
        """Await it to go on `seconds` later; days are fine: nothing is kept running meanwhile."""
        return self._ask(SleepAsked(_ms("sleep", seconds)), lambda _: None)

    def sleep_until(self, when: datetime) -> Operation:
        """Await it to go on at `when`, which has a time zone; one that is past ends at once."""
        if when.tzinfo is None:
            raise ValueError(f"sleep_until: expected a datetime with a time zone, got {when.isoformat()}")
        return self.sleep(max(0, round(when.timestamp() * 1000) - self._now) / 1000)

    def receive(self, name: str, *, timeout: float | None = None, type: Any = None) -> Operation:  # noqa: A002  # reads best
        """Await the signal `name`: the oldest not yet received, also one that came earlier.

        `type` is its payload's. Raises TimeoutError after `timeout` seconds.
        """
        ms = None if timeout is None else _ms("receive", timeout)
        return self._ask(
            ReceiveAsked(name, ms),
            lambda value: self._payloads.decode(value or b"null", Any if type is None else type),
        )

    def gather(self, *operations: Operation, tolerate: int = 0) -> Coroutine[Any, Any, list[Any]]:
        """Await all of them for their results, in the order given.

        A failure is raised as soon as it is known. Up to `tolerate` of them are not: they stand among the results, as
        exceptions. Operations that are not waited for any more go on.
        """
        return combining.gather(operations, tolerate)

    def at_least(self, count: int, *operations: Operation) -> Coroutine[Any, Any, list[Any]]:
        """Await the first `count` of them to succeed, for their results in the order in which they did.

        Raises the failure that leaves too few. The others go on.
        """
        return combining.at_least(count, operations)

    def select(self, **operations: Operation) -> Coroutine[Any, Any, tuple[str, Any]]:
        """Await the first of them to settle, for its name and result; raises its error if it failed.

        The others go on and can be awaited later; a `receive` among them takes the next signal of its name.
        """
        return combining.select(operations)

    def uuid(self) -> str:
        """A UUID of this run (version 8, RFC 9562), the same in every replay and another at each call."""
        drawn = self._draw("uuid")
        drawn = drawn & ~(0xF << 76) | 8 << 76  # the version
        drawn = drawn & ~(0x3 << 62) | 2 << 62  # the variant
        text = f"{drawn:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def random(self) -> float:
        """A number from 0 up to 1, the same in every replay and another at each call. Not for secrets."""
        return (self._draw("random") >> 75) / 2**53

    def _draw(self, kind: str) -> int:
        """128 bits that look random, from the run and how many were drawn in it before."""
        self._drawn += 1
        text = f"{kind}\0{self.saga_id}\0{self.run}\0{self._drawn}"
        return int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "big")

    def _ask(self, asked: Asked, decode: Callable[[bytes | None], Any]) -> Operation:
        self._number += 1
        operation = Operation(self._number, asked, decode)
        self.asked.append(operation)
        return operation


def _ms(verb: str, seconds: float) -> int:
    if not 0 <= seconds <= SECONDS_MAX:
        raise ValueError(f"{verb}: expected 0 to {SECONDS_MAX} seconds (100 years), got {seconds}")
    return round(seconds * 1000)


DEFAULT_POLICIES = {
    "compensatable": Policy(timeout=300_000),
    "pivot": Policy(),
    "retriable": Policy(attempts=0),
}
"""A compensatable step is in doubt after five minutes; the pivot and what follows are never given up."""
