"""Going through an entry's code, and the functions of the same file that it uses, for what the rules forbid.

Functions given to `ctx.run` and `ctx.compensate` are left out: what the worker runs is no part of the saga. Each
function is gone through once, for the first entry that reaches it.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kompensate.orchestrator.linting.module import Entry, Function, Module, changed, imported
from kompensate.orchestrator.linting.rules import METHODS, code_of
from kompensate.orchestrator.linting.sets import ANY_ORDER, IN_ORDER, is_set, sets_among

FOR_THE_WORKER = frozenset({"function", "by", "undo", "reconcile"})
"""Keywords by which `ctx.run` and `ctx.compensate` are given functions, beside their first argument."""


@dataclass(frozen=True, slots=True)
class Found:
    """What breaks rule `code` at `node`; `name` is what does it, `where` which saga's code it is."""

    code: str
    node: ast.expr | ast.stmt
    name: str
    where: str


@dataclass(slots=True)
class Scope:
    """What names mean inside one function: of libraries, as contexts, as sets, as functions made there."""

    where: str
    contexts: set[str]
    meanings: dict[str, str | None] = field(default_factory=dict)
    sets: dict[str, bool] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)


class Walk:
    """One file gone through. `found` are its findings, `entries` how many sagas' pieces of code it has."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._seen: set[ast.AST] = set()
        self.found: list[Found] = []
        self.entries = 0
        for entry in module.entries():
            self.entries += 1
            self._enter(entry)

    def _enter(self, entry: Entry) -> None:
        first = [*entry.function.args.posonlyargs, *entry.function.args.args][:1]
        # The first argument of an `async def` saga is its context, annotated or not.
        context = {first[0].arg} if first and isinstance(entry.function, ast.AsyncFunctionDef) else set()
        self._function(entry.function, Scope(entry.name, context))

    def _function(self, function: Function, outer: Scope) -> None:
        if function in self._seen:
            return
        self._seen.add(function)
        scope = self._scope(function, outer)
        for statement in function.body if isinstance(function.body, list) else [function.body]:
            self._node(statement, scope)

    def _scope(self, function: Function, outer: Scope) -> Scope:
        scope = Scope(
            outer.where,
            outer.contexts | self._module.contexts(function),
            dict(outer.meanings),
            sets_among(function, outer.sets),
            dict(outer.functions),
        )
        own = list(_own(function))
        for node in own:  # what is bound here hides what the file means by that name
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                scope.meanings[node.id] = None
            elif isinstance(node, ast.arg):
                scope.meanings[node.arg] = None
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node is not function:
                scope.meanings[node.name] = None
                scope.functions[node.name] = node
        for node in own:
            match node:
                case ast.Import() | ast.ImportFrom():
                    scope.meanings.update(imported(node))
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    meaning = self._module.meaning(value, scope.meanings)
                    if meaning is not None and code_of(meaning, called=meaning.endswith("()")) is None:
                        scope.meanings[name] = meaning  # else it is told right there, and that is enough
        return scope

    # -- one node

    def _node(self, node: ast.AST, scope: Scope) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Import() | ast.ImportFrom():
                return  # a function's body counts where it is used
            case ast.Lambda():
                self._function(node, scope)
            case ast.AnnAssign(value=value):  # its annotation does nothing
                self._nodes([value] if value is not None else [], scope)
            case ast.Call() if self._is_run(node, scope):
                self._nodes(_besides_function(node), scope)
            case _:
                self._orders(node, scope)
                if not self._state(node, scope) and not self._forbidden(node, scope):
                    self._follow(node, scope)
                    self._nodes(ast.iter_child_nodes(node), scope)

    def _nodes(self, nodes: Iterable[ast.AST], scope: Scope) -> None:
        for node in nodes:
            self._node(node, scope)

    def _is_run(self, node: ast.Call, scope: Scope) -> bool:
        """Is it `ctx.run(...)`, or another that takes a function for the worker to run?"""
        match node.func:
            case ast.Attribute(value=ast.Name(id=name), attr="run" | "compensate"):
                return name in scope.contexts
        return False

    def _forbidden(self, node: ast.AST, scope: Scope) -> bool:
        """A name that a rule forbids, called or given to somebody; True where that is all to be said of `node`."""
        call = node if isinstance(node, ast.Call) else None
        named = node if call is None else call.func
        if not isinstance(named, ast.expr) or isinstance(getattr(named, "ctx", None), ast.Store | ast.Del):
            return False
        name = self._module.meaning(named, scope.meanings)
        code = None if name is None else code_of(name, called=call is not None)
        if code is None and call is not None and isinstance(named, ast.Attribute):
            code, name = METHODS.get(named.attr), f".{named.attr}"
        if code is None or name is None:
            return False
        if call is None:
            # What a file's top level got from a call is a value: it counts where it differs from process to process.
            made = isinstance(node, ast.Name) and name.endswith("()") and code not in ("K01", "K02", "K03")
            if not made:
                self._report(code, named, name.removeprefix("builtins."), scope)
            return True
        if name.startswith(".") or self._module.meaning(call, scope.meanings) is not None:
            self._report(code, call, f"{name.removeprefix('builtins.')}()", scope)
        self._nodes([*call.args, *(keyword.value for keyword in call.keywords)], scope)
        return True

    def _follow(self, node: ast.AST, scope: Scope) -> None:
        """A function of this file that is used is part of the saga; so is a class's making."""
        name = node.id if isinstance(node, ast.Name) else ""
        inside = Scope(f"{scope.where.partition(', in ')[0]}, in {name}()", set())
        if name in scope.functions:
            self._function(scope.functions[name], scope)
        elif name in scope.meanings:
            return
        elif name in self._module.functions:
            self._function(self._module.functions[name], inside)
        elif name in self._module.classes:
            for each in self._module.classes[name].body:
                if isinstance(each, ast.FunctionDef) and each.name in ("__init__", "__post_init__", "__new__"):
                    self._function(each, inside)

    def _state(self, node: ast.AST, scope: Scope) -> bool:
        """The file's own state that changes while it runs; True where it is told."""
        name = changed(node)
        if isinstance(node, ast.Global):
            self._report("K10", node, f"global {', '.join(node.names)}", scope)
        elif name is not None and name in self._module.values and name not in scope.meanings:
            self._report("K10", node, f"{name}, which is changed here,", scope)
        elif isinstance(node, ast.Name) and node.id in self._module.state and node.id not in scope.meanings:
            self._report("K10", node, f"{node.id}, which changes while the process runs,", scope)
        else:
            return False
        return True

    # -- the order of sets

    def _orders(self, node: ast.AST, scope: Scope) -> None:
        for taken in _taken_in_order(node) if node not in self._seen else ():
            if is_set(taken, scope.sets):
                self._report("K09", taken, ast.unparse(taken)[:40], scope)
        match node:  # children come after this: what is marked here is not told there
            case ast.Call(func=ast.Attribute(value=value, attr="pop"), args=[]) if is_set(value, scope.sets):
                self._report("K09", node, ast.unparse(node)[:40], scope)
            case ast.Call(func=ast.Name(id=name), args=[ast.GeneratorExp() as generator]) if name in ANY_ORDER:
                self._seen.add(generator)

    def _report(self, code: str, node: ast.AST, name: str, scope: Scope) -> None:
        assert isinstance(node, ast.expr | ast.stmt)  # only these have a place
        self.found.append(Found(code, node, name, scope.where))


def _taken_in_order(node: ast.AST) -> Iterator[ast.expr]:
    """What `node` takes the elements of, one after the other, so that their order shows."""
    match node:
        case ast.For(iter=taken) | ast.Starred(value=taken) | ast.YieldFrom(value=taken):
            yield taken
        case (
            ast.ListComp(generators=generators)
            | ast.DictComp(generators=generators)
            | ast.GeneratorExp(generators=generators)
        ):
            yield from (generator.iter for generator in generators)
        case ast.Assign(targets=[ast.Tuple() | ast.List()], value=value):
            yield value
        case ast.Call(func=ast.Name(id=name), args=args) if name in IN_ORDER:
            yield from args
        case ast.Call(func=ast.Attribute(attr=name), args=args) if name in IN_ORDER:
            yield from args


def _own(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    todo: list[ast.AST] = [function.args, *(function.body if isinstance(function.body, list) else [function.body])]
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo.extend(ast.iter_child_nodes(node))


def _besides_function(node: ast.Call) -> list[ast.expr]:
    """The arguments of `ctx.run` that are worked out in the saga: all but the functions."""
    others = [*node.args[1:], *(keyword.value for keyword in node.keywords if keyword.arg not in FOR_THE_WORKER)]
    for function in [*node.args[:1], *(keyword.value for keyword in node.keywords if keyword.arg in FOR_THE_WORKER)]:
        if isinstance(function, ast.Call):  # partial(fn, ...) is called in the saga, fn is not
            others += [*function.args[1:], *(keyword.value for keyword in function.keywords)]
    return others
