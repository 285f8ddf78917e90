"""How sagas are written down: a list of steps, or one `async def`.

A declared saga's steps become a *plan*, which is data only; the plan is stored with the sagas that follow
it, so one in flight keeps the order and policies it started with. What a plan cannot hold, the
callables that make commands, is looked up by step name in today's code.
"""

import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from kompensate.orchestrator.definitions.checks import check_parts
from kompensate.orchestrator.definitions.messages import message
from kompensate.orchestrator.definitions.plan import Plan, PlannedStep, planned
from kompensate.orchestrator.definitions.steps import DefinitionError, Make, Part, Scope, Step, SubSaga
from kompensate.orchestrator.kernel.context import Context
from kompensate.orchestrator.kernel.operation import Operation
from kompensate.orchestrator.kernel.tables import CHILD


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
        steps: Sequence[Part],
        *,
        result: Make | None = None,
        version: int = 1,
    ) -> None:
        self.name, self.version = name, check_version(name, version)
        self.input = input
        self._result = result
        self.steps: Mapping[str, Step | SubSaga] = {step.name: step for step in check_parts(name, input, steps)}
        self.plan = Plan(name, planned(steps))
        self.services = tuple(dict.fromkeys(step.service for step in self.plan.steps if step.service != CHILD))
        self.limits = {step.name: step.limit for step in self.plan.steps if step.limit}
        self.children = tuple(step.type for step in self.plan.steps if step.service == CHILD)

    def coroutine(self, context: Context, value: Any, plan: Plan) -> Coroutine[Any, Any, Any]:
        """The one built-in program, following `plan`. Raises LookupError where today's code lacks a step."""
        if plan is not self.plan:
            self._check_followable(plan)
        return _follow(context, plan, self, value)

    def _check_followable(self, plan: Plan) -> None:
        """Today's code must still have what an older plan names; its policies may differ."""
        today = {step.name: step for step in self.plan.steps}
        for followed in plan.steps:
            step = today.get(followed.name)
            if step is None or (step.type, step.undo_type) != (followed.type, followed.undo_type):
                got = f"command {step.type!r} and undo {step.undo_type!r}" if step else "none of that name"
                raise LookupError(
                    f"saga {self.name!r} follows plan {plan.hash}: expected step {followed.name!r} with command "
                    f"{followed.type!r} and undo {followed.undo_type!r} in the code, got {got}"
                )

    def finish(self, scope: Scope) -> object:
        """The saga's result."""
        return None if self._result is None else self._result(scope)


async def _follow(context: Context, plan: Plan, saga: Saga, value: Any) -> object:
    """The program of every declared saga."""
    scope = Scope(value)
    steps, results = saga.steps, scope.results
    for group in plan.groups:
        begun: dict[str, Operation | None] = {}
        for step in group:
            begun[step.name] = _begin(context, step, steps[step.name], scope)
        if len(begun) > 1:
            await context.gather(*[operation for operation in begun.values() if operation is not None])
        for name, operation in begun.items():
            results[name] = None if operation is None else await operation
    return saga.finish(scope)


def _begin(context: Context, planned: PlannedStep, step: Step | SubSaga, scope: Scope) -> Operation | None:
    """The step's operation; None where the step is left out."""
    if step.when is not None and not step.when(scope):
        return None
    # A limit that is gone from the code since the saga started is none.
    limit = planned.limit if planned.limit in context.limits else ""
    priority = (step.priority(scope) if callable(step.priority) else step.priority) if limit else 0
    if isinstance(step, SubSaga):
        value = scope.input if step.make is None else step.make(scope)
        return context.child(
            planned.type,
            value,
            step=planned.name,
            detached=step.detached,
            on_close=step.on_close,
            returns=step.returns,
            limit=limit,
            priority=priority,
        )
    undo = None if planned.undo_type is None else step.undo_message
    return context.planned(
        planned,
        message(step.command, step.make, scope),
        None if undo is None else message(undo, step.make_undo, scope),
        step.returns,
        (limit, priority, None if step.key is None else step.key(scope)),
    )


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
