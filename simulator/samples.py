"""Values of a type, made up: inputs for sagas, and results for steps that say what they return."""

import dataclasses
import enum
import types
from functools import cache
from random import Random
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

DEPTH_MAX = 6
_PLAIN: dict[Any, Any] = {
    str: lambda random: f"s{random.randrange(1000)}",
    int: lambda random: random.randrange(1000),
    float: lambda random: float(random.randrange(1000)),
    bool: lambda random: random.random() < 0.5,
    bytes: lambda random: b"x" * random.randrange(8),
    type(None): lambda _random: None,
}


def sample(kind: Any, random: Random, depth: int = 0) -> Any:
    """A value of type `kind`, as what its JSON decodes to. Raises TypeError for a type of which none can be made."""
    if kind is None or kind is Any or kind is object or depth > DEPTH_MAX:
        return {} if depth == 0 else None
    plain = _PLAIN.get(kind)
    if plain is not None:
        return plain(random)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return random.choice(arguments)
    if origin in (Union, types.UnionType):
        return sample(random.choice(arguments), random, depth + 1)
    if kind in (list, tuple, set, dict) or origin is not None:
        return _collection(origin or kind, arguments, random, depth)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return random.choice(list(kind)).value
    fields = _fields(kind)
    return {name: sample(hint, random, depth + 1) for name, hint in fields.items()}


def _collection(origin: Any, arguments: tuple[Any, ...], random: Random, depth: int) -> Any:
    if origin is dict:
        return {} if len(arguments) != 2 else {"k": sample(arguments[1], random, depth + 1)}
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        return [sample(argument, random, depth + 1) for argument in arguments]
    if origin not in (list, tuple, set, frozenset) and not issubclass(origin, list | tuple | set):
        return sample(origin, random, depth)  # a generic class: by its own fields
    return [sample(arguments[0], random, depth + 1) for _ in range(random.randrange(3))] if arguments else []


@cache
def _fields(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}
    if is_typeddict(kind) or hasattr(kind, "__struct_fields__"):
        return hints
    raise TypeError(f"expected a dataclass, Struct, TypedDict or plain type to make a value of, got {kind!r}")
