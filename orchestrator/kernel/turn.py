"""One turn of a saga: an input's decision under way, and the execution that it moves on.

`decide` says what an input means; a turn applies each event the moment it is emitted, notes what has to be
sent, and keeps program and state in step. Nothing in here waits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.effects import Effect, SendCommand
from kompensate.orchestrator.kernel.errors import Nondeterminism
from kompensate.orchestrator.kernel.program import Definition, Program, outcome, replayed, storable
from kompensate.orchestrator.kernel.state import Call, SagaState, evolve

History = Callable[[], Iterable[tuple[e.Event, int]]]


@dataclass(slots=True)
class Execution:
    """One saga in memory. `program` is a cache: None, it is replayed from `history` when it is needed.

    `definition` is None where the application does not know the saga's definition.
    """

    state: SagaState
    definition: Definition | None
    history: History
    program: Program | None = None


@dataclass(slots=True)
class Decision:
    """What one input led to, in order. Empty: it changed nothing."""

    events: list[e.Event] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)


class Turn:
    """One input's decision under way: `decide` says what, this carries it out on state and program."""

    __slots__ = ("decision", "execution", "state", "time")

    def __init__(self, execution: Execution, time: int) -> None:
        self.execution = execution
        self.state = execution.state
        self.time = time
        self.decision = Decision()

    def emit(self, event: e.Event) -> None:
        evolve(self.state, event, self.time)
        self.decision.events.append(event)

    def send(self, call: Call) -> None:
        """The command that `call` now has out."""
        made, undoing = call.made, call.undoing
        type_, payload = made.type, made.payload
        if undoing:
            assert made.undo_type is not None  # only undoable calls are undone
            type_, payload = made.undo_type, made.undo_payload or b""
        self.decision.effects.append(
            SendCommand(
                id=call.id,
                service=made.service,
                type=type_,
                step=made.step,
                phase="compensate" if undoing else "forward",
                attempt=call.attempt,
                payload=payload,
                compensates=call.forward_id if undoing else None,
                expires_at=call.timeout_at if made.kind == "compensatable" and not undoing else None,
            )
        )

    def quarantine(self, reason: str) -> None:
        self.emit(e.SagaQuarantined(storable(reason)))
        self.drop_program()

    def drop_program(self) -> None:
        program, self.execution.program = self.execution.program, None
        if program is not None:
            program.close()

    def settle(self, event: e.Event) -> Program | None:
        """An outcome: record it and tell the program, which is returned.

        None: the saga is held and only records it; the program hears of it when it is replayed on release.
        """
        program = self.running()
        if program is None:
            self.emit(event)
            return None
        assert self.execution.definition is not None  # there is a program
        found = outcome(self.execution.definition, self.state, event)
        assert found is not None  # only outcomes are settled
        self.emit(event)
        program.deliver(*found, self.time)
        return program

    def running(self) -> Program | None:
        """The live program, replayed if need be; None where the saga is held, or has to be."""
        if self.state.hold is not None:
            self.drop_program()
            return None
        if self.execution.program is None:
            try:
                self.execution.program = self.replay()
            except (Nondeterminism, ValueError, LookupError) as error:
                self.quarantine(str(error))
        return self.execution.program

    def replay(self) -> Program:
        """A fresh program, where the history leaves it. Raises Nondeterminism, ValueError, LookupError."""
        state, definition = self.state, self.execution.definition
        if definition is None:
            name = state.started.definition if state.started else "?"
            raise LookupError(f"expected a saga definition {name!r} in this application, got none")
        fresh = SagaState(state.app, state.saga_id, state.run)
        return replayed(definition, fresh, self.execution.history())
