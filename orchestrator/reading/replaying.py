"""Today's code over a recorded history: the first difference, and the author's line where it shows.

The comparing is the kernel's own `replayed`, which a worker does when it wakes a saga. Beyond that it is asked here
whether a saga that ended would have ended so, and whether one that is held would go on: what a worker finds out only
after the deployment. `before` is called with each event about to be told to the program.
"""

import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from traceback import walk_tb
from types import CoroutineType, FrameType
from typing import Any, cast

from kompensate.orchestrator.client_errors import DamagedSaga
from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.errors import ContinueAsNew, Nondeterminism
from kompensate.orchestrator.kernel.operation import describe
from kompensate.orchestrator.kernel.program import Broken, Definition, Program, Returned
from kompensate.orchestrator.kernel.replay import replayed
from kompensate.orchestrator.kernel.state import SagaState
from kompensate.orchestrator.kernel.tables import Status
from kompensate.orchestrator.reading.recordings import Recording
from kompensate.orchestrator.sagas.journal import Recorded

CLOSE_TRIES = 10
"""How often a program is closed that goes on awaiting; then it is left as it is."""
RAISED = ("step", "fail")
"""Causes of turning back that are the program's own raising."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a history and today's code part: at event `event` of the run, 0 where its pages do not read.

    `expected` and `got` are what `reason` says, where it is a comparison. `where` is the author's file and line.
    """

    saga_id: str
    run: str
    definition: str
    event: int
    kind: str
    reason: str
    expected: str = ""
    got: str = ""
    where: str = ""

    def __str__(self) -> str:
        where = f" at {self.where}" if self.where else ""
        return f"saga {self.saga_id!r} ({self.definition}), event {self.event} ({self.kind}): {self.reason}{where}"


class Rehearsal:
    """One history being replayed: the event that is next, and the author's frames as they stand before it."""

    def __init__(self, recording: Recording, before: "Before | None" = None) -> None:
        self.recording = recording
        self.next: Recorded | None = None
        self.error: BaseException | None = None
        self._before = before
        self._program: Coroutine[Any, Any, Any] | None = None
        self._watching: Coroutine[Any, Any, Any] | None = None
        self._returned = False
        self._where = ""

    def difference(self, definition: Definition | None) -> Difference | None:
        """Replay it with today's `definition`, None where the code has none of its name; then `close`."""
        try:
            recorded = self.recording.recorded()
        except DamagedSaga as error:
            return self._difference(str(error))
        if not any(isinstance(r.event, e.SagaStarted) for r in recorded):
            return None  # signals that came before a start: there is no program to compare
        self.next = recorded[0]
        if definition is None:
            version = self.recording.state().version
            name = f"{self.recording.definition!r}" + (f" in version {version}" if version != 1 else "")
            return self._difference(f"expected a saga definition {name} in this application, got none")
        return self._replay(definition, recorded)

    def _replay(self, definition: Definition, recorded: list[Recorded]) -> Difference | None:
        state = SagaState(self.recording.app, self.recording.saga_id, self.recording.run)
        watched = cast("Definition", _Watched(definition, self))
        left = iter(recorded)
        try:
            events = [(r.event, r.origin.time) for r in recorded]
            held = self.recording.state().hold is not None
            program = replayed(watched, state, events, lambda _: self._tell(left), held=held)
            self._check_end(program, state)
        except Nondeterminism as error:
            if state.events == len(recorded) and state.status is Status.COMPENSATING:
                return None  # it turned back: the program is not needed any more, wherever it rests
            return self._difference(str(error), error.expected, error.got)
        except (ValueError, LookupError) as error:  # the definition's: they say expected and got
            return self._difference(str(error))
        except Exception as error:  # whatever else holds a saga when a worker wakes it
            return self._difference(f"{type(error).__name__}: {error}")
        return None

    def _tell(self, left: Iterator[Recorded]) -> None:
        """The next event is about to be told: the program stands where the one before it left it."""
        self.next = next(left)
        event = self.next.event
        self._where = self.where() or self._where
        if isinstance(event, e.CompensationStarted) and event.cause in RAISED and self.error is None:
            raise Nondeterminism(f"the program to raise: {event.reason}", self._rest())
        if isinstance(event, e.SagaContinued) and not isinstance(self.error, ContinueAsNew):
            raise Nondeterminism("the program to continue as new", self._rest())
        if isinstance(event, e.SagaCompleted) and not self._returned:
            raise Nondeterminism("the program to return", self._rest())
        if self._before is not None and self._program is not None:
            self._before(self)

    def _check_end(self, program: Program, state: SagaState) -> None:
        """What `replayed` does not ask of a saga that has ended or is held."""
        ended = program.ended
        if state.status in (Status.RUNNING, Status.COMPLETED) and isinstance(ended, Broken):
            raise Nondeterminism("a program that can go on", ended.reason)
        asked = program.take()
        if state.status is Status.COMPLETED and isinstance(ended, Returned) and asked:
            raise Nondeterminism("nothing more", f"operation {asked[0].number}: {describe(asked[0].asked)}")

    def _rest(self) -> str:
        if self.error is not None:
            return f"{type(self.error).__name__}: {self.error}"
        return "its return" if self._returned else "a program that goes on"

    def _difference(self, reason: str, expected: str = "", got: str = "") -> Difference:
        at, of = self.next, self.recording
        where = self.where() or self._where
        if where and where in reason:  # a program's own error names its line already
            where = ""
        number, kind = (at.sequence, type(at.event).__name__) if at else (0, "none")
        return Difference(of.saga_id, of.run, of.definition, number, kind, reason, expected, got, where)

    # -- the program

    def watched(self, program: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """The program, with its end noticed. Both are kept: let go of, they would be closed before they are seen."""
        self._program, self._watching = program, self._watch(program)
        return self._watching

    async def _watch(self, program: Coroutine[Any, Any, Any]) -> Any:
        if self._before is not None:
            self._before(self)
        try:
            result = await program
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise
        self._returned = True
        return result

    def frame(self) -> FrameType | None:
        """The author's innermost frame: where the program awaits, or is to begin; ours where there is none."""
        frames = [frame for awaiting in _awaiting(self._program) if (frame := awaiting.cr_frame) is not None]
        return next((frame for frame in reversed(frames) if authors(frame)), frames[0] if frames else None)

    def where(self) -> str:
        """The author's file and line: where the program raised, or where it awaits. Empty where it has ended."""
        if self.error is not None:
            raised = [(f, line) for f, line in walk_tb(self.error.__traceback__) if authors(f)]
            return f"{raised[-1][0].f_code.co_filename}:{raised[-1][1]}" if raised else ""
        frame = self.frame()
        return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None and authors(frame) else ""

    def close(self) -> None:
        """Let the program go, the innermost coroutine first; it may try to go on awaiting."""
        for coroutine in reversed(list(_awaiting(self._watching))):
            for _ in range(CLOSE_TRIES):
                try:
                    coroutine.close()
                except RuntimeError:
                    continue
                except Exception:  # its clean-up's own: the replay is over
                    break
                break


Before = Callable[[Rehearsal], None]


class _Watched:
    """A definition as it is, but for its programs, which a rehearsal watches."""

    def __init__(self, definition: Definition, rehearsal: Rehearsal) -> None:
        self._definition = definition
        self._rehearsal = rehearsal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._definition, name)

    def program(self, *arguments: Any, **others: Any) -> Coroutine[Any, Any, Any]:
        return self._rehearsal.watched(self._definition.program(*arguments, **others))


def authors(frame: FrameType) -> bool:
    """Is this frame the author's code, and neither ours nor the standard library's?"""
    top = str(frame.f_globals.get("__name__")).partition(".")[0]
    return top != "kompensate" and top not in sys.stdlib_module_names


def _awaiting(coroutine: Coroutine[Any, Any, Any] | None) -> Iterator["CoroutineType[Any, Any, Any]"]:
    """A suspended coroutine, the one that it awaits, and so on."""
    found: Any = coroutine
    while isinstance(found, CoroutineType) and found.cr_frame is not None:
        yield found
        found = found.cr_await
