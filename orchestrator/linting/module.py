"""One file's names: what its imports and assignments stand for, its functions, and its entries.

An entry is where a saga's code begins: an `async def` that is declared as a saga or takes a Context, and each
callable given to a declared step or saga.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from kompensate.orchestrator.linting.rules import FINE_WITH_ARGUMENTS

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

OURS = "kompensate.orchestrator."
NO_DEFINITIONS = frozenset({"Application", "Client", "Worker", "Settings", "Service", "RetryPolicy", "Policy"})
"""Names of ours whose callables are not part of a saga."""
_MUTABLE = frozenset({"list", "dict", "set", "defaultdict", "deque", "Counter", "OrderedDict", "bytearray"})
_CONSUMED = frozenset({"count", "cycle", "iter", "Random", "default_rng", "RandomState"})
_MUTATORS = frozenset(
    {
        *("append", "extend", "insert", "pop", "remove", "clear", "update", "setdefault", "popitem", "add"),
        *("discard", "appendleft", "popleft", "sort", "reverse"),
    }
)


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a saga's code begins; `name` is how people call it."""

    name: str
    function: Function


class Module:
    """What a file's top level says. Raises SyntaxError."""

    def __init__(self, source: str, file: str) -> None:
        self.tree = ast.parse(source, file)
        self.functions: dict[str, Function] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.meanings: dict[str, str | None] = {}
        """Names that stand for something of a library, as `datetime.datetime`; None: for something else."""
        self.values: dict[str, ast.expr] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.meanings.update(imported(node))
        for node in self.tree.body:
            self._top(node)
        self.state = _shared_state(self.tree, self.values)

    def _top(self, node: ast.stmt) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self.functions[node.name] = node
                self.meanings[node.name] = None
            case ast.ClassDef():
                self.classes[node.name] = node
                self.meanings[node.name] = None
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                self.values[name] = value
                self.meanings[name] = self.meaning(value, {})
            case ast.If() | ast.Try() | ast.With():
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.stmt):
                        self._top(child)

    def meaning(self, node: ast.expr | None, local: dict[str, str | None]) -> str | None:
        """What an expression stands for, as a library's name: `datetime.datetime.now()`; None for anything else."""
        match node:
            case ast.Name(id=name):
                return local[name] if name in local else self.meanings.get(name, f"builtins.{name}")
            case ast.Attribute(value=value, attr=attr):
                base = self.meaning(value, local)
                return None if base is None else f"{base}.{attr}"
            case ast.Call(func=func):
                base = self.meaning(func, local)
                fine = base in FINE_WITH_ARGUMENTS and (node.args or node.keywords)
                return None if base is None or fine else f"{base}()"
        return None

    def entries(self) -> Iterator[Entry]:
        """Every piece of a saga's code in this file."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.AsyncFunctionDef):
                name = self._saga_name(node)
                if name is not None:
                    yield Entry(name, node)
            elif isinstance(node, ast.Call):
                yield from self._callables(node)

    def _saga_name(self, node: ast.AsyncFunctionDef) -> str | None:
        for decorator in node.decorator_list:
            meaning = self.meaning(decorator, {}) or ""
            if meaning.startswith(OURS) and meaning.endswith(".saga()") and isinstance(decorator, ast.Call):
                given = decorator.args[0] if decorator.args else None
                return f"saga {given.value!r}" if isinstance(given, ast.Constant) else f"saga {node.name}"
        return node.name if self.contexts(node) else None

    def contexts(self, node: Function) -> set[str]:
        """The parameters that are annotated as a Context."""
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        return {argument.arg for argument in every if self._is_context(argument.annotation)}

    def _is_context(self, annotation: ast.expr | None) -> bool:
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            try:
                annotation = ast.parse(annotation.value, mode="eval").body
            except SyntaxError:
                return False
        meaning = self.meaning(annotation, {}) or ""
        return meaning.startswith(OURS) and meaning.endswith(".Context")

    def _callables(self, node: ast.Call) -> Iterator[Entry]:
        """What is given to a declared step or saga and will be called."""
        what = (self.meaning(node.func, {}) or "").rpartition(".")
        if not f"{what[0]}.".startswith(OURS) or not what[2][:1].isupper() or what[2] in NO_DEFINITIONS:
            return
        first = node.args[0] if node.args else None
        called = f"{what[2].lower()} {first.value!r}" if isinstance(first, ast.Constant) else what[2].lower()
        for keyword in [*node.keywords, *(ast.keyword(None, argument) for argument in node.args)]:
            value = keyword.value
            role = f", {keyword.arg}" if keyword.arg else ""
            if isinstance(value, ast.Lambda):
                yield Entry(f"{called}{role}", value)
            elif isinstance(value, ast.Name) and value.id in self.functions:
                yield Entry(f"{called}{role}", self.functions[value.id])


def imported(node: ast.Import | ast.ImportFrom) -> dict[str, str | None]:
    """The names that an import binds, and what they stand for."""
    if isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        return {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}
    return {
        alias.asname or alias.name.partition(".")[0]: alias.name if alias.asname else alias.name.partition(".")[0]
        for alias in node.names
    }


def _shared_state(tree: ast.Module, values: dict[str, ast.expr]) -> set[str]:
    """Names of the top level that functions change, or that change by being used, as an iterator does."""
    found = {name for name, value in values.items() if _called(value) in _CONSUMED}
    mutable = {name for name, value in values.items() if _is_mutable(value)}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for node in ast.walk(function):
                if isinstance(node, ast.Global):
                    found.update(node.names)
                name = changed(node)
                if name in mutable:
                    found.add(name)
    return found


def changed(node: ast.AST) -> str | None:
    """The name whose value this changes: `name[...] = `, `del name[...]`, `name += `, `name.append(...)`."""
    match node:
        case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
            return name
        case ast.AugAssign(target=ast.Name(id=name)):
            return name
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)) if attr in _MUTATORS:
            return name
    return None


def _is_mutable(value: ast.expr) -> bool:
    literal = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
    return isinstance(value, literal) or _called(value) in _MUTABLE


def _called(value: ast.expr) -> str | None:
    match value:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name
    return None
