"""A step's messages, filled by name from the saga's input or made by the author's callable."""

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from operator import attrgetter
from typing import Any

from kompensate.orchestrator.definitions.steps import Make, Scope


def message(type_: type, make: Make | None, scope: Scope) -> object:
    """A message of that type for this saga. Raises what the callable raises, TypeError for another type."""
    if make is not None:
        message = make(scope)
        if type(message) is not type_:
            raise TypeError(f"expected {type_.__name__}, got {type(message).__name__} from its make callable")
        return message
    value = scope.input
    if isinstance(value, dict):
        return type_(**{name: value[name] for name in field_names(type_) or () if name in value})
    given: Any = type(value)
    return _filler(type_, given)(value)


@cache
def _filler(type_: type, given: type) -> Callable[[Any], object]:
    """What makes a message of type `type_` from the fields that a value of type `given` has something for."""
    has = field_names(given) or ()
    names = [name for name in field_names(type_) or () if name in has or hasattr(given, name)]
    parameters = inspect.signature(type_).parameters.values()
    in_order = [p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    if len(names) > 1 and names == in_order[: len(names)]:
        take = attrgetter(*names)
        return lambda value: type_(*take(value))  # by name it takes twice as long
    return lambda value: type_(**{name: getattr(value, name) for name in names})


@cache
def field_names(type_: type) -> tuple[str, ...] | None:
    """Names of a message type's fields; None where the type does not tell."""
    if is_dataclass(type_):
        return tuple(f.name for f in fields(type_))
    struct: tuple[str, ...] | None = getattr(type_, "__struct_fields__", None)
    if struct is not None:
        return struct
    if hasattr(type_, "model_validate_json"):
        return tuple(type_.model_fields)  # type: ignore[attr-defined]  # pydantic's classes have them
    return tuple(type_.__annotations__) if hasattr(type_, "__required_keys__") else None


@cache
def optional_fields(type_: type) -> set[str]:
    """Fields of a message type that have a default."""
    parameters = inspect.signature(type_).parameters.values()
    return {p.name for p in parameters if p.default is not inspect.Parameter.empty}
