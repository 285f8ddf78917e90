"""Define sagas, and run them.

    from kompensate.orchestrator import Application, Saga, Service, Step

Importing this costs nothing: only the standard library and the kernel are loaded.
"""

from kompensate.orchestrator.definitions.application import Application, Limit
from kompensate.orchestrator.definitions.saga import DefinitionError, Saga, Scope, Step, saga
from kompensate.orchestrator.kernel.context import Context, Service
from kompensate.orchestrator.kernel.errors import (
    FailSaga,
    NotDone,
    OperationCancelled,
    Refuse,
    StepFailed,
    StepInDoubt,
    StepRefused,
)
from kompensate.orchestrator.kernel.policy import Policy, RetryPolicy

__all__ = [
    "Application",
    "Context",
    "DefinitionError",
    "FailSaga",
    "Limit",
    "NotDone",
    "OperationCancelled",
    "Policy",
    "Refuse",
    "RetryPolicy",
    "Saga",
    "Scope",
    "Service",
    "Step",
    "StepFailed",
    "StepInDoubt",
    "StepRefused",
    "saga",
]
