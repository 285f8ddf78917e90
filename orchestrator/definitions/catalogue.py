"""From a saga's name to its program: today's code, and the plans that sagas in flight follow."""

from collections.abc import Coroutine
from typing import Any

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.plan import Plan
from kompensate.orchestrator.definitions.saga import AsyncSaga, Saga
from kompensate.orchestrator.kernel.context import Context
from kompensate.orchestrator.kernel.contracts import Payloads
from kompensate.schemas.formats import payloads_of
from kompensate.schemas.payloads import PayloadUnavailable


class Declared:
    """A declared saga as the kernel sees it. `plans` is the catalogue's, by hash."""

    def __init__(self, saga: Saga, application: Application, payloads: Payloads, plans: dict[str, Plan]) -> None:
        self.name, self.version = saga.name, saga.version
        self.payloads = payloads
        self.services, self.sagas = application.services, tuple(sorted(application.sagas))
        self.limits = tuple(sorted(application.limits))
        self._saga = saga
        self._plans = plans
        self._hash = saga.plan.hash

    def plan_hash(self) -> str | None:
        return self._hash

    def program(self, context: Context, payload: bytes, plan: str | None) -> Coroutine[Any, Any, Any]:
        if plan is None or plan not in self._plans:
            raise LookupError(
                f"saga {self.name!r}: expected the plan {plan!r} that it follows in the state topic, got none"
            )
        try:
            value = context.payloads.decode(payload, self._saga.input)
        except PayloadUnavailable as error:
            return _unavailable(error)
        return self._saga.coroutine(context, value, self._plans[plan])


class Written:
    """An `async def` saga as the kernel sees it."""

    def __init__(self, saga: AsyncSaga, application: Application, payloads: Payloads) -> None:
        self.name, self.version = saga.name, saga.version
        self.payloads = payloads
        self.services, self.sagas = application.services, tuple(sorted(application.sagas))
        self.limits = tuple(sorted(application.limits))
        self._saga = saga

    def plan_hash(self) -> str | None:
        return None

    def program(self, context: Context, payload: bytes, plan: str | None) -> Coroutine[Any, Any, Any]:
        if plan is not None:
            raise LookupError(f"saga {self.name!r}: expected the declared steps it started with, got an async def")
        kind = Any if self._saga.input is None else self._saga.input
        try:
            value = context.payloads.decode(payload, kind)
        except PayloadUnavailable as error:
            return _unavailable(error)
        return self._saga.coroutine(context, value)


async def _unavailable(error: PayloadUnavailable) -> None:
    """The program of a saga whose input cannot be read now: it begins, and is held until it can be."""
    raise error


class Catalogue:
    """The definitions of one application, and every plan met in the state topic."""

    def __init__(self, application: Application) -> None:
        payloads = self.payloads = payloads_of(application.payloads, application.name)
        self.plans: dict[str, Plan] = {}
        self._definitions: dict[tuple[str, int], Declared | Written] = {}
        self._today = {name: saga.version for name, saga in application.sagas.items()}
        for key, saga in application.versions.items():
            if isinstance(saga, Saga):
                self.plans[saga.plan.hash] = saga.plan
                self._definitions[key] = Declared(saga, application, payloads, self.plans)
            else:
                self._definitions[key] = Written(saga, application, payloads)

    def find(self, name: str, version: int | None = None) -> Declared | Written | None:
        """The definition of that name in that version (None: the one that new sagas follow), or None."""
        return self._definitions.get((name, self._today.get(name, 1) if version is None else version))

    def names(self) -> list[str]:
        return sorted(self._today)
