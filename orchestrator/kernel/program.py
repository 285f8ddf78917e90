"""A saga's live coroutine, stepped by hand. `kompensate.orchestrator.kernel.replay` makes one from a history.

The contract with `decide`: outcomes go in by `deliver` in the order of the events; what the program asked
for comes out by `take`; `ended` says how it returned or raised. Delivering only marks an operation as
settled and steps the coroutine if that is what it waits for, so the program sees outcomes in the
recorded order whatever time passed between them.
"""

import sys
from collections.abc import Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from types import CoroutineType, FrameType
from typing import Any, Protocol

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.context import Context
from kompensate.orchestrator.kernel.contracts import Payloads, Recorded
from kompensate.orchestrator.kernel.errors import (
    ContinueAsNew,
    FailSaga,
    ForeignAwait,
    SagaError,
    StepFailed,
    StepInDoubt,
    StepRefused,
)
from kompensate.orchestrator.kernel.forked import ForkedContext
from kompensate.orchestrator.kernel.operation import LocalAsked, Operation, describe
from kompensate.orchestrator.kernel.policy import Policy
from kompensate.orchestrator.kernel.state import Fork, SagaState
from kompensate.orchestrator.kernel.tables import CallStatus

_UNDOING = CallStatus.UNDOING
CLOSE_TRIES = 10
"""How often a program is closed that goes on awaiting; then it is left as it is."""
AWAIT_OURS = "await only what ctx gives: ctx.call, ctx.run, ctx.child, ctx.sleep, ctx.receive, ctx.gather, ctx.select"
REASON_CHARS_MAX = 2_000
"""Reasons are for people, and stored: a traceback of megabytes is neither."""


class Definition(Protocol):
    """What the kernel needs of a saga definition."""

    @property
    def name(self) -> str:
        """The definition's name."""

    @property
    def version(self) -> int:
        """Which version of it this is, from 1: its sagas are pinned to it."""

    def plan_hash(self) -> str | None:
        """The hash of the plan that new sagas follow; None for an `async def`."""

    def program(self, context: Context, payload: bytes, plan: str | None) -> Coroutine[Any, Any, Any]:
        """A fresh coroutine. Raises ValueError naming expected and got for a wrong payload, LookupError
        where the plan or a callable that it needs is missing."""

    @property
    def payloads(self) -> Payloads:
        """How this definition's values become bytes."""

    @property
    def services(self) -> tuple[str, ...]:
        """The services that may be called: commands to others would have no topic."""

    @property
    def sagas(self) -> tuple[str, ...]:
        """The sagas that may be started as children."""

    @property
    def limits(self) -> tuple[str, ...]:
        """The limits that local steps may name."""


@dataclass(frozen=True, slots=True)
class Returned:
    """The program returned; its value is encoded."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Continued:
    """The program goes on as a new run, with this input."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class TurnedBack:
    """A step did not succeed (cause step) or the program raised FailSaga (cause fail)."""

    cause: str
    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The program's own mistake: the saga is held until the code is mended."""

    reason: str


Ended = Returned | Continued | TurnedBack | Broken


class Program:
    """One live coroutine. Throw it away at any time: `replayed` makes the same again."""

    __slots__ = ("_context", "_coroutine", "_operations", "_payloads", "_waits", "ended")

    def __init__(
        self,
        definition: Definition,
        saga_id: str,
        run: str,
        started: e.SagaStarted,
        time: int,
        recorded: Recorded | None = None,
        forks: Sequence[Fork] = (),
        *,
        attributes: bytes = b"",
    ) -> None:
        self._payloads = definition.payloads.for_saga(saga_id)
        about = (saga_id, run, self._payloads, definition.services, definition.sagas, definition.limits)
        context = ForkedContext(forks, *about) if forks else Context(*about)
        self._context = context
        context.recorded, context.attributes = recorded, attributes
        context.tick(time, 1)
        self._operations = context.open
        self._waits: Operation | tuple[Operation, ...] | None = None
        self.ended: Ended | None = None
        self._coroutine = definition.program(context, started.payload, started.plan)
        self._step()

    @property
    def local(self) -> dict[int, LocalAsked]:
        """Local steps and compensations by number: their functions are known here only."""
        return self._context.local

    @property
    def open(self) -> Collection[Operation]:
        """What it has asked for and not been told the outcome of."""
        return self._operations.values()

    @property
    def past(self) -> dict[int, Policy]:
        """By number what calls are tried with past the pivot, of which the author said anything about that."""
        return self._context.past

    @property
    def keys(self) -> dict[int, str]:
        """By number the keys of calls that have one of their own."""
        return self._context.keys

    def goes_live(self) -> None:
        """The replay is over: what the program asks for from now on is not recorded yet."""
        self._context.recorded = None

    def take(self) -> list[Operation]:
        """What the program asked for since it was last taken, in its order."""
        taken, self._context.asked = self._context.asked, []
        return taken

    def put_back(self, asked: list[Operation]) -> None:
        """What was taken but is not recorded yet: it will be taken again."""
        self._context.asked = asked

    def deliver(self, number: int, value: bytes | None, error: Exception | None, time: int, events: int) -> None:
        """Give operation `number` its outcome; the program goes on if it waits for it.

        `events` is how many the run has, with the one that tells the outcome.
        """
        operation = self._operations.pop(number)
        operation.settle(value, error)
        waits = self._waits
        if operation is waits or (type(waits) is tuple and operation in waits):
            self._context.tick(time, events)
            self._step()

    def close(self) -> None:
        """Let the coroutine go, quietly: its own clean-up code must not ask for anything any more."""
        # The innermost first: closing an outer one lets go of an inner one that would not close.
        for coroutine in reversed(list(_awaiting(self._coroutine))):
            for _ in range(CLOSE_TRIES):
                try:
                    coroutine.close()
                except RuntimeError:
                    continue  # It awaited in a finally or caught GeneratorExit; compensation is the engine's.
                except BaseException as error:
                    if isinstance(error, KeyboardInterrupt):
                        raise
                break

    def _step(self) -> None:
        """Let the coroutine go on to what it awaits next, or to its end."""
        try:
            waits = self._coroutine.send(None)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Whatever the user's code raises, CancelledError and SystemExit too, holds this saga and no other.
            self._waits, self.ended = None, self._end_by(error)
            return
        if self._ours(waits):
            self._waits = waits
        else:
            self._waits, self.ended = None, Broken(str(ForeignAwait(_foreign(self._coroutine, waits))))
            self.close()

    def _end_by(self, error: BaseException) -> Ended:
        match error:
            case StopIteration():
                return self._returned(error.value)
            case SagaError():
                return TurnedBack("step", storable(error))
            case FailSaga():
                return TurnedBack("fail", storable(error))
            case ContinueAsNew():
                return Continued(error.payload)
        said = f"the program raised {type(error).__name__}: {storable(error)}{_line(error)}"
        return Broken(f"{said}; {AWAIT_OURS}" if _wants_loop(error) else said)

    def _ours(self, waits: object) -> bool:
        """Is that an open operation of this saga, or several?"""
        if isinstance(waits, Operation):
            return self._operations.get(waits.number) is waits
        return type(waits) is tuple and bool(waits) and all(map(self._ours, waits))

    def _returned(self, value: Any) -> Ended:
        try:
            return Returned(self._payloads.encode(value))
        except (TypeError, ValueError) as error:
            return Broken(f"the program returned what cannot be encoded: {error}")


def _wants_loop(error: BaseException) -> bool:
    """Did something of asyncio look for its loop? There is none where sagas run."""
    return isinstance(error, RuntimeError) and "event loop" in storable(error)


def storable(said: object) -> str:
    """What an error says, cut to a limit, as text that an Avro string can hold."""
    try:
        text = str(said)[:REASON_CHARS_MAX]
    except Exception:  # its own __str__ is broken
        return "(no text)"
    return text.encode(errors="backslashreplace").decode()


def outcome(
    definition: Definition, state: SagaState, event: e.Event
) -> tuple[int, bytes | None, Exception | None] | None:
    """What `event` tells the program: (operation, value, error), or None if it is none of its business."""
    if type(event) is e.CallSucceeded:  # by far the commonest
        # A child that was to be undone: the program heard of that.
        return None if state.calls[event.number].status is _UNDOING else (event.number, event.result, None)
    match event:
        case e.CallRefused(number, error):
            return number, None, _step_error(StepRefused, definition, state, number, error)
        case e.CallFailed(number, error):
            return number, None, _step_error(StepFailed, definition, state, number, error)
        case e.CallInDoubt(number, reason):
            return number, None, StepInDoubt(state.calls[number].made.step, reason)
        case e.SleepEnded(number) | e.UndoEnded(number):
            return number, None, None
        case e.SignalReceived(number, signal_id):
            payload = next(s.payload for s in state.signals if s.signal_id == signal_id)
            return number, payload, None
        case e.ReceiveTimedOut(number):
            return number, None, TimeoutError(f"no signal {state.receives[number].name!r} in time")
    return None


def _step_error(
    kind: type[SagaError], definition: Definition, state: SagaState, number: int, error: bytes
) -> SagaError:
    step = state.calls[number].made.step
    try:
        found = definition.payloads.for_saga(state.saga_id).decode(error or b"null", Any)
    except ValueError:
        found = None
    if isinstance(found, dict) and isinstance(found.get("reason"), str):
        return kind(step, found["reason"], found.get("detail"))
    return kind(step, "no reason given", found)


def _authors(frame: FrameType) -> bool:
    """Is this frame the author's code, and neither ours nor the standard library's?"""
    top = str(frame.f_globals.get("__name__")).partition(".")[0]
    return top != "kompensate" and top not in sys.stdlib_module_names


def _line(error: BaseException) -> str:
    """Where it was raised: the author's innermost line."""
    found = ""
    traceback = error.__traceback__
    while traceback is not None:
        if _authors(traceback.tb_frame):
            found = f" ({traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno})"
        traceback = traceback.tb_next
    return found


def _awaiting(coroutine: Coroutine[Any, Any, Any]) -> Iterator["CoroutineType[Any, Any, Any]"]:
    """A suspended coroutine, the one that it awaits, and so on."""
    found: Any = coroutine
    while isinstance(found, CoroutineType) and found.cr_frame is not None:
        yield found
        found = found.cr_await


def _foreign(coroutine: Coroutine[Any, Any, Any], waits: object) -> str:
    """What was awaited, and the author's innermost line that awaits it."""
    frames = [f for awaiting in _awaiting(coroutine) if (f := awaiting.cr_frame) is not None and _authors(f)]
    where = f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else "an unknown line"
    got = f"another saga's {describe(waits.asked)}" if isinstance(waits, Operation) else _type_name(waits)
    return f"{where}: expected an operation of the saga's context to be awaited, got {got}"


def _type_name(value: object) -> str:
    return "None" if value is None else type(value).__name__
