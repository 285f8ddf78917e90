"""One turn of a saga: an input's decision under way, and the execution that it moves on.

`decide` says what an input means; a turn applies each event the moment it is emitted, notes what has to be
sent, and keeps program and state in step. Nothing in here waits.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from json import dumps

from kompensate.orchestrator.kernel import events as e
from kompensate.orchestrator.kernel.context import Context
from kompensate.orchestrator.kernel.effects import (
    AnswerParent,
    CancelChild,
    Effect,
    ReleaseFork,
    RunWork,
    SendCommand,
    StartChild,
)
from kompensate.orchestrator.kernel.errors import Nondeterminism
from kompensate.orchestrator.kernel.folding import evolve
from kompensate.orchestrator.kernel.inputs import StartAsked
from kompensate.orchestrator.kernel.operation import LocalAsked
from kompensate.orchestrator.kernel.program import Definition, Program, outcome, storable
from kompensate.orchestrator.kernel.replay import replayed
from kompensate.orchestrator.kernel.state import Call, SagaState
from kompensate.orchestrator.kernel.tables import CHILD, WORKER

History = Callable[[], Iterable[tuple[e.Event, int]]]


@dataclass(slots=True)
class Execution:
    """One saga in memory. `program` is a cache: None, it is replayed from `history` when it is needed.

    `definition` is None where the application does not know the saga's definition. `local` is what the last program
    knew of its local steps: a cache too.
    """

    state: SagaState
    definition: Definition | None
    history: History
    program: Program | None = None
    local: dict[int, LocalAsked] = field(default_factory=dict)


@dataclass(slots=True)
class Decision:
    """What one input led to, in order. Empty: it changed nothing."""

    events: list[e.Event] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)


class Turn:
    """One input's decision under way: `decide` says what, this carries it out on state and program."""

    __slots__ = ("effects", "events", "execution", "state", "time")

    def __init__(self, execution: Execution, time: int) -> None:
        self.execution = execution
        self.state = execution.state
        self.time = time
        self.events: list[e.Event] = []
        self.effects: list[Effect] = []

    def emit(self, event: e.Event) -> None:
        evolve(self.state, event, self.time)
        self.events.append(event)

    def send(self, call: Call) -> None:
        """What `call` now has out: to its participant or to the worker; of a child's only what undoes it."""
        service = call.made.service
        if service == WORKER:
            self._run(call)
        elif service == CHILD:
            self._cancel_child(call)
        else:
            self._send(call)

    def _send(self, call: Call) -> None:
        made = call.made
        id_, service, step, attempt = call.id, made.service, made.step, call.attempt
        if call.undoing:
            assert made.undo_type is not None  # only undoable calls are undone
            type_, payload = made.undo_type, made.undo_payload or b""
            # A registered compensation undoes no command: the participant runs it as any other.
            phase, undone = ("compensate", call.forward_id) if made.type else ("forward", None)
            sent = SendCommand(id_, service, type_, step, phase, attempt, payload, undone, None, call.key)
        else:
            expires_at = call.timeout_at if made.kind == "compensatable" else None
            asked = made.type, step, "forward", attempt, made.payload
            sent = SendCommand(id_, service, *asked, None, expires_at, call.key)
        self.effects.append(sent)

    def _run(self, call: Call) -> None:
        try:
            asked = self.local(call.made.number)
        except (Nondeterminism, ValueError, LookupError) as error:
            self.quarantine(f"step {call.made.step!r} cannot be run: {error}")
            return
        work = asked.undo if call.undoing else asked.work
        assert work is not None  # only undoable calls are undone, and registered compensations are not run forward
        once = asked.once and asked.reconcile is None and not call.undoing
        self.effects.append(RunWork(call.id, call.made.number, work, once=once))

    def once(self, call: Call) -> bool:
        """Must this local step not be run again? The saga is held where the code does not know it."""
        try:
            return self.local(call.made.number).once
        except (Nondeterminism, ValueError, LookupError) as error:
            self.quarantine(f"step {call.made.step!r} cannot be run: {error}")
            return False

    def reconcile(self, call: Call) -> None:
        """A local step that must not run twice was running when its worker died: ask what became of it."""
        number, step = call.made.number, call.made.step
        work = self.local(number).reconcile
        if work is None:
            self.quarantine(
                f"step {step!r} runs at most once, and its worker died while it ran: expected somebody to say what "
                "became of it; complete it with its result, or retry it"
            )
        else:
            self.emit(e.CommandResent(number))
            self.effects.append(RunWork(call.id, number, work, reconciling=True))

    def local(self, number: int) -> LocalAsked:
        """What the program knows of its local step. Raises Nondeterminism, ValueError, LookupError."""
        execution = self.execution
        known = execution.local if execution.program is None else execution.program.local
        if number not in known:
            program = self.replay()
            known = execution.local = program.local
            program.close()
        return known[number]

    def start_child(self, call: Call, attributes: bytes, *, detached: bool) -> None:
        made = call.made
        answers = None if detached else call.id
        self.effects.append(StartChild(call.id, child_id(call), made.type, made.payload, answers, attributes))

    def _cancel_child(self, call: Call) -> None:
        reason = f"its parent {self.state.saga_id} turned back"
        self.effects.append(CancelChild(call.id, child_id(call), reason))

    def cannot_begin(self, payload: bytes) -> str:
        """Why no run could begin with this input; empty where one can."""
        definition, state = self.execution.definition, self.state
        assert definition is not None  # its program has just ended
        context = Context(state.saga_id, state.run, definition.payloads.for_saga(state.saga_id), definition.services)
        try:
            definition.program(context, payload, definition.plan_hash()).close()
        except (ValueError, LookupError) as error:
            return storable(error)
        return ""

    def refuse_child(self, asked: StartAsked) -> None:
        """A child's start for an id that is another saga's."""
        assert asked.parent is not None  # it is a child's
        assert asked.parent_command is not None
        said = dumps({"reason": f"saga {self.state.saga_id!r} exists already, and is {self.state.status}"}).encode()
        self.effects.append(AnswerParent(asked.parent, asked.parent_command, "refused", said))

    def end(self, event: e.Event, outcome: str = "", payload: bytes = b"") -> None:
        """The saga ends by `event`; a parent that waits hears of it."""
        state = self.state
        self.emit(event)
        if state.parent is not None and state.parent_command is not None and outcome:
            self.effects.append(AnswerParent(state.parent, state.parent_command, outcome, payload))
        if state.reset_into:
            self.effects.append(ReleaseFork(state.reset_into))

    def quarantine(self, reason: str) -> None:
        self.emit(e.SagaQuarantined(storable(reason)))
        self.drop_program()

    def drop_program(self) -> None:
        program, self.execution.program = self.execution.program, None
        if program is not None:
            self.execution.local = program.local
            program.close()

    def settle(self, event: e.Event) -> Program | None:
        """An outcome: record it and tell the program, which is returned.

        None: the saga is held and only records it; the program hears of it when it is replayed on release.
        """
        program = self.execution.program
        if program is None or self.state.hold is not None:
            program = self.running()
        if program is None:
            self.emit(event)
            return None
        assert self.execution.definition is not None  # there is a program
        found = outcome(self.execution.definition, self.state, event)
        assert found is not None  # only outcomes are settled
        self.emit(event)
        program.deliver(*found, self.time, self.state.events)
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
            which = f"{name!r}" if state.version == 1 else f"{name!r} in version {state.version}"
            raise LookupError(f"expected a saga definition {which} in this application, got none")
        fresh = SagaState(state.app, state.saga_id, state.run)
        return replayed(definition, fresh, self.execution.history(), held=state.hold is not None)


def child_id(call: Call) -> str:
    """The id of the child that this call started."""
    return (call.made.undo_payload or b"").decode()
