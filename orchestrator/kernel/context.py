"""What a saga's author awaits: calls, sleeps, signals.

Each verb makes an `Operation` at once, in the order of the program's lines, and the operation may be
awaited then or later. The context knows nothing of Kafka or time: the kernel reads what was asked for
from `asked`, and settles the operations as their outcomes arrive.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

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


class CallAsked(NamedTuple):
    """A command is to be sent: the event CallMade without its number."""

    step: str
    service: str
    type: str
    kind: str
    payload: bytes
    undo_type: str | None
    undo_payload: bytes | None
    policy: Policy

    def __str__(self) -> str:
        return f"call of {self.type!r} as step {self.step!r}"


@dataclass(frozen=True, slots=True)
class SleepAsked:
    """The program wants to sleep for `ms` milliseconds."""

    ms: int

    def __str__(self) -> str:
        return "sleep"


@dataclass(frozen=True, slots=True)
class ReceiveAsked:
    """The program waits for the signal `name`, for `ms` milliseconds or for ever."""

    name: str
    ms: int | None

    def __str__(self) -> str:
        return f"receive of {self.name!r}"


Asked = CallAsked | SleepAsked | ReceiveAsked


class Operation:
    """Something the program asked for. Await it for its outcome; it may be awaited more than once."""

    __slots__ = ("_decode", "_error", "_value", "asked", "number", "settled")

    def __init__(self, number: int, asked: Asked, decode: Callable[[bytes | None], Any]) -> None:
        self.number = number
        self.asked = asked
        self.settled = False
        self._decode = decode
        self._value: bytes | None = None
        self._error: Exception | None = None

    def settle(self, value: bytes | None, error: Exception | None = None) -> None:
        """The kernel's: give the outcome. The value is decoded where it is awaited."""
        self.settled, self._value, self._error = True, value, error

    def __await__(self) -> Generator["Operation", None, Any]:
        if not self.settled:
            yield self
        if self._error is not None:
            raise self._error
        return self._decode(self._value)


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

    def receive(self, name: str, *, timeout: float | None = None, type: Any = None) -> Operation:  # noqa: A002  # reads best
        """Await the signal `name`: the oldest not yet received, also one that came earlier.

        `type` is its payload's. Raises TimeoutError after `timeout` seconds.
        """
        ms = None if timeout is None else _ms("receive", timeout)
        return self._ask(
            ReceiveAsked(name, ms),
            lambda value: self._payloads.decode(value or b"null", Any if type is None else type),
        )

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
