"""The participants of a test, scripted: what they were sent, and what they answer.

As the real ones they know a command by its id: sent again, it is answered again as before, or still not.
"""

import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple, get_type_hints

from kompensate.orchestrator.definitions.application import Application
from kompensate.orchestrator.definitions.saga import Saga
from kompensate.orchestrator.definitions.steps import Step
from kompensate.orchestrator.testing.answers import Answer, InTurn, Script, as_answer, done
from kompensate.schemas.envelope import content_type
from kompensate.schemas.formats import SagaPayloads
from kompensate.schemas.messages import Command, Reply


@dataclass(slots=True)
class Seen:
    """A command that was sent. `message` is of the command's class where the test or the saga tells it, else JSON.

    `type` is its contract's name, `phase` forward or compensate; `deliveries` counts how often it was sent.
    """

    id: str
    saga_id: str
    type: str
    step: str
    phase: str
    attempt: int
    message: Any
    at: int
    deliveries: int = 1


class Response(NamedTuple):
    """A reply under way: on which topic, and how many ms later."""

    topic: str
    saga_id: str
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    after: int


class Services:
    """All participants of `application`. Unless a script says otherwise every command is done, with null."""

    def __init__(self, application: Application, payloads: SagaPayloads) -> None:
        self._payloads = payloads
        self.seen: dict[str, Seen] = {}
        self._services = application.services
        self._types = _declared_types(application)
        self._scripts: dict[str, Script] = {}
        self._turns: dict[str, int] = {}
        self._answers: dict[str, Answer] = {}

    def on(self, command: type | str, answer: Script) -> None:
        """From now on commands of that type are answered so. Raises ValueError for a service that is not there."""
        if isinstance(command, str):
            service, dot, _ = command.rpartition(".")
            if not dot or service not in self._services:
                raise ValueError(
                    f"on: expected a command's class, or its name as <service>.<class> with a service of "
                    f"{', '.join(self._services)}; got {command!r}"
                )
            name = command
        else:
            name = command.__name__
            self._types[name] = command
        kind = _parameter(answer) if callable(answer) else None
        if kind is not None:
            self._types[name] = kind
        self._scripts[name] = answer
        self._turns[name] = 0

    def take(self, command: Command, now: int) -> list[Response]:
        """A command arrives: the replies that will come of it."""
        seen, payloads = self.seen.get(command.id), self._payloads.for_saga(command.saga_id)
        if seen is not None:
            seen.deliveries += 1
            answer = self._answers[command.id]
            if now < seen.at + round(answer.after * 1000):
                return []  # the answer is on its way
            return _responses(command, answer, 0, payloads)
        message = payloads.decode(command.payload, self._type_of(command.type))
        seen = Seen(
            command.id, command.saga_id, command.type, command.step, command.phase, command.attempt, message, now
        )
        self.seen[command.id] = seen
        self._answers[command.id] = answer = self._answer(seen)
        return _responses(command, answer, round(answer.after * 1000), payloads)

    def _answer(self, seen: Seen) -> Answer:
        short = seen.type.rpartition(".")[2]
        name = seen.type if seen.type in self._scripts else short
        script = self._scripts.get(name, done())
        if isinstance(script, InTurn):
            turn = self._turns[name]
            self._turns[name] = turn + 1
            return script.answers[min(turn, len(script.answers) - 1)]
        if callable(script):
            return as_answer(script(seen.message))
        return as_answer(script)

    def _type_of(self, name: str) -> Any:
        return self._types.get(name) or self._types.get(name.rpartition(".")[2]) or Any


def _responses(command: Command, answer: Answer, after: int, payloads: SagaPayloads) -> list[Response]:
    if answer.outcome is None:
        return []
    service, payload = command.type.rpartition(".")[0], payloads.encode(answer.value)
    reply = Reply(
        f"row-{command.id}",
        command.id,
        command.saga_id,
        f"{command.type}Reply",
        service,
        answer.outcome,
        payload,
        content_type(payload),
        command.trace,
    )
    response = Response(command.reply_to, command.saga_id, reply.payload, reply.headers(), after)
    return [response] * answer.copies


def _declared_types(application: Application) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for saga in application.sagas.values():
        steps = saga.steps.values() if isinstance(saga, Saga) else ()
        for step in (step for step in steps if isinstance(step, Step)):
            for type_ in (step.command, step.undo):
                if isinstance(type_, type):
                    found[f"{step.service}.{type_.__name__}"] = type_
    return found


def _parameter(function: Any) -> Any:
    """The type that a function of a command says it takes, None where it does not say."""
    try:
        names = list(inspect.signature(function).parameters)
        return get_type_hints(function).get(names[0]) if names else None
    except (TypeError, ValueError, NameError):
        return None
