"""What a program has asked for, and the operation that it awaits for the outcome."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

from kompensate.orchestrator.kernel.policy import Policy


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

    @property
    def error(self) -> Exception | None:
        """What awaiting it raises; None before it has settled and where it succeeded."""
        return self._error

    def __await__(self) -> Generator["Operation", None, Any]:
        if not self.settled:
            yield self
        if self._error is not None:
            raise self._error
        return self._decode(self._value)
