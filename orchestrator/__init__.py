"""Define sagas, and run them.

    from kompensate.orchestrator import Application, Saga, Service, Step

Importing this costs nothing: only the standard library and the kernel are loaded.
"""

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.saga import DefinitionError, RetryPolicy, Saga, Scope, Step, saga
from kompensate.orchestrator.kernel.context import Context, Service
from kompensate.orchestrator.kernel.errors import FailSaga, StepFailed, StepInDoubt, StepRefused
from kompensate.orchestrator.kernel.policy import Policy

__all__ = [
    "Application",
    "Context",
    "DefinitionError",
    "FailSaga",
    "Policy",
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
