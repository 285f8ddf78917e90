"""What a declared saga is made of: steps, groups of steps, and sagas within it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from kompensate.orchestrator.kernel.calls import Service
from kompensate.orchestrator.kernel.policy import DEFAULT_POLICIES, Policy, RetryPolicy


class DefinitionError(ValueError):
    """A saga definition contradicts itself; the text names the saga, the step, expected and got."""


class Nothing:
    """The type of `NOTHING`."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = Nothing()
"""`undo=NOTHING`: there is nothing to undo, and it was not forgotten."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a step's callables see: the saga's input, and the results of the steps done, by name."""

    input: Any
    results: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, step: str) -> Any:
        return self.results[step]


Make = Callable[[Scope], object]
When = Callable[[Scope], bool]
Priority = int | Callable[[Scope], int]


@dataclass(frozen=True)
class Step:
    """One forward action with, where it can be undone, its compensation.

    `command` and `undo` are message types of `service` (a Service or its name): dataclasses or msgspec
    Structs. Their fields are filled by name from the saga's input, or by `make` and `make_undo`, which take
    the Scope. The undo is made before the command is sent, so it sees earlier steps' results and not its own.
    A step with nothing to undo says `undo=NOTHING`. `kind` is compensatable (default), pivot (the point of no return),
    retriable (after it) or notification (sent, and nobody waits for what becomes of it). `returns` is the type of the
    participant's result. Where `when(scope)` is false the step is left out, and its result is None.
    Seconds: `resend_after` until the same command goes out again, `timeout` until the step is in doubt.
    `limit` names one of the application's limits: the command is sent once there is room under it; those of a higher
    `priority` (a number, or a callable that takes the Scope) go first. `key` takes the Scope: commands with the key it
    gives reach the service in the order in which they are sent, the undo among them (default: those of one saga do).
    """

    name: str
    service: Service | str
    command: type
    make: Make | None = None
    undo: type | Nothing | None = None
    make_undo: Make | None = None
    when: When | None = None
    kind: str = "compensatable"
    returns: Any = None
    retry: RetryPolicy | None = None
    resend_after: float | None = None
    timeout: float | None = None
    limit: str = ""
    priority: Priority = 0
    key: Callable[["Scope"], str] | None = None

    @property
    def undo_message(self) -> type | None:
        """The compensating command's type; None where there is none."""
        return None if isinstance(self.undo, Nothing) else self.undo

    def policy(self) -> Policy:
        """The step's times as the kernel wants them."""
        return Policy.of(DEFAULT_POLICIES[self.kind], self.retry, self.resend_after, self.timeout)


@dataclass(frozen=True)
class SubSaga:
    """A step that is a saga of its own: `saga` (a Saga or AsyncSaga) is started with this one's input, or what `make`
    makes, and its result is the step's.

    When this saga turns back meanwhile the child is cancelled, or goes on with `on_close="abandon"`; once it has
    completed it stands. `detached`: nobody waits for its end, and the step's result is the child's id. `limit` and
    `priority` as for Step: it starts once there is room, which it takes until it has ended.
    """

    name: str
    saga: Any
    make: Make | None = None
    when: When | None = None
    returns: Any = None
    detached: bool = False
    on_close: str | None = None
    limit: str = ""
    priority: Priority = 0


class Parallel:
    """Steps that are begun together; the saga goes on when all are done, and turns back as soon as one is not."""

    def __init__(self, *steps: Step | SubSaga) -> None:
        self.steps = steps


Part = Step | SubSaga | Parallel
