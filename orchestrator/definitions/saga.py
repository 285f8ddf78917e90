"""How sagas are written down: a list of steps, or one `async def`.

A declared saga's steps become a *plan*, which is data only; the plan is stored with the sagas that follow
it, so one in flight keeps the order and policies it started with. What a plan cannot hold, the
callables that make commands, is looked up by step name in today's code.
"""

import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cache
from hashlib import blake2b
from json import dumps, loads
from typing import Any, get_origin

from kompensate.orchestrator.kernel.context import DEFAULT_POLICIES, Context, Service
from kompensate.orchestrator.kernel.policy import Policy, RetryPolicy
from kompensate.orchestrator.kernel.tables import KINDS
from kompensate.schemas.topics import check_name

Make = Callable[["Scope"], object]


class DefinitionError(ValueError):
    """A saga definition contradicts itself; the text names the saga, the step, expected and got."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a step's callables see: the saga's input, and the results of the steps done, by name."""

    input: Any
    results: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, step: str) -> Any:
        return self.results[step]


@dataclass(frozen=True)
class Step:
    """One forward action with, where it can be undone, its compensation.

    `command` and `undo` are message types of `service` (a Service or its name): dataclasses or msgspec
    Structs. Their fields are filled by name from the saga's input, or by `make` and `make_undo`, which take
    the Scope. The undo is made before the command is sent, so it sees earlier steps' results and not its own.
    `kind` is compensatable (default), pivot (the point of no return) or retriable (after it). `returns` is the
    type of the participant's result.
    Seconds: `resend_after` until the same command goes out again, `timeout` until the step is in doubt.
    """

    name: str
    service: Service | str
    command: type
    make: Make | None = None
    undo: type | None = None
    make_undo: Make | None = None
    kind: str = "compensatable"
    returns: Any = None
    retry: RetryPolicy | None = None
    resend_after: float | None = None
    timeout: float | None = None

    def policy(self) -> Policy:
        """The step's times as the kernel wants them."""
        return Policy.of(DEFAULT_POLICIES[self.kind], self.retry, self.resend_after, self.timeout)


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step as data: what a saga in flight follows."""

    name: str
    service: str
    type: str
    undo_type: str | None
    kind: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class Plan:
    """A declared saga's steps as data, with the hash that names it."""

    name: str
    steps: tuple[PlannedStep, ...]

    def encode(self) -> bytes:
        """Canonical JSON: the same plan is the same bytes everywhere."""
        return dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @property
    def hash(self) -> str:
        return self.hash_of(self.encode())

    @staticmethod
    def hash_of(data: bytes) -> str:
        """The hash of a plan that is stored as these bytes."""
        return blake2b(data, digest_size=8).hexdigest()

    @classmethod
    def decode(cls, data: bytes, hash_: str) -> "Plan":
        """Read a stored plan that has this hash. Raises ValueError.

        The hash is of the bytes: read by later code, which may know more of a policy, a plan keeps its name.
        """
        if cls.hash_of(data) != hash_:
            raise ValueError(f"stored plan: expected bytes with the hash {hash_}, got {cls.hash_of(data)}")
        try:
            found = loads(data)
            steps = (PlannedStep(**{**step, "policy": Policy(**step["policy"])}) for step in found["steps"])
            return cls(found["name"], tuple(steps))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"stored plan: expected a plan's JSON, got {data[:80]!r} ({error})") from error


class Saga:
    """A declared saga: steps run in order; when one does not succeed, those done are undone in reverse.

    `input` is the type of the saga's input. `result` makes the saga's result from the Scope at its end.
    `version` tells apart what stands side by side under one name: a saga keeps to the one that it started with.
    Raises DefinitionError for a definition that contradicts itself.
    """

    def __init__(
        self,
        name: str,
        input: type,  # noqa: A002  # reads best
        steps: list[Step],
        *,
        result: Make | None = None,
        version: int = 1,
    ) -> None:
        self.name, self.version = name, check_version(name, version)
        self.input = input
        self.steps: Mapping[str, Step] = {step.name: step for step in steps}
        self._result = result
        _check(name, input, steps)
        self.plan = Plan(name, tuple(_planned(step) for step in steps))
        self.services = tuple(dict.fromkeys(str(step.service) for step in steps))

    def coroutine(self, context: Context, value: Any, plan: Plan) -> Coroutine[Any, Any, Any]:
        """The one built-in program, following `plan`. Raises LookupError where today's code lacks a step."""
        if plan is not self.plan:
            self._check_followable(plan)
        return _follow(context, plan, self, value)

    def _check_followable(self, plan: Plan) -> None:
        """Today's code must still have what an older plan names; its policies may differ."""
        today = {step.name: step for step in self.plan.steps}
        for planned in plan.steps:
            step = today.get(planned.name)
            if step is None or (step.type, step.undo_type) != (planned.type, planned.undo_type):
                got = f"command {step.type!r} and undo {step.undo_type!r}" if step else "none of that name"
                raise LookupError(
                    f"saga {self.name!r} follows plan {plan.hash}: expected step {planned.name!r} with command "
                    f"{planned.type!r} and undo {planned.undo_type!r} in the code, got {got}"
                )

    def finish(self, scope: Scope) -> object:
        """The saga's result."""
        return None if self._result is None else self._result(scope)


async def _follow(context: Context, plan: Plan, saga: Saga, value: Any) -> object:
    """The program of every declared saga."""
    scope = Scope(value)
    for planned in plan.steps:
        step = saga.steps[planned.name]
        scope.results[planned.name] = await context.call(
            planned.service,
            _message(step.command, step.make, scope),
            undo=None if step.undo is None else _message(step.undo, step.make_undo, scope),
            step=planned.name,
            kind=planned.kind,
            returns=step.returns,
            policy=planned.policy,
        )
    return saga.finish(scope)


class AsyncSaga:
    """A saga that is one `async def`; made by the decorator `saga`."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Coroutine[Any, Any, Any]],
        input: Any,  # noqa: A002
        version: int = 1,
    ) -> None:
        self.name, self.version = name, check_version(name, version)
        self.input = input
        self.function = function
        self.services: tuple[str, ...] = ()

    def coroutine(self, context: Context, value: Any) -> Coroutine[Any, Any, Any]:
        """A fresh coroutine of the function."""
        return self.function(context, value)


def check_version(name: str, version: int) -> int:
    """A version that can be told from others. Raises DefinitionError."""
    if type(version) is not int or version < 1:
        raise DefinitionError(f"saga {name!r}: expected a whole number from 1 as its version, got {version!r}")
    return version


def saga(name: str, *, version: int = 1) -> Callable[[Callable[..., Coroutine[Any, Any, Any]]], AsyncSaga]:
    """Declare `async def function(ctx: Context, input: T)` as the saga `name`; T is read from the annotation.

    `version` as for Saga. Raises DefinitionError, also where it stands without a name.
    """
    if not isinstance(name, str):
        got = getattr(name, "__name__", type(name).__name__)
        raise DefinitionError(f'saga: expected a name, as in @saga("name"), got {got}')

    def declare(function: Callable[..., Coroutine[Any, Any, Any]]) -> AsyncSaga:
        try:
            signature = inspect.signature(function, eval_str=True)
        except NameError as error:
            raise DefinitionError(f"saga {name!r}: expected annotations that can be read, got {error}") from error
        parameters = list(signature.parameters.values())
        if not inspect.iscoroutinefunction(function) or len(parameters) != 2:
            raise DefinitionError(
                f"saga {name!r}: expected `async def {function.__name__}(ctx, input)`, got {signature}"
            )
        annotation = parameters[1].annotation
        return AsyncSaga(name, function, None if annotation is inspect.Parameter.empty else annotation, version)

    return declare


def _planned(step: Step) -> PlannedStep:
    service = str(step.service)
    undo = None if step.undo is None else f"{service}.{step.undo.__name__}"
    return PlannedStep(step.name, service, f"{service}.{step.command.__name__}", undo, step.kind, step.policy())


def _message(type_: type, make: Make | None, scope: Scope) -> object:
    if make is not None:
        message = make(scope)
        if type(message) is not type_:
            raise TypeError(f"expected {type_.__name__}, got {type(message).__name__} from its make callable")
        return message
    value = scope.input
    if isinstance(value, dict):
        return type_(**{name: value[name] for name in _field_names(type_) or () if name in value})
    given: Any = type(value)
    return type_(**{name: getattr(value, name) for name in _filled(type_, given)})


@cache
def _filled(type_: type, given: type) -> tuple[str, ...]:
    """The fields of a message type that a value of type `given` has something for."""
    has = _field_names(given) or ()
    return tuple(name for name in _field_names(type_) or () if name in has or hasattr(given, name))


@cache
def _field_names(type_: type) -> tuple[str, ...] | None:
    """Names of a message type's fields; None where the type does not tell."""
    if is_dataclass(type_):
        return tuple(f.name for f in fields(type_))
    struct: tuple[str, ...] | None = getattr(type_, "__struct_fields__", None)
    if struct is not None:
        return struct
    if hasattr(type_, "model_validate_json"):
        return tuple(type_.model_fields)  # type: ignore[attr-defined]  # pydantic's classes have them
    return tuple(type_.__annotations__) if hasattr(type_, "__required_keys__") else None


def _check(name: str, input_: type, steps: list[Step]) -> None:
    if not steps:
        raise DefinitionError(f"saga {name!r}: expected at least one step, got none")
    seen: set[str] = set()
    pivot: str | None = None
    for step in steps:
        where = f"saga {name!r}, step {step.name!r}"
        if step.name in seen:
            raise DefinitionError(f"{where}: expected each step's name once, got it again")
        seen.add(step.name)
        _check_names(where, step)
        _check_types(where, step)
        _check_kind(where, step, pivot)
        _check_times(where, step)
        if step.kind == "pivot":
            pivot = step.name
        for type_, make in ((step.command, step.make), (step.undo, step.make_undo)):
            if type_ is not None and make is None:
                _check_by_name(where, type_, input_)


def _check_names(where: str, step: Step) -> None:
    if not isinstance(step.service, Service | str):
        raise DefinitionError(f"{where}: expected a Service or its name, got {type(step.service).__name__}")
    try:
        check_name("step", step.name)
        check_name("service", str(step.service))
    except ValueError as error:
        raise DefinitionError(f"{where}: {error}") from error


def _check_types(where: str, step: Step) -> None:
    """A command is named after its class: one whose values do not know their class has no name."""
    for role, type_ in (("command", step.command), ("undo", step.undo)):
        if not isinstance(type_, type | None) and get_origin(type_) is None:
            got = type(type_).__name__
            raise DefinitionError(f"{where}: expected a type as {role}, got a value of type {got}: give its class")
        if type_ is not None and (_field_names(type_) is None or hasattr(type_, "__required_keys__")):
            raise DefinitionError(
                f"{where}: expected a dataclass, msgspec Struct or pydantic model as a command, got {_name(type_)}"
            )


def _check_times(where: str, step: Step) -> None:
    try:
        step.policy()
    except OverflowError as error:
        raise DefinitionError(f"{where}: expected finite times in seconds, got one that is not ({error})") from error
    except ValueError as error:
        raise DefinitionError(f"{where}: {error}") from error


def _name(type_: Any) -> str:
    return getattr(type_, "__name__", None) or str(type_)


def _check_kind(where: str, step: Step, pivot: str | None) -> None:
    if step.kind not in KINDS:
        raise DefinitionError(f"{where}: expected a kind of {KINDS}, got {step.kind!r}")
    if step.undo is not None and step.kind != "compensatable":
        raise DefinitionError(f"{where}: a {step.kind} step is never undone, got undo {step.undo.__name__}")
    if step.undo is None and step.make_undo is not None:
        raise DefinitionError(f"{where}: got make_undo without undo; name the undo's type too")
    if pivot is not None and step.kind != "retriable":
        raise DefinitionError(f"{where}: expected a retriable step after the pivot {pivot!r}, got {step.kind}")
    if step.kind == "retriable" and pivot is None:
        raise DefinitionError(f"{where}: expected a pivot before a retriable step, got none")


def _check_by_name(where: str, type_: type, input_: type) -> None:
    wanted, given = _field_names(type_), _field_names(input_)
    if wanted is None or given is None:
        raise DefinitionError(
            f"{where}: expected dataclasses, msgspec Structs or TypedDicts to fill {_name(type_)} from "
            f"{_name(input_)} by name, got another type: give a make callable"
        )
    missing = [name for name in wanted if name not in given and name not in _optional(type_)]
    if missing:
        raise DefinitionError(
            f"{where}: expected {_name(input_)} with {', '.join(missing)} for {_name(type_)}, got "
            f"{', '.join(given)}: add the field, or give a make callable"
        )


def _optional(type_: type) -> set[str]:
    parameters = inspect.signature(type_).parameters.values()
    return {p.name for p in parameters if p.default is not inspect.Parameter.empty}
