"""What a program has asked for, and the operation that it awaits for the outcome."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

from kompensate.orchestrator.kernel.events import CallMade
from kompensate.orchestrator.kernel.tables import CHILD, WORKER


class Work(NamedTuple):
    """A function of the author's that the worker runs, with its arguments; `limit` names what it is run under, where
    those of a higher `priority` go first."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    limit: str = ""
    priority: int = 0


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called in a history; a partial is called as its function."""
    inner = getattr(function, "func", function)
    return str(getattr(inner, "__name__", type(inner).__name__))


def annotated(function: Callable[..., Any]) -> Any:
    """The type that a function says it returns; None where it does not."""
    found = getattr(getattr(function, "func", function), "__annotations__", {}).get("return")
    return None if isinstance(found, str) else found


class LocalAsked(NamedTuple):
    """A local step is to be run: a call whose functions only the code knows, so that they are not recorded.

    `work` None: nothing is run forward, it is a compensation that is registered. `once`: not again after a crash,
    unless `reconcile` finds that it was not done.
    """

    call: CallMade
    work: Work | None
    undo: Work | None = None
    once: bool = False
    reconcile: Work | None = None

    def __str__(self) -> str:
        return describe_call(self.call)


class LimitedAsked(NamedTuple):
    """A command is to be sent once there is room under `limit`; those of a higher `priority` go first."""

    call: CallMade
    limit: str
    priority: int

    def __str__(self) -> str:
        return describe_call(self.call)


class ChildAsked(NamedTuple):
    """A child saga is to be started; `detached`: nobody waits for its end. Under a limit as LimitedAsked."""

    call: CallMade
    detached: bool
    attributes: bytes = b""
    limit: str = ""
    priority: int = 0

    def __str__(self) -> str:
        return describe_call(self.call)


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


@dataclass(frozen=True, slots=True)
class UndoAsked:
    """The operations numbered `first` to `last` are to be undone."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"undo of operations {self.first} to {self.last}"


@dataclass(frozen=True, slots=True)
class PublishAsked:
    """The value is to be shown to the outside."""

    name: str
    value: bytes

    def __str__(self) -> str:
        return f"publish of {self.name!r}"


@dataclass(frozen=True, slots=True)
class AttributesAsked:
    """These are the saga's attributes from now on."""

    attributes: bytes

    def __str__(self) -> str:
        return "set of attributes"


@dataclass(frozen=True, slots=True)
class PatchAsked:
    """The new road of a patch was taken."""

    patch: str

    def __str__(self) -> str:
        return f"patch {self.patch!r}"


@dataclass(frozen=True, slots=True)
class PivotAsked:
    """The point of no return."""

    def __str__(self) -> str:
        return "pivot"


Note = PublishAsked | AttributesAsked | PatchAsked | PivotAsked
"""What is recorded and has no outcome."""
Asked = CallMade | LimitedAsked | LocalAsked | ChildAsked | SleepAsked | ReceiveAsked | UndoAsked | Note
"""A participant's command is asked for as the event that will record it."""


def describe(asked: Asked) -> str:
    """What was asked for, in words."""
    return describe_call(asked) if isinstance(asked, CallMade) else str(asked)


def describe_call(made: CallMade) -> str:
    """A call in words. An empty `type` sends nothing forward: it registers the compensation."""
    if not made.type:
        return f"compensation {made.step!r} by {made.undo_type!r}"
    if made.service == CHILD:
        return f"child {made.type!r} as step {made.step!r}"
    what = "local step" if made.service == WORKER else "call of"
    return f"{what} {made.type!r} as step {made.step!r}"


Decode = Callable[[bytes, Any], Any]
"""Reads a value of the type given second."""


class Operation:
    """Something the program asked for. Await it for its outcome; it may be awaited more than once.

    `decode` reads the outcome as a `kind`; None: there is nothing to read.
    """

    __slots__ = ("_decode", "_error", "_kind", "_value", "asked", "number", "settled")

    def __init__(self, number: int, asked: Asked, decode: Decode | None = None, kind: Any = None) -> None:
        self.number = number
        self.asked = asked
        self.settled = False
        self._decode = decode
        self._kind = kind
        self._value: bytes | None = None
        self._error: Exception | None = None

    def settle(self, value: bytes | None, error: Exception | None = None) -> None:
        """The kernel's: give the outcome. The value is decoded where it is awaited."""
        self.settled, self._value, self._error = True, value, error

    @property
    def kind(self) -> Any:
        """The type that its outcome is read as."""
        return self._kind

    @property
    def error(self) -> Exception | None:
        """What awaiting it raises; None before it has settled and where it succeeded."""
        return self._error

    def __await__(self) -> Generator["Operation", None, Any]:
        if not self.settled:
            yield self
        if self._error is not None:
            raise self._error
        return None if self._decode is None else self._decode(self._value or b"null", self._kind)
