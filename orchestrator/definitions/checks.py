"""What is checked of a declared saga when its module is imported."""

from collections.abc import Sequence
from typing import Any, get_origin

from kompensate.orchestrator.definitions.messages import field_names, optional_fields
from kompensate.orchestrator.definitions.steps import (
    NOTHING,
    DefinitionError,
    Make,
    Nothing,
    Parallel,
    Part,
    Step,
    SubSaga,
)
from kompensate.orchestrator.kernel.arguments import check_priority
from kompensate.orchestrator.kernel.calls import Service
from kompensate.orchestrator.kernel.tables import KINDS, ON_CLOSE
from kompensate.schemas.topics import check_name


def check_parts(name: str, input_: type, parts: Sequence[Part]) -> list[Step | SubSaga]:
    """The steps in order. Raises DefinitionError where they contradict each other or the input."""
    if not parts:
        raise DefinitionError(f"saga {name!r}: expected at least one step, got none")
    steps: list[Step | SubSaga] = []
    pivot: str | None = None
    for part in parts:
        if isinstance(part, Parallel):
            _check_group(name, part)
        elif not isinstance(part, Step | SubSaga):
            raise DefinitionError(f"saga {name!r}: expected Step, SubSaga or Parallel, got {type(part).__name__}")
        for step in part.steps if isinstance(part, Parallel) else (part,):
            where = f"saga {name!r}, step {step.name!r}"
            if step.name in [other.name for other in steps]:
                raise DefinitionError(f"{where}: expected each step's name once, got it again")
            _check_name(where, step.name)
            if isinstance(step, SubSaga):
                _check_sub_saga(where, step, input_, pivot)
            else:
                _check_step(where, step, input_, pivot)
                pivot = step.name if step.kind == "pivot" else pivot
            _check_limit(where, step)
            steps.append(step)
    return steps


def _check_group(name: str, group: Parallel) -> None:
    names = [step.name for step in group.steps]
    if len(group.steps) < 2:
        raise DefinitionError(f"saga {name!r}: expected at least two steps in Parallel, got {names}")
    pivots = [step.name for step in group.steps if isinstance(step, Step) and step.kind == "pivot"]
    if pivots:
        raise DefinitionError(
            f"saga {name!r}: expected the pivot {pivots[0]!r} by itself, got it in a Parallel with {names}: what runs "
            "beside it could no more be undone"
        )


def _check_sub_saga(where: str, step: SubSaga, input_: type, pivot: str | None) -> None:
    found = getattr(step.saga, "name", None)
    if not isinstance(found, str) or not hasattr(step.saga, "coroutine"):
        raise DefinitionError(f"{where}: expected a saga, got {type(step.saga).__name__}")
    if step.on_close is not None and step.on_close not in ON_CLOSE:
        raise DefinitionError(f"{where}: on_close: expected one of {tuple(ON_CLOSE)}, got {step.on_close!r}")
    if pivot is not None and not step.detached:
        raise DefinitionError(
            f"{where}: expected nothing that may fail after the pivot {pivot!r}, got a saga: start it detached"
        )
    wants = getattr(step.saga, "input", None)
    if step.make is None and wants is not None and wants is not Any and wants is not input_:
        raise DefinitionError(
            f"{where}: expected saga {found!r} to take {_name(input_)}, got {_name(wants)}: give a make callable"
        )


def _check_step(where: str, step: Step, input_: type, pivot: str | None) -> None:
    _check_service(where, step)
    _check_types(where, step)
    _check_kind(where, step, pivot)
    _check_times(where, step)
    for type_, make in ((step.command, step.make), (step.undo_message, step.make_undo)):
        if type_ is not None and make is None:
            _check_by_name(where, type_, input_)
        elif type_ is not None:
            _check_made(where, type_, make)


def _check_limit(where: str, step: Step | SubSaga) -> None:
    if step.limit and (step.detached if isinstance(step, SubSaga) else step.kind == "notification"):
        raise DefinitionError(f"{where}: expected no limit where nobody waits for an answer, got {step.limit!r}")
    if callable(step.priority):
        if not step.limit:
            raise DefinitionError(f"{where}: expected a limit with its priority, got none")
    elif step.priority != 0:
        try:
            check_priority("priority", step.priority, step.limit)
        except ValueError as error:
            raise DefinitionError(f"{where}: {error}") from error


def _check_made(where: str, type_: type, make: Make | None) -> None:
    """A callable that says what it returns must return the step's message."""
    returns = getattr(make, "__annotations__", {}).get("return", type_)
    if isinstance(returns, type) and not issubclass(returns, type_):
        raise DefinitionError(f"{where}: expected a make callable that returns {_name(type_)}, got {_name(returns)}")


def _check_name(where: str, name: str) -> None:
    try:
        check_name("step", name)
    except ValueError as error:
        raise DefinitionError(f"{where}: {error}") from error


def _check_service(where: str, step: Step) -> None:
    if not isinstance(step.service, Service | str):
        raise DefinitionError(f"{where}: expected a Service or its name, got {type(step.service).__name__}")
    try:
        check_name("service", str(step.service))
    except ValueError as error:
        raise DefinitionError(f"{where}: {error}") from error


def _check_types(where: str, step: Step) -> None:
    """A command is named after its class: one whose values do not know their class has no name."""
    for role, type_ in (("command", step.command), ("undo", step.undo_message)):
        if not isinstance(type_, type | None) and get_origin(type_) is None:
            got = type(type_).__name__
            raise DefinitionError(f"{where}: expected a type as {role}, got a value of type {got}: give its class")
        if type_ is not None and (field_names(type_) is None or hasattr(type_, "__required_keys__")):
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
    undo = step.undo_message
    if undo is not None and step.kind != "compensatable":
        raise DefinitionError(f"{where}: a {step.kind} step is never undone, got undo {undo.__name__}")
    if undo is None and step.make_undo is not None:
        raise DefinitionError(f"{where}: got make_undo without undo; name the undo's type too")
    if pivot is not None and step.kind not in ("retriable", "notification"):
        raise DefinitionError(f"{where}: expected a retriable step after the pivot {pivot!r}, got {step.kind}")
    if step.kind == "retriable" and pivot is None:
        raise DefinitionError(f"{where}: expected a pivot before a retriable step, got none")
    if step.kind == "compensatable" and step.undo is None:
        raise DefinitionError(
            f"{where}: expected undo=…, the command that undoes it, got none: where there is nothing to undo, say "
            f"undo={NOTHING}"
        )
    if isinstance(step.undo, Nothing) and step.kind != "compensatable":
        raise DefinitionError(f"{where}: a {step.kind} step is never undone: leave undo={NOTHING} out")


def _check_by_name(where: str, type_: type, input_: type) -> None:
    wanted, given = field_names(type_), field_names(input_)
    if wanted is None or given is None:
        raise DefinitionError(
            f"{where}: expected dataclasses, msgspec Structs or TypedDicts to fill {_name(type_)} from "
            f"{_name(input_)} by name, got another type: give a make callable"
        )
    missing = [name for name in wanted if name not in given and name not in optional_fields(type_)]
    if missing:
        raise DefinitionError(
            f"{where}: expected {_name(input_)} with {', '.join(missing)} for {_name(type_)}, got "
            f"{', '.join(given)}: add the field, or give a make callable"
        )
