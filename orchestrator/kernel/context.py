"""What a saga's author awaits: calls, local steps, children, sleeps, signals.

Each verb makes an `Operation` at once, in the order of the program's lines, and the operation may be
awaited then or later. The context knows nothing of Kafka or time: the kernel reads what was asked for
from `asked`, and settles the operations as their outcomes arrive.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Any, NoReturn, TypeVar

from kompensate.orchestrator.kernel import combining
from kompensate.orchestrator.kernel.arguments import check_kind, check_limit, check_local, ms_of, note_key
from kompensate.orchestrator.kernel.contracts import Payloads, Planned, Recorded
from kompensate.orchestrator.kernel.errors import ContinueAsNew
from kompensate.orchestrator.kernel.events import CallMade
from kompensate.orchestrator.kernel.operation import (
    Asked,
    AttributesAsked,
    ChildAsked,
    Decode,
    LimitedAsked,
    LocalAsked,
    Note,
    Operation,
    PatchAsked,
    PivotAsked,
    PublishAsked,
    ReceiveAsked,
    SleepAsked,
    UndoAsked,
    Work,
    annotated,
    name_of,
)
from kompensate.orchestrator.kernel.policy import (
    CHILD_POLICY,
    COMPENSATION_POLICY,
    DEFAULT_POLICIES,
    LOCAL_ONCE,
    LOCAL_POLICIES,
    Policy,
    RetryPolicy,
)
from kompensate.orchestrator.kernel.tables import CHILD, ON_CLOSE, WORKER

EVENTS_SUGGESTED = 2_000
"""A history is read and replayed whole when a saga is woken: past so many events it should begin anew."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Service:
    """A participant service, by the name its topics carry."""

    name: str

    def __str__(self) -> str:
        return self.name


class Context:
    """One saga's view of the world. Everything in it is the same when the saga is replayed."""

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

    def now(self) -> int:
        """Milliseconds since the epoch at the saga's last input: the same in every replay."""
        return self._now

    @property
    def continue_as_new_suggested(self) -> bool:
        """Has the run so many events that it should go on as a new one?"""
        return self._events >= EVENTS_SUGGESTED

    def tick(self, time: int, events: int) -> None:
        """The kernel's: the time of the input that the program is stepped for, and the run's events so far."""
        self._now, self._events = time, events

    # -- what is done by others

    def call(
        self,
        service: Service | str,
        command: object,
        *,
        undo: object | None = None,
        step: str | None = None,
        kind: str = "compensatable",
        returns: Any = None,
        retry: RetryPolicy | None = None,
        resend_after: float | None = None,
        timeout: float | None = None,
        policy: Policy | None = None,
        limit: str = "",
        priority: int = 0,
        key: str | None = None,
    ) -> Operation:
        """Send `command` to `service`; await it for the participant's result.

        `undo` is the compensating command, registered before the action is sent. `kind` is compensatable, pivot,
        retriable or notification (sent, and nobody waits for what becomes of it); past the pivot every other call is
        retriable. `returns` is the result's type (default: plain JSON values); `step` names the call (default: the
        command's type). Seconds: `resend_after` until the same command goes out again, `timeout` until the step is in
        doubt. Past the pivot neither attempts nor time have a limit but one that is said here, and then the saga is
        held at it. `policy` gives all of these as a plan stores them. `limit` names one of the application's limits:
        the command is sent once there is room under it, which no time-out counts; those of a higher `priority` go
        first. Commands with one `key` reach the service in the order in which they are sent, its compensation with it
        (default: the saga's id, so that the commands of a saga do). The await raises StepRefused, StepFailed or
        StepInDoubt.
        """
        check_kind(kind, undo)
        check_limit("call", limit, priority, self.limits, answered=kind != "notification")
        name, type_ = self._service(service), type(command).__name__
        encode = self._payloads.encode
        made = CallMade(
            self._number + 1,
            step or type_,
            name,
            f"{name}.{type_}",
            kind,
            encode(command),
            None if undo is None else f"{name}.{type(undo).__name__}",
            None if undo is None else encode(undo),
            policy or Policy.of(DEFAULT_POLICIES[kind], retry, resend_after, timeout),
        )
        if policy is None and (retry or resend_after is not None or timeout is not None):
            self.past[made.number] = Policy.of(DEFAULT_POLICIES["retriable"], retry, resend_after, timeout)
        note_key(self.keys, made.number, "call", key)
        return self._ask_call(made, returns, limit, priority)

    def planned(
        self, step: Planned, command: object, undo: object | None, returns: Any, order: tuple[str, int, str | None]
    ) -> Operation:
        """`call` for a declared step, checked when it was declared; `order` is its limit, priority and key."""
        encode, undo_type = self._payloads.encode, step.undo_type
        payload, undo_payload = encode(command), None if undo is None else encode(undo)
        number, name, service, kind = self._number + 1, step.name, step.service, step.kind
        made = CallMade(number, name, service, step.type, kind, payload, undo_type, undo_payload, step.policy)
        limit, priority, key = order
        check_limit(f"step {name!r}", limit, priority, self.limits)
        note_key(self.keys, number, f"step {name!r}", key)
        return self._ask_call(made, returns, limit, priority)

    def run(
        self,
        function: Callable[..., Any],
        *args: Any,
        undo: Callable[..., Any] | None = None,
        step: str | None = None,
        kind: str = "compensatable",
        returns: Any = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        at_most_once: bool = False,
        reconcile: Callable[..., Any] | None = None,
        limit: str = "",
        priority: int = 0,
    ) -> Operation:
        """Have the worker run `function(*args)`, sync or async, and keep its result; await it for that.

        It runs at least once: a worker that dies meanwhile has it run again by another, with the same `idempotency_key`
        (handed over where the function has a parameter of that name). With `at_most_once` it is not: `reconcile(*args)`
        then says what became of it (its result, or NotDone), and without one the saga is held for an operator.
        `undo(*args)` compensates it. An exception is a failed attempt, tried again as `retry` says; `Refuse` is a no.
        `timeout` seconds in all until the step is in doubt. `returns` is the result's type (default: the function's
        annotation). `limit` and `priority` as for `call`. The await raises StepRefused, StepFailed or StepInDoubt.
        """
        check_kind(kind, undo)
        check_local(kind, {"function": function, "undo": undo, "reconcile": reconcile}, at_most_once)
        check_limit("run", limit, priority, self.limits)
        made = CallMade(
            number=self._number + 1,
            step=step or name_of(function),
            service=WORKER,
            type=name_of(function),
            kind=kind,
            payload=b"",
            undo_type=None if undo is None else name_of(undo),
            undo_payload=None if undo is None else b"",
            policy=Policy.of(LOCAL_ONCE if at_most_once else LOCAL_POLICIES[kind], retry, None, timeout),
        )
        retriable = LOCAL_ONCE if at_most_once else LOCAL_POLICIES["retriable"]
        self.past[made.number] = Policy.of(retriable, retry, None, timeout)
        local = LocalAsked(
            made,
            Work(function, args, limit, priority),
            None if undo is None else Work(undo, args, limit, priority),
            at_most_once,
            None if reconcile is None else Work(reconcile, args, limit, priority),
        )
        return self._ask_local(local, self._payloads.decode, annotated(function) if returns is None else returns)

    def child(
        self,
        saga: object,
        input: object = None,  # noqa: A002  # as in Saga
        *,
        saga_id: str | None = None,
        step: str | None = None,
        detached: bool = False,
        on_close: str | None = None,
        returns: Any = None,
        timeout: float | None = None,
        attributes: Mapping[str, object] | None = None,
        limit: str = "",
        priority: int = 0,
    ) -> Operation:
        """Start a saga of this application (it or its name); await it for the child's result.

        `saga_id` is the child's (default: derived from this saga and call). `on_close` says what becomes of it when
        this saga turns back while it is under way: `cancel` (it is cancelled, and waited for; the default;
        `request_cancel` is the same) or `abandon`. One that has completed stands: to undo it, register a compensation
        (`compensate`) before it. With `detached` the await gives the child's id at once, nobody waits for its end, and
        `abandon` is the default. `attributes` are the child's, as for `set_attributes`. `limit` and `priority` as for
        `call`: it starts once there is room, which it takes until it has ended. The await raises StepFailed where the
        child was compensated, cancelled or failed, StepRefused where its id is another saga's.
        """
        name = getattr(saga, "name", saga)
        if name not in self._sagas:
            raise ValueError(f"child: expected a saga of this application ({', '.join(self._sagas)}), got {name!r}")
        on_close = on_close or ("abandon" if detached else "cancel")
        if on_close not in ON_CLOSE:
            raise ValueError(f"child on_close: expected one of {tuple(ON_CLOSE)}, got {on_close!r}")
        check_limit("child", limit, priority, self.limits, answered=not detached)
        lives = self.run_id.split(".")[2:]  # a life that was continued begins to count its operations anew
        id_ = saga_id or ".".join([self.saga_id, *lives, str(self._number + 1)])
        payloads = self._payloads.for_saga(id_)  # what it is given, and its result, are the child's
        made = CallMade(
            number=self._number + 1,
            step=step or name,
            service=CHILD,
            type=name,
            kind="compensatable",
            payload=payloads.encode(input),
            undo_type=ON_CLOSE[on_close][detached],
            undo_payload=id_.encode(),
            policy=Policy.of(CHILD_POLICY, None, None, timeout),
        )
        kind = str if detached else returns
        found = payloads.attributes(attributes, b"") if attributes else b""
        asked = ChildAsked(made, detached, found, limit, priority)
        return self._ask(asked, payloads.decode, Any if kind is None else kind)

    # -- waiting

    def sleep(self, seconds: float) -> Operation:
        """Await it to go on `seconds` later; days are fine: nothing is kept running meanwhile."""
        return self._ask(SleepAsked(ms_of("sleep", seconds)))

    def sleep_until(self, when: datetime) -> Operation:
        """Await it to go on at `when`, which has a time zone; one that is past ends at once."""
        if when.tzinfo is None:
            raise ValueError(f"sleep_until: expected a datetime with a time zone, got {when.isoformat()}")
        return self.sleep(max(0, round(when.timestamp() * 1000) - self._now) / 1000)

    def receive(self, name: str, *, timeout: float | None = None, type: Any = None) -> Operation:  # noqa: A002  # reads best
        """Await the signal `name`: the oldest not yet received, also one that came earlier.

        `type` is its payload's. Raises TimeoutError after `timeout` seconds.
        """
        ms = None if timeout is None else ms_of("receive", timeout)
        return self._ask(ReceiveAsked(name, ms), self._payloads.decode, Any if type is None else type)

    # -- several at once

    def gather(
        self, *operations: Operation, tolerate: int = 0, cancel_losers: bool = False
    ) -> Coroutine[Any, Any, list[Any]]:
        """Await all of them for their results, in the order given.

        A failure is raised as soon as it is known. Up to `tolerate` of them are not: they stand among the results, as
        exceptions. Operations that are not waited for any more go on, or are undone with `cancel_losers`.
        """
        return combining.gather(operations, tolerate, self.undo if cancel_losers else None)

    def at_least(
        self, count: int, *operations: Operation, cancel_losers: bool = False
    ) -> Coroutine[Any, Any, list[Any]]:
        """Await the first `count` of them to succeed, for their results in the order in which they did.

        Raises the failure that leaves too few. The others go on, or are undone with `cancel_losers`.
        """
        return combining.at_least(count, operations, self.undo if cancel_losers else None)

    def select(self, *, cancel_losers: bool = False, **operations: Operation) -> Coroutine[Any, Any, tuple[str, Any]]:
        """Await the first of them to settle, for its name and result; raises its error if it failed.

        The others go on and can be awaited later (a `receive` among them takes the next signal of its name), or are
        undone with `cancel_losers`.
        """
        return combining.select(operations, self.undo if cancel_losers else None)

    # -- undoing

    def compensate(self, by: Service | str | Callable[..., Any], *args: Any, step: str | None = None) -> Operation:
        """Register a compensation of your own: `compensate(service, command)`, or a function and its arguments.

        It is run where this saga turns back, in reverse order with the others, beginning with what was registered
        last. Register it before the action that it undoes, and make it harmless where that was not done.
        """
        if isinstance(by, Service | str):
            if len(args) != 1:
                raise TypeError(f"compensate: expected one command for {by}, got {len(args)}")
            name = self._service(by)
            undo = f"{name}.{type(args[0]).__name__}"
            payload = self._payloads.encode(args[0])
            return self._ask(self._compensation(step or type(args[0]).__name__, name, undo, payload))
        undo = name_of(by)
        return self._ask_local(LocalAsked(self._compensation(step or undo, WORKER, undo, b""), None, Work(by, args)))

    def undo(self, operation: Operation) -> Operation:
        """Have one operation undone now: await it to go on when that is done.

        A call that is out is undone whether it was done or not, a child is cancelled, a sleep or receive is dropped:
        awaiting it raises OperationCancelled. A child that completes first stands.
        """
        return self._undo(operation.number, operation.number)

    async def block(self, body: Callable[..., Awaitable[T]], *args: Any, attempts: int = 3, wait: float = 0) -> T:
        """Await `body(*args)`, whose steps are tried together: where one does not succeed, all of them are undone, and
        after `wait` seconds, doubled each time, the body begins anew. Raises the last attempt's error, after undoing.
        """
        if attempts < 1:
            raise ValueError(f"block: expected at least 1 attempt, got {attempts}")
        return await combining.block(self._block_of, body, args, attempts, wait)

    def pivot(self) -> None:
        """The point of no return: what was done so far is not undone any more, and every later call is retriable."""
        self._note(PivotAsked())

    # -- the outside, and time

    def publish(self, name: str, value: object) -> None:
        """Show the outside `value` under `name`: `Client.published` reads it. The newest of each name stands."""
        self._note(PublishAsked(name, self._payloads.encode(value)))

    def set_attributes(self, /, **attributes: object) -> None:
        """Have operators find this saga by these from now on; None removes one, the others stay as they are.

        Values are str, int, float, bool or datetimes with a time zone: at most 16, and 1 KB in all, kept in the clear
        whatever the application's payload format. Raises ValueError.
        """
        self.attributes = self._payloads.attributes(attributes, self.attributes)
        self._note(AttributesAsked(self.attributes))

    def patched(self, patch: str) -> bool:
        """Is the new road to be taken here? True, and recorded, where the saga comes by for the first time; False
        where it came by before the code was changed. In a loop each round answers for itself."""
        recorded, number = self.recorded, self._number + 1
        if recorded is not None and not recorded.marks(number, patch) and recorded.knows(number):
            return False
        self._note(PatchAsked(patch))
        return True

    def deprecate_patch(self, patch: str) -> None:
        """The old road is gone from the code: sagas that recorded the patch still find it."""
        if self.recorded is not None and self.recorded.marks(self._number + 1, patch):
            self._note(PatchAsked(patch))

    def continue_as_new(self, input: object = None) -> NoReturn:  # noqa: A002  # as in Saga
        """End this run and go on as a new one with this input and an empty history; signals not yet received move over.

        What was done is not undone any more by the new run. Calls that are out are answered first.
        """
        raise ContinueAsNew(self._payloads.encode(input))

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
        text = f"{kind}\0{self.saga_id}\0{self.run_id}\0{self._drawn}"
        return int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "big")

    def _service(self, service: Service | str) -> str:
        name = str(service)
        if name not in self._services:
            raise ValueError(
                f"call: expected a service of this application ({', '.join(self._services)}), got {name!r}"
            )
        return name

    def _compensation(self, step: str, service: str, undo: str, payload: bytes) -> CallMade:
        kind = "compensatable"
        return CallMade(self._number + 1, step, service, "", kind, b"", undo, payload, COMPENSATION_POLICY)

    def _undo(self, first: int, last: int) -> Operation:
        return self._ask(UndoAsked(first, last))

    def _block_of(self) -> tuple[Callable[[], Operation], Callable[[float], Operation]]:
        """For one attempt at a block that begins here: what undoes it, and what waits before the next."""
        first = self._number + 1
        return lambda: self._undo(first, self._number), self.sleep

    def _ask_call(self, made: CallMade, returns: Any, limit: str, priority: int) -> Operation:
        asked = LimitedAsked(made, limit, priority) if limit else made
        return self._ask(asked, self._payloads.decode, Any if returns is None else returns)

    def _ask_local(self, asked: LocalAsked, decode: Decode | None = None, returns: Any = None) -> Operation:
        self.local[self._number + 1] = asked
        return self._ask(asked, decode, Any if returns is None else returns)

    def _ask(self, asked: Asked, decode: Decode | None = None, kind: Any = None) -> Operation:
        """The kernel settles it some time."""
        self._number = number = self._number + 1
        operation = self.open[number] = Operation(number, asked, decode, kind)
        self.asked.append(operation)
        return operation

    def _note(self, asked: Note) -> None:
        """It has no outcome."""
        self._number += 1
        self.asked.append(Operation(self._number, asked))
