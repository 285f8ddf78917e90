"""Values without an order: sets, as far as the source shows that they are."""

import ast
from collections.abc import Mapping

_OPERATORS = ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor
_METHODS = frozenset({"union", "intersection", "difference", "symmetric_difference", "copy"})
_TYPES = frozenset({"set", "frozenset", "Set", "AbstractSet", "MutableSet"})
IN_ORDER = frozenset(
    {"list", "tuple", "iter", "enumerate", "zip", "map", "filter", "next", "reversed", "fromkeys", "join"}
)
"""Calls that take the elements one after the other, and whose result shows in which order."""
ANY_ORDER = frozenset({"sorted", "set", "frozenset", "len", "sum", "min", "max", "any", "all"})
"""Calls whose result is the same in any order."""


def is_set(node: ast.expr | None, known: Mapping[str, bool]) -> bool:
    """Is it a set? `known` are names of which that is known."""
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Name(id=name):
            return known.get(name, False)
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.Call(func=ast.Attribute(value=value, attr=attr)):
            return attr in _METHODS and is_set(value, known)
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _OPERATORS):
            return any(is_set(side, known) or _is_keys(side) for side in (left, right))
        case ast.IfExp(body=body, orelse=orelse):
            return is_set(body, known) or is_set(orelse, known)
        case ast.NamedExpr(value=value):
            return is_set(value, known)
    return False


def _is_keys(node: ast.expr) -> bool:
    """Keys of a dictionary keep their order, what is made of two of them does not."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "keys"


def is_set_type(annotation: ast.expr | None) -> bool:
    """Does an annotation say that it is a set?"""
    if isinstance(annotation, ast.Subscript):
        annotation = annotation.value
    name = annotation.attr if isinstance(annotation, ast.Attribute) else getattr(annotation, "id", None)
    return name in _TYPES


def sets_among(function: ast.AST, known: Mapping[str, bool]) -> dict[str, bool]:
    """The names that a function gives to sets, and only to sets."""
    found = dict(known)
    for _ in range(2):  # names of names
        for node in ast.walk(function):
            match node:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.NamedExpr(target=ast.Name(id=name), value=value)
                ):
                    found[name] = is_set(value, found)
                case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                    found[name] = is_set_type(annotation)
                case ast.arg(arg=name, annotation=annotation):
                    found[name] = is_set_type(annotation)
    return found
