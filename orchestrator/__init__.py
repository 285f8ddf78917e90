"""Define sagas, and run them.

    from kompensate.orchestrator import Application, Saga, Service, Step

Importing this costs nothing: only the standard library and the kernel are loaded.
"""

from kompensate.orchestrator.definitions.application import Application, Limit
from kompensate.orchestrator.definitions.fromtopic import FromTopic, Incoming
from kompensate.orchestrator.definitions.saga import Saga, saga
from kompensate.orchestrator.definitions.schedule import Schedule
from kompensate.orchestrator.definitions.steps import NOTHING, DefinitionError, Parallel, Scope, Step, SubSaga
from kompensate.orchestrator.kernel.calls import Service
from kompensate.orchestrator.kernel.context import Context
from kompensate.orchestrator.kernel.errors import (
    FailSaga,
    NotDone,
    OperationCancelled,
    Refuse,
    StepFailed,
    StepInDoubt,
    StepRefused,
)
from kompensate.orchestrator.kernel.operation import Operation
from kompensate.orchestrator.kernel.policy import Policy, RetryPolicy

__all__ = [
    "NOTHING",
    "Application",
    "Context",
    "DefinitionError",
    "FailSaga",
    "FromTopic",
    "Incoming",
    "Limit",
    "NotDone",
    "Operation",
    "OperationCancelled",
    "Parallel",
    "Policy",
    "Refuse",
    "RetryPolicy",
    "Saga",
    "Schedule",
    "Scope",
    "Service",
    "Step",
    "StepFailed",
    "StepInDoubt",
    "StepRefused",
    "SubSaga",
    "saga",
]
