"""How a saga has something done by others: commands to services, local steps, children, compensations of its own.

Each verb checks what the author said and makes a `CallMade` of it, the event that will record the call.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kompensate.orchestrator.kernel.arguments import check_kind, check_limit, check_local, note_key
from kompensate.orchestrator.kernel.contracts import Planned
from kompensate.orchestrator.kernel.events import CallMade
from kompensate.orchestrator.kernel.numbering import Numbering
from kompensate.orchestrator.kernel.operation import (
    ChildAsked,
    LimitedAsked,
    LocalAsked,
    Operation,
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


@dataclass(frozen=True, slots=True)
class Service:
    """A participant service, by the name its topics carry."""

    name: str

    def __str__(self) -> str:
        return self.name


class Calls(Numbering):
    """The verbs of a saga's context that have others do something."""

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

    def _ask_call(self, made: CallMade, returns: Any, limit: str, priority: int) -> Operation:
        asked = LimitedAsked(made, limit, priority) if limit else made
        return self._ask(asked, self._payloads.decode, Any if returns is None else returns)
