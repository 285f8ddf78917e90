"""Declares a service's handlers: which commands and events it takes, and the function that does each.

    inventory = Participant("inventory")

    @inventory.handles
    def reserve(command: Reserve, session: Session, call: Call) -> Reserved: ...

    @inventory.on("orders.OrderPlaced", topic="orders.events")
    def note(event: OrderPlaced, session: Session) -> None: ...

The annotation of the first parameter is the payload's type, and its name the contract's: `inventory.Reserve`.
What else it needs is asked for by annotation or by name, in any order, or left out. A handler may be `async def`.
Declaring starts nothing and connects to nothing.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, get_origin, get_type_hints, is_typeddict, overload

from kompensate.participants.outcome import Call, OutsideCall
from kompensate.participants.outside.options import External
from kompensate.schemas.topics import check_name

if TYPE_CHECKING:  # they bring msgspec, fastavro and SQLAlchemy, and declaring handlers needs none of them
    from kompensate.outbox.events import EventTopic
    from kompensate.schemas.formats import PayloadFormat

Function = TypeVar("Function", bound=Callable[..., object])

# What a handler may ask for, by the class that it annotates: told by name, for this module does not load them.
_BY_CLASS = {
    ("sqlalchemy", "Session"): "session",
    ("sqlalchemy", "AsyncSession"): "async session",
    ("sqlalchemy", "Connection"): "connection",
    ("psycopg", "Connection"): "driver",
    ("psycopg", "Cursor"): "cursor",
}
# Without an annotation, by the parameter's name.
_BY_NAME = ("session", "connection", "call")


class BadHandler(TypeError):
    """A function cannot be a handler; the text says what a handler looks like."""


@dataclass(frozen=True)  # no slots: what is asked of it for each command is found out once
class Handler:
    """A function with the contract it serves. `offers` names what it asks for, by parameter.

    `external`: it runs outside of the transaction, under these guards. `topic` is where an event is read; None for
    commands.
    """

    contract: str
    function: Callable[..., object]
    payload_type: Any
    offers: tuple[tuple[str, str], ...]
    result_name: str | None
    external: External | None = None
    topic: str | None = None

    @cached_property
    def is_async(self) -> bool:
        """Is it a coroutine function?"""
        return inspect.iscoroutinefunction(self.function)

    @cached_property
    def wants_session(self) -> bool:
        """Does it ask for a Session, of either kind?"""
        return self._wants("session", "async session")

    @property
    def wants_async_session(self) -> bool:
        """Does it ask for SQLAlchemy's AsyncSession?"""
        return self._wants("async session")

    @property
    def wants_psycopg(self) -> bool:
        """Does it work on psycopg's own connection? Then its database has to be PostgreSQL."""
        return self._wants("driver", "cursor")

    @cached_property
    def writes(self) -> bool:
        """Whether it can touch the database: one that cannot needs no savepoint."""
        return any(offer != "call" for _, offer in self.offers)

    def _wants(self, *offers: str) -> bool:
        return any(offer in offers for _, offer in self.offers)


class Participant:
    """A service: its name, which is also its command topic's and its consumer group's, and its handlers.

    `payloads` is how values become bytes (default: JSON): that of the applications that send it commands.
    `publishes` are the topics of its own events: looked at when it starts, so that no event is lost on a missing one.
    """

    def __init__(
        self, name: str, *, payloads: "PayloadFormat | None" = None, publishes: "Sequence[EventTopic]" = ()
    ) -> None:
        self.name = check_name("participant", name)
        self.payloads = payloads
        self.publishes = tuple(publishes)
        self.source = f"kompensate:{name}"
        self._handlers: dict[str, Handler] = {}
        self._subscribers: dict[str, Handler] = {}

    @overload
    def handles(self, function: Function, /) -> Function: ...

    @overload
    def handles(self, name: str, /) -> Callable[[Function], Function]: ...

    def handles(self, what: Any, /) -> Any:
        """Decorator: this function handles the command named like its first parameter's type.

        `@service.handles("Reserve")` names the command where the type does not (a plain dict). Raises BadHandler.
        """
        if isinstance(what, str):
            return lambda function: self._add(function, what)
        return self._add(what, None)

    def external(
        self,
        name: str | None = None,
        /,
        *,
        timeout: float = External.timeout,
        tries: int = External.tries,
        budget: float = External.budget,
        concurrent: int = External.concurrent,
        breaker_failures: int = External.breaker_failures,
        breaker_seconds: float = External.breaker_seconds,
        window: float = External.window,
        reconcile: Callable[..., object] | None = None,
    ) -> Callable[[Function], Function]:
        """Decorator: this function, plain or async, handles its command outside of the database transaction.

        `timeout`, `budget`, `breaker_seconds` and `window` are in seconds; `External` says what each bounds.
        `reconcile(command, call)` is asked what became of a call that may not be repeated: it returns the result,
        raises Refused or Failed (nothing was done), or anything else where it cannot tell. Raises BadHandler and
        ValueError.
        """
        options = External(timeout, tries, budget, concurrent, breaker_failures, breaker_seconds, window, reconcile)
        return lambda function: self._add(function, name, options)

    def on(self, event: str, /, *, topic: str) -> Callable[[Function], Function]:
        """Decorator: this function handles the event of that type (`orders.OrderPlaced`) wherever it stands in `topic`.

        `topic` is its whole name: no prefix is put before it. Raises BadHandler, ValueError.
        """
        contract, place = check_name("event", event), check_name("event topic", topic)
        return lambda function: self._subscribe(function, contract, place)

    def handler(self, contract: str) -> Handler | None:
        """Who handles commands of this type, or None."""
        return self._handlers.get(contract)

    def subscriber(self, event: str) -> Handler | None:
        """Who handles events of this type, or None."""
        return self._subscribers.get(event)

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """All handlers, those of commands first, in the order of their declaration."""
        return (*self._handlers.values(), *self._subscribers.values())

    @property
    def calls_outside(self) -> bool:
        """Whether any of its handlers runs outside of the transaction."""
        return any(handler.external is not None for handler in self._handlers.values())

    @property
    def contracts(self) -> tuple[str, ...]:
        """The command types it takes, sorted."""
        return tuple(sorted(self._handlers))

    @property
    def subscribes(self) -> tuple[str, ...]:
        """The topics that it takes events from, sorted."""
        return tuple(sorted({handler.topic for handler in self._subscribers.values() if handler.topic}))

    def _add(self, function: Function, name: str | None, external: External | None = None) -> Function:
        handler = _inspect(self.name, function, name, external)
        known = self._handlers.get(handler.contract)
        if known is not None:
            raise BadHandler(
                f"{handler.contract}: expected one handler, got {_title(known.function)} and {_title(function)}"
            )
        self._handlers[handler.contract] = handler
        return function

    def _subscribe(self, function: Function, event: str, topic: str) -> Function:
        handler = replace(_inspect(self.name, function, "Event"), contract=event, topic=topic)
        known = self._subscribers.get(event)
        if known is not None:
            raise BadHandler(
                f"event {event} in {self.name}: expected one handler, got {_title(known.function)} and "
                f"{_title(function)}"
            )
        self._subscribers[event] = handler
        return function


def _inspect(
    service: str, function: Callable[..., object], name: str | None, external: External | None = None
) -> Handler:
    title = _title(function)
    try:
        hints = get_type_hints(function)
    except NameError as error:
        raise BadHandler(f"{title}: expected annotations that can be looked up from its module, got {error}") from error
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].name not in hints:
        raise BadHandler(f"{title}: expected a first parameter annotated with the command's type, got none")
    payload_type = hints[parameters[0].name]
    command = name or (getattr(payload_type, "__name__", "") if _has_fields(payload_type) else "")
    if not command:
        raise BadHandler(
            f"{title}: expected a dataclass, Struct, TypedDict or pydantic model, whose name is the command's, got "
            f"{payload_type}: "
            'name it with handles("Name")'
        )
    offers = tuple((p.name, _offer(title, p, hints.get(p.name), external)) for p in parameters[1:])
    result = hints.get("return")
    handler = Handler(
        contract=f"{service}.{check_name('command', command)}",
        function=function,
        payload_type=payload_type,
        offers=offers,
        result_name=str(getattr(result, "__name__", None)) if is_typeddict(result) else None,
        external=external,
    )
    if handler.wants_async_session and not handler.is_async:
        raise BadHandler(f"{title}: expected async def, as it asks for an AsyncSession, got def: or ask for a Session")
    return handler


def _offer(title: str, parameter: inspect.Parameter, hint: Any, external: External | None) -> str:
    """What a parameter asks for."""
    if hint is Call or (hint is None and parameter.name == "call"):
        return "call"
    if external is not None:
        if hint is OutsideCall:
            return "call"
        raise BadHandler(
            f"{title}: expected at most a Call or OutsideCall after the command, since it runs outside of the "
            f"database transaction, got {parameter}"
        )
    for base in getattr(get_origin(hint) or hint, "__mro__", ()):
        offer = _BY_CLASS.get((base.__module__.partition(".")[0], base.__name__))
        if offer is not None:
            return offer
    if hint is None and parameter.name in _BY_NAME:
        return parameter.name
    raise BadHandler(
        f"{title}: expected parameters after the command to be a Call, SQLAlchemy's Session, AsyncSession or "
        f"Connection, or psycopg's Connection or Cursor, got {parameter}"
    )


def _has_fields(kind: Any) -> bool:
    told_by = ("__dataclass_fields__", "__struct_fields__", "model_validate_json")  # the last is pydantic's
    return isinstance(kind, type) and (any(hasattr(kind, name) for name in told_by) or is_typeddict(kind))


def _title(function: Callable[..., object]) -> str:
    return f"handler {getattr(function, '__qualname__', function)!s}"
